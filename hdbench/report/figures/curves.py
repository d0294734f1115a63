"""Training curves."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from hdbench.report.figures.base import Figure
from hdbench.report.figures.sources import Sources, histories, scalar_of
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
from hdbench.suite.arms import head_of, is_adaptive

RESIDUAL = "trajectory stage:\nmean square residual"
GRADIENT = r"generator/(?!gan_)\w+_gradient_rms"  # of the method that stage 2 is, by its objective
STAGE_TWO = {  # labels by the scalar's name, a pattern
    r"critic/fake_loss": "fake velocity loss",
    GRADIENT: "matching gradient,\nroot mean square",
    r"critic/accuracy": "critic accuracy",
    r"critic/token_entropy": "entropy of token\nweights† / log N",
}


class Curves(Figure):
    """A column for each start: its trajectory stage's residual, then stage 2 head by head."""

    name = "curves"

    def draw(self, sources: Sources) -> plt.Figure:
        plan = sources.plan
        groups = columns_of(sources)
        refined = [arm for arms in by_kind(plan).values() for arm in arms]
        shape = (1 + len(STAGE_TWO), max(len(groups), 1))
        figure, axes = plt.subplots(*shape, figsize=(7.2, 7.4), squeeze=False, layout="constrained")
        for column, (heading, arms) in zip(axes.T, groups.items(), strict=False):
            column[0].set_title(heading, weight="bold")
            trajectory = histories(sources, arms[0], "trajectory")
            residual = scalar_of(trajectory, "student/mean_square")
            plot_chains(column[0], residual, color=REFERENCE)
            logarithmic(column[0])
            for arm in arms:
                recorded = histories(sources, arm, "refine")
                for axis, scalar in zip(column[1:], STAGE_TWO, strict=True):
                    if scalar != r"critic/token_entropy" or is_adaptive(head_of(plan.arms[arm])):
                        plot_chains(axis, matching(recorded, scalar), **head_style(plan, arm))
        label(axes)
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
        lines = (
            "Lines: rolling medians, mean over chains; bands: from the lowest to the highest chain"
        )
        return note_below(figure, sources.notes(refined, lines))


def columns_of(sources: Sources) -> dict[str, list[str]]:
    """Arms by heading: stage 2 by its start, then trajectory stages from which none starts."""
    plan = sources.plan
    groups = by_kind(plan)
    used = [plan.arms[arm].trajectory for arms in groups.values() for arm in arms]
    return groups | {
        sources.label(arm): [arm]
        for arm in before_stage_two(plan)
        if plan.arms[arm].trajectory not in (None, *used)
    }


def matching(recorded: dict[int, pd.DataFrame], pattern: str) -> pd.DataFrame:
    """One column a chain, of the first recorded scalar of that pattern."""
    chosen = {}
    for seed, history in recorded.items():
        scalars = history.filter(regex=f"^{pattern}$")
        if len(scalars.columns):
            chosen[seed] = scalars.iloc[:, 0]
    return pd.DataFrame(chosen)


def label(axes: np.ndarray) -> None:
    """Labels, common scales of a row, and no axes where nothing is drawn."""
    for axis in (axis for axis in axes.flat if not axis.lines):
        axis.set_axis_off()
    for line, text in zip(axes, (RESIDUAL, *STAGE_TWO.values()), strict=True):
        drawn = [axis for axis in line if axis.lines]
        for axis in drawn[1:] if text != RESIDUAL else []:
            axis.sharey(drawn[0])
        for axis in drawn[:1]:
            axis.set_ylabel(text)
            axis.autoscale(axis="y")
    for column in axes.T:
        parts = ((column[:1], "step of the trajectory stage"), (column[1:], "generator step"))
        for line, text in parts:
            for axis in [axis for axis in line if axis.lines][-1:]:
                axis.set_xlabel(text)
