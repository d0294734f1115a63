"""Precision against recall."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from hdbench.metrics.records import Interval
from hdbench.report.figures.base import Figure
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
from hdbench.report.numbers import Entry
from hdbench.suite.arms import equal_total, head_of

Points = dict[Entry, list[Interval]]  # recall and precision


class PrecisionRecall(Figure):
    """Precision against recall; on the right the part around stage 2, larger, without intervals."""

    name = "precision_recall"

    def draw(self, sources: Sources) -> plt.Figure:
        plan = sources.plan
        numbers = sources.numbers
        shown = [name for name, arm in plan.arms.items() if arm.real != "train"]
        entries = (entry for arm in shown for entry in numbers.entries(arm))
        points = sources.numbers_of(entries, *map(numbers.counted, ("recall", "precision")))
        if not points:
            return nothing(sources, "the metrics have none of its arms")
        figure, (full, inset) = plt.subplots(1, 2, figsize=(7.2, 4.4), layout="constrained")
        for axis in (full, inset):
            draw_points(axis, sources, points, enlarged=axis is inset)
            axis.set(xlabel="recall: share of real images near samples")
        full.set(
            ylabel="precision: share of samples near real images",
            title="All, with 95% intervals both ways",
        )
        frame_stage_two(full, inset, sources, points)
        arms = [entry.arm for entry in points if plan.arms[entry.arm].refine]
        models = dict.fromkeys(entry.arm for entry in points if not plan.arms[entry.arm].real)
        letters = {head: rf"$\mathrm{{{letter}}}$" for head, letter in HEAD_LETTERS.items()}
        heads = head_handles(plan, arms, linestyle="none", marker=letters, markeredgewidth=0.2)
        rest = [arm for arm in models if arm not in arms]
        legends(
            figure,
            {
                "Head": heads,
                "Stage 2": marker_handles(sources, arms),
                "Without stage 2 (numbers: steps)": marker_handles(sources, rest),
            },
            wide=["Head"],
        )
        return note_below(figure, sources.notes(arms, sources.intervals_are()))


def draw_points(axis: Axes, sources: Sources, points: Points, enlarged: bool) -> None:
    """Every point, with its intervals or `enlarged` with its head's letter."""
    plan = sources.plan
    for arm in before_stage_two(plan):
        places = [(r.value, p.value) for entry, (r, p) in points.items() if entry.arm == arm]
        if places:
            join(axis, places)
    for entry, (recall, precision) in points.items():
        if plan.arms[entry.arm].real:
            style = {"marker": "h", "color": REFERENCE, "markersize": 7, "linestyle": "none"}
        else:
            style = point_style(plan, entry.arm) | {"markersize": 7 if enlarged else 4.5}
        if enlarged:
            axis.plot(recall.value, precision.value, **style)
        else:
            error_bars(axis, recall.value, precision, style, recall.half_width, 0.3)
        place = (recall.value, precision.value)
        letter = HEAD_LETTERS.get(head_of(plan.arms[entry.arm]))
        if not letter:
            name_point(axis, sources, entry, place)
        elif enlarged:
            axis.annotate(
                letter,
                place,
                ha="center",
                va="center_baseline",
                fontsize=5,
                color=style["color"] if equal_total(plan, entry.arm) else "white",
                annotation_clip=True,
            )


def name_point(axis: Axes, sources: Sources, entry: Entry, place: tuple[float, float]) -> None:
    """Beside a point without a head: its sampling steps, or what real images it is."""
    real = sources.plan.arms[entry.arm].real
    axis.annotate(
        sources.label(entry.arm) if real else str(entry.steps),
        place,
        (0, -11) if real else (6, 2),
        textcoords="offset points",
        ha="center" if real else "left",
        fontsize=6,
        color=REFERENCE,
        annotation_clip=True,
    )


def frame_stage_two(full: Axes, inset: Axes, sources: Sources, points: Points) -> None:
    """The surroundings of stage 2: limits of the inset, and a frame in the full plot."""
    arms = sources.plan.arms
    near = [[r.value, p.value] for entry, (r, p) in points.items() if arms[entry.arm].refine]
    if not near:
        inset.set_axis_off()
        return
    low = np.min(near, 0)
    high = np.max(near, 0)
    margin = 0.12 * (high - low) + 0.004
    left, bottom = low - margin
    right, top = high + margin
    halves = [
        interval.half_width
        for entry, pair in points.items()
        if arms[entry.arm].refine
        for interval in pair[1:]
    ]
    noise = np.median(halves) > (high - low)[1]
    said = "points differ by less than their intervals" if noise else "without intervals"
    inset.set(xlim=(left, right), ylim=(bottom, top), title=f"Part in the frame: {said}")
    frame = Rectangle(
        (left, bottom), right - left, top - bottom, fill=False, edgecolor="0.2", linewidth=0.7
    )
    full.add_patch(frame)
