"""Quality against the cost of sampling and of training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator
from scipy.optimize import isotonic_regression

from hdbench.metrics.records import Interval
from hdbench.report.figures.base import Figure
from hdbench.report.figures.sources import Sources
from hdbench.report.figures.style import (
    REFERENCE,
    before_stage_two,
    error_bars,
    floor,
    head_handles,
    join,
    legends,
    logarithmic,
    marker_handles,
    note_below,
    nothing,
    point_style,
    title_of,
)
from hdbench.report.numbers import Entry
from hdbench.suite.arms import equal_total

Places = dict[Entry, float]  # x
APART = 0.022  # of points of equal sampling cost, in powers of ten
HEADS = "Head (in this order from left to right)"


class Quality(Figure):
    """FD test against what sampling costs, and against what training cost."""

    name = "quality"

    def draw(self, sources: Sources) -> plt.Figure:
        plan = sources.plan
        numbers = sources.numbers
        models = [name for name, arm in plan.arms.items() if not arm.real]
        entries = sorted(
            (entry for arm in models for entry in numbers.entries(arm)),
            key=lambda e: (not plan.arms[e.arm].refine, equal_total(plan, e.arm)),
        )
        known = sources.numbers_of(entries, numbers.counted(numbers.distance))
        distances = {entry: interval for entry, (interval,) in known.items()}
        costs = sources.numbers_of(distances, "training_forward_equivalents")
        if not distances:
            return nothing(sources, "the metrics have none of its arms")
        figure, (sampling, training) = plt.subplots(
            2, 1, figsize=(7.2, 6.6), sharey=True, layout="constrained"
        )
        refined = [entry for entry in distances if plan.arms[entry.arm].refine]
        rest = [entry for entry in distances if not plan.arms[entry.arm].refine]
        places = sampling_places(refined, rest)
        draw_points(sampling, sources, distances, places)
        spent = [interval.value / 1e3 for (interval,) in costs.values()]
        apart = spread(spent, 0.0095 * max([*spent, 1]))
        draw_points(training, sources, distances, dict(zip(costs, apart, strict=True)))
        label_sampling(sampling, distances, [places[entry] for entry in refined])
        training.set(
            xlabel="training after the teacher's: thousand forward-equivalents (kFE); "
            "equal costs are spread sideways",
            title="Quality against the cost of training",
        )
        arms = dict.fromkeys(entry.arm for entry in refined)
        legends(
            figure,
            {
                HEADS: head_handles(plan, arms, linestyle="none", marker="o", markersize=4),
                "Stage 2": marker_handles(sources, arms),
                "Without stage 2 (joined: by steps)": [
                    *marker_handles(sources, dict.fromkeys(entry.arm for entry in rest)),
                    *sampling.get_legend_handles_labels()[0],
                ],
            },
            wide=[HEADS],
        )
        return note_below(figure, sources.notes(arms, sources.intervals_are()))


def spread(x: Sequence[float], distance: float) -> np.ndarray:
    """The nearest positions in the same order that are at least `distance` apart."""
    order = np.argsort(x, kind="stable")
    shift = distance * np.arange(len(x))
    positions = np.empty(len(x))
    positions[order] = isotonic_regression(np.asarray(x, float)[order] - shift).x + shift
    return positions


def sampling_places(refined: list[Entry], rest: list[Entry]) -> Places:
    """Network evaluations, spread so that points can be told apart; stage 2 to the left of one."""
    places = dict(zip(rest, spread([math.log10(e.nfe) for e in rest], APART), strict=True))
    left = APART * (len(refined) + 2) / 2
    near = spread([math.log10(e.nfe) for e in refined], APART) - left
    places |= dict(zip(refined, near, strict=True))
    return {entry: 10**x for entry, x in places.items()}


def draw_points(
    axis: Axes, sources: Sources, distances: dict[Entry, Interval], places: Places
) -> None:
    """Distances with intervals, models of several numbers of steps joined, and the noise floor."""
    numbers = sources.numbers
    for arm in before_stage_two(sources.plan):
        points = [(x, distances[e].value) for e, x in places.items() if e.arm == arm]
        if points:
            join(axis, points)
    for entry, x in places.items():
        style = point_style(sources.plan, entry.arm) | {"markersize": 4}
        error_bars(axis, x, distances[entry], style)
    floor(sources, axis, numbers.counted(numbers.distance))
    axis.set_ylabel(f"{title_of(numbers, numbers.distance)}, lower is better")
    logarithmic(axis)


def label_sampling(axis: Axes, entries: Sequence[Entry], of_stage_two: list[float]) -> None:
    """Ticks at numbers of evaluations; what was spread around one evaluation is shaded."""
    if of_stage_two:
        left = min(of_stage_two) / 1.05
        axis.axvspan(left, 10**-APART, color=REFERENCE, alpha=0.07, zorder=0, linewidth=0)
        axis.set_xlim(left, 1.15 * max(entry.nfe for entry in entries))
        middle = (left * 10**-APART) ** 0.5
        axis.text(
            middle,
            0.97,
            "stage 2: one evaluation",
            transform=axis.get_xaxis_transform(),
            ha="center",
            va="top",
            fontsize=6,
            color=REFERENCE,
        )
    evaluated = sorted({entry.nfe for entry in entries})
    axis.set(
        title="Quality against the cost of sampling",
        xscale="log",
        xticks=evaluated,
        xticklabels=evaluated,
        xlabel="network evaluations an image (NFE; guidance counts twice); "
        "shaded: one evaluation, spread sideways",
    )
    axis.xaxis.set_minor_locator(NullLocator())
