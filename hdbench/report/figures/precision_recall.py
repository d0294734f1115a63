"""Precision against recall."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hdbench.report.figures.sources import Sources
from hdbench.report.figures.style import (
    HEAD_LETTERS,
    REFERENCE,
    before_stage_two,
    error_bars,
    head_handles,
    join,
    legends,
    marker_handles,
    note_below,
    nothing,
    point_style,
)
from hdbench.suite.arms import equal_total, head_of


def precision_recall(sources: Sources) -> Figure:
    """Precision against recall; on the right the part around the one-step arms, larger and without intervals."""
    plan, numbers = sources.plan, sources.numbers
    shown = [name for name, arm in plan.arms.items() if arm.real != "train"]
    found = sources.numbers_of(
        (entry for arm in shown for entry in numbers.entries(arm)),
        *map(numbers.counted, ("recall", "precision")),
    )
    if not found:
        return nothing(sources, "the metrics have none of its arms")
    figure, (whole, part) = plt.subplots(1, 2, figsize=(7.2, 4.4), layout="constrained")
    for axis in (whole, part):
        for arm in before_stage_two(plan):
            if entries := [entry for entry in found if entry.arm == arm]:
                join(axis, [(found[entry][0].value, found[entry][1].value) for entry in entries])
        for entry, (recall, precision) in found.items():
            if plan.arms[entry.arm].real:
                style = {"marker": "h", "color": REFERENCE, "markersize": 7, "linestyle": "none"}
            else:
                style = point_style(plan, entry.arm) | {"markersize": 4.5 if axis is whole else 7}
            if axis is whole:
                error_bars(axis, recall.value, precision, style, recall.half_width, 0.3)
            else:
                axis.plot(recall.value, precision.value, **style)
            text = HEAD_LETTERS.get(head_of(plan.arms[entry.arm]))
            if text and axis is part:
                colour = style["color"] if equal_total(plan, entry.arm) else "white"
                axis.annotate(
                    text,
                    (recall.value, precision.value),
                    ha="center",
                    va="center_baseline",
                    fontsize=5,
                    color=colour,
                    annotation_clip=True,
                )
            elif not text:
                real = plan.arms[entry.arm].real
                axis.annotate(
                    sources.label(entry.arm) if real else str(entry.steps),
                    (recall.value, precision.value),
                    (0, -11) if real else (6, 2),
                    textcoords="offset points",
                    ha="center" if real else "left",
                    fontsize=6,
                    color=REFERENCE,
                    annotation_clip=True,
                )
        axis.set(xlabel="recall: share of real images near samples")
    whole.set(
        ylabel="precision: share of samples near real images",
        title="All, with 95% intervals both ways",
    )
    arms = [entry.arm for entry in found if plan.arms[entry.arm].refine]
    if arms:
        near = np.array(
            [
                [recall.value, precision.value]
                for entry, (recall, precision) in found.items()
                if plan.arms[entry.arm].refine
            ]
        )
        low, high = near.min(0), near.max(0)
        margin = 0.12 * (high - low) + 0.004
        (left, bottom), (right, top) = low - margin, high + margin
        part.set(
            xlim=(left, right),
            ylim=(bottom, top),
            title="Part in the frame, larger, without intervals",
        )
        whole.add_patch(
            Rectangle(
                (left, bottom),
                right - left,
                top - bottom,
                fill=False,
                edgecolor="0.2",
                linewidth=0.7,
            )
        )
    else:
        part.set_axis_off()
    letters = {head: rf"$\mathrm{{{letter}}}$" for head, letter in HEAD_LETTERS.items()}
    models = dict.fromkeys(entry.arm for entry in found if not plan.arms[entry.arm].real)
    legends(
        figure,
        {
            "Head": head_handles(plan, arms, linestyle="none", marker=letters, markeredgewidth=0.2),
            "Stage 2": marker_handles(sources, arms),
            "Without stage 2 (numbers: steps)": marker_handles(
                sources, [m for m in models if m not in arms]
            ),
        },
        wide=["Head"],
    )
    return note_below(figure, sources.notes(arms, sources.intervals_are()))
