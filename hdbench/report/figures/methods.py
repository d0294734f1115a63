"""Every method by sampling steps and by training cost."""

from __future__ import annotations

import math
from itertools import cycle
from string import ascii_letters

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from hdbench.metrics.records import MISSING, Interval
from hdbench.report.figures.base import Figure
from hdbench.report.figures.sources import Sources, steps_text
from hdbench.report.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    logarithmic,
    note_below,
    nothing,
    title_of,
)
from hdbench.report.numbers import Entry
from hdbench.report.tables import TABLES
from hdbench.suite.arms import base_arm, is_teacher
from hdbench.suite.budget import total_cost

Distances = dict[Entry, Interval]
Styles = dict[int, tuple[str, str]]  # colour and marker by number of sampling steps
COLOURS = (BLACK, ORANGE, SKY, GREEN, VERMILION, BLUE, PURPLE)


class Methods(Figure):
    """FD test of every method by sampling steps, and by training cost with a letter a method."""

    name = "methods"
    tables = ()

    def draw(self, sources: Sources) -> plt.Figure:
        plan = sources.plan
        numbers = sources.numbers
        rows = [arm for arm in TABLES["methods"]().rows(plan) if not plan.arms[arm].real]
        entries = (entry for arm in rows for entry in numbers.entries(arm))
        known = sources.numbers_of(entries, numbers.counted(numbers.distance))
        distances = {entry: interval for entry, (interval,) in known.items()}
        if not distances:
            return nothing(sources, "the metrics have no method")
        first = {entry.arm: distances[entry].value for entry in reversed(distances)}
        arms = sorted(dict.fromkeys(entry.arm for entry in distances), key=first.__getitem__)
        letters = dict(zip(arms, (*ascii_letters, *map(str, range(len(arms)))), strict=False))
        counts = sorted({entry.steps for entry in distances})
        looks = zip(cycle(COLOURS), cycle("osD^vP*"), strict=False)
        styles = dict(zip(counts, looks, strict=False))
        size = (7.2, 1.6 + 0.19 * len(arms))
        figure, (by_steps, by_cost) = plt.subplots(
            1, 2, figsize=size, layout="constrained", width_ratios=(1.25, 1)
        )
        draw_by_steps(by_steps, distances, arms, styles)
        draw_by_cost(by_cost, sources, distances, letters, styles)
        fd = title_of(numbers, numbers.distance)
        by_steps.set(
            yticks=range(len(arms)),
            yticklabels=[f"{sources.label(arm)}  {letters[arm]}" for arm in arms],
            xlabel=f"{fd}, lower is better",
            title="Quality by steps of sampling",
        )
        logarithmic(by_steps, "x")
        by_steps.invert_yaxis()
        by_cost.set(
            xlabel="training after the teacher's: core-seconds",
            ylabel=fd,
            title="Fewest steps, and the training's time",
        )
        logarithmic(by_cost)
        figure.legend(
            handles=[step_handle(count, *styles[count]) for count in counts],
            loc="upper left",
            bbox_to_anchor=(0, -0.01),
            ncol=len(counts),
        )
        notes = sources.notes(arms, compute(sources, arms), sources.intervals_are(real=False))
        return note_below(figure, notes)


def draw_by_steps(axis: Axes, distances: Distances, arms: list[str], styles: Styles) -> None:
    """A line a method, its numbers of steps a little apart."""
    for place, arm in enumerate(arms):
        entries = sorted((e for e in distances if e.arm == arm), key=lambda e: e.steps)
        shifts = np.linspace(-0.2, 0.2, len(entries)) if len(entries) > 1 else [0.0]
        for entry, shift in zip(entries, shifts, strict=True):
            colour, marker = styles[entry.steps]
            half = distances[entry].half_width
            axis.errorbar(
                distances[entry].value,
                place + shift,
                marker=marker,
                color=colour,
                markersize=3.5,
                xerr=None if math.isnan(half) else half,
                elinewidth=0.7,
                linestyle="none",
            )


def draw_by_cost(
    axis: Axes, sources: Sources, distances: Distances, letters: dict[str, str], styles: Styles
) -> None:
    """A letter for each trained method at its fewest steps; intervals are in the other panel."""
    trained = []
    for arm in letters:
        entry = min((e for e in distances if e.arm == arm), key=lambda e: e.steps)
        spent = sources.numbers_of([entry], "training_core_seconds").get(entry, [MISSING])[0]
        if not is_teacher(sources.plan.arms[arm]) and math.isfinite(spent.value):
            trained.append((spent.value, distances[entry], entry))
    for cost, interval, entry in trained:
        axis.plot(cost, interval.value, ".", markersize=4, color=styles[entry.steps][0])
        near = [
            other - cost
            for other, level, of in trained
            if of != entry and math.isclose(level.value, interval.value, rel_tol=0.05)
        ]
        left = min(near, key=abs, default=0) > 0  # away from the nearest as high
        axis.annotate(
            letters[entry.arm],
            (cost, interval.value),
            (-2 if left else 2, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            fontsize=7,
        )


def step_handle(count: int, colour: str, marker: str) -> Line2D:
    """Of the legend: the look of a number of sampling steps."""
    look = {"color": colour, "marker": marker, "markersize": 4, "linestyle": "none"}
    return Line2D([], [], label=steps_text(count), **look)


def compute(sources: Sources, arms: list[str]) -> str:
    """Of the note: which methods have the base arm's training compute."""
    plan = sources.plan
    base = base_arm(plan)
    if not base:
        return "Training compute differs"
    total = total_cost(plan, plan.arms[base])
    others = [
        sources.label(arm)
        for arm in arms
        if not is_teacher(plan.arms[arm])
        and abs(total_cost(plan, plan.arms[arm]) / total - 1) > 0.02
    ]
    but = f", but for {', '.join(others)}" if others else ""
    return f"Training compute within 2% of that of {sources.label(base)}{but}"
