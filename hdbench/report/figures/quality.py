"""Quality against the cost of sampling and of training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from scipy.optimize import isotonic_regression

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
from hdbench.suite.arms import equal_total


def spread(x: Sequence[float], distance: float) -> np.ndarray:
    """The nearest positions in the same order that are at least `distance` apart."""
    order = np.argsort(x, kind="stable")
    shift = distance * np.arange(len(x))
    positions = np.empty(len(x))
    positions[order] = isotonic_regression(np.asarray(x, float)[order] - shift).x + shift
    return positions


def quality(sources: Sources) -> Figure:
    """FD test against what sampling costs, and against what training cost."""
    plan, numbers = sources.plan, sources.numbers
    fd = numbers.counted(numbers.distance)
    models = [name for name, arm in plan.arms.items() if not arm.real]
    entries = sorted(
        (entry for arm in models for entry in numbers.entries(arm)),
        key=lambda e: (not plan.arms[e.arm].refine, equal_total(plan, e.arm)),
    )
    found = sources.numbers_of(entries, fd)
    spent = {
        entry: interval.value / 1e3
        for entry, (interval,) in sources.numbers_of(found, "training_forward_equivalents").items()
    }
    if not found:
        return nothing(sources, "the metrics have none of its arms")
    figure, (sampling, training) = plt.subplots(
        2, 1, figsize=(7.2, 6.6), sharey=True, layout="constrained"
    )
    one = [entry for entry in found if plan.arms[entry.arm].refine]
    rest = [entry for entry in found if not plan.arms[entry.arm].refine]
    apart = 0.022  # of a factor of ten
    evaluations = dict(zip(rest, spread([math.log10(entry.nfe) for entry in rest], apart)))
    evaluations |= zip(
        one, spread([math.log10(entry.nfe) for entry in one], apart) - apart * (len(one) + 2) / 2
    )
    places = {
        sampling: {entry: 10**x for entry, x in evaluations.items()},
        training: dict(
            zip(spent, spread(list(spent.values()), 0.0095 * max([*spent.values(), 1])))
        ),
    }
    for axis, place in places.items():
        for arm in before_stage_two(plan):
            if points := [
                (x, found[entry][0].value) for entry, x in place.items() if entry.arm == arm
            ]:
                join(axis, points)
        for entry, x in place.items():
            error_bars(axis, x, found[entry][0], point_style(plan, entry.arm) | {"markersize": 4})
        floor(sources, axis, fd)
        axis.set_ylabel(f"{title_of(numbers, numbers.distance)}, lower is better")
        logarithmic(axis)
    if one:
        left = min(places[sampling][entry] for entry in one) / 1.05
        sampling.axvspan(left, 10**-apart, color=REFERENCE, alpha=0.07, zorder=0, linewidth=0)
        sampling.set_xlim(left, 1.15 * max(entry.nfe for entry in found))
    evaluated = sorted({entry.nfe for entry in found})
    sampling.set(
        title="Quality against the cost of sampling",
        xscale="log",
        xticks=evaluated,
        xticklabels=evaluated,
        xlabel="network evaluations an image (NFE; guidance counts twice); shaded: one evaluation, spread sideways",
    )
    sampling.xaxis.set_minor_locator(NullLocator())
    training.set(
        xlabel="training after the teacher's: thousand forward-equivalents (kFE); equal costs are spread sideways",
        title="Quality against the cost of training",
    )
    arms = dict.fromkeys(entry.arm for entry in one)
    heads = "Head (in this order from left to right)"
    legends(
        figure,
        {
            heads: head_handles(plan, arms, linestyle="none", marker="o", markersize=4),
            "Stage 2": marker_handles(sources, arms),
            "Without stage 2 (joined: by steps)": [
                *marker_handles(sources, dict.fromkeys(entry.arm for entry in rest)),
                *sampling.get_legend_handles_labels()[0],
            ],
        },
        wide=[heads],
    )
    return note_below(figure, sources.notes(arms, sources.intervals_are()))
