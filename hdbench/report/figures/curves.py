"""Training curves."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from hdbench.report.figures.sources import Sources, dagger, histories, scalar_of
from hdbench.report.figures.style import (
    REFERENCE,
    before_stage_two,
    by_kind,
    head_handles,
    head_style,
    logarithmic,
    note_below,
    nothing,
    plot_chains,
)
from hdbench.suite.arms import head_of


def curves(sources: Sources) -> Figure:
    """A column for each start: the residual of its trajectory stage, and below what stage 2 does, head by head."""
    plan, groups = sources.plan, by_kind(sources.plan)
    refined = [arm for arms in groups.values() for arm in arms]
    used = [plan.arms[arm].trajectory for arm in refined]
    groups |= {
        sources.label(arm): [arm]
        for arm in before_stage_two(plan)
        if plan.arms[arm].trajectory not in (None, *used)
    }
    scalars = {
        "critic/fake_loss": "fake velocity loss",
        "generator/dmd_gradient_rms": "DMD gradient,\nroot mean square",
        "critic/accuracy": "critic accuracy",
        "critic/token_entropy": "entropy of token\nweights† / log N",
    }
    figure, axes = plt.subplots(
        5, max(len(groups), 1), figsize=(7.2, 7.4), squeeze=False, layout="constrained"
    )
    for column, (heading, arms) in zip(axes.T, groups.items()):
        column[0].set_title(heading, weight="bold")
        plot_chains(
            column[0],
            scalar_of(histories(sources, arms[0], "trajectory"), "student/mean_square"),
            color=REFERENCE,
        )
        logarithmic(column[0])
        for arm in arms:
            found = histories(sources, arm, "refine")
            for axis, scalar in zip(column[1:], scalars):
                if scalar != "critic/token_entropy" or dagger(head_of(plan.arms[arm])):
                    plot_chains(axis, scalar_of(found, scalar), **head_style(plan, arm))
    for axis in (axis for axis in axes.flat if not axis.lines):
        axis.set_axis_off()
    for line, label in zip(axes, ("trajectory stage:\nmean square residual", *scalars.values())):
        drawn = [axis for axis in line if axis.lines]
        for axis in drawn[1:] if label in scalars.values() else []:
            axis.sharey(drawn[0])
        for axis in drawn[:1]:
            axis.set_ylabel(label)
            axis.autoscale(axis="y")
    for column in axes.T:
        for line, label in (
            (column[:1], "step of the trajectory stage"),
            (column[1:], "generator step"),
        ):
            for axis in [axis for axis in line if axis.lines][-1:]:
                axis.set_xlabel(label)
    if not any(axis.lines for axis in axes.flat):
        plt.close(figure)
        return nothing(sources, "results has no trained stage")
    figure.legend(
        handles=head_handles(plan, refined),
        title="Head",
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        ncol=7,
    )
    return note_below(
        figure,
        sources.notes(
            refined,
            "Lines: rolling medians, mean over chains; bands: from the lowest to the highest chain",
        ),
    )
