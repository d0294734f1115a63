"""Every method by sampling steps and by training cost."""

from __future__ import annotations

import math
from itertools import cycle
from string import ascii_letters

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hdbench.metrics.records import MISSING
from hdbench.report.figures.sources import Sources
from hdbench.report.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    error_bars,
    logarithmic,
    note_below,
    nothing,
    title_of,
)
from hdbench.suite.arms import base_arm, is_teacher
from hdbench.suite.budget import total_cost


def methods(sources: Sources) -> Figure:
    """FD test of every method by its sampling steps, and against what its training took; equal letters, equal method."""
    plan, numbers = sources.plan, sources.numbers
    fd = numbers.counted(numbers.distance)
    arms = [name for name in plan.suite.tables.methods.rows if not plan.arms[name].real]
    found = {
        entry: interval
        for entry, (interval,) in sources.numbers_of(
            (entry for arm in arms for entry in numbers.entries(arm)), fd
        ).items()
    }
    if not found:
        return nothing(sources, "the metrics have no method")
    arms = sorted(
        dict.fromkeys(entry.arm for entry in found),
        key=lambda arm: next(
            interval.value for entry, interval in found.items() if entry.arm == arm
        ),
    )
    letters = dict(zip(arms, (*ascii_letters, *map(str, range(len(arms))))))
    steps = sorted({entry.steps for entry in found})
    styles = dict(
        zip(
            steps,
            zip(cycle((BLACK, ORANGE, SKY, GREEN, VERMILION, BLUE, PURPLE)), cycle("osD^vP*")),
        )
    )
    figure, (by_steps, by_cost) = plt.subplots(
        1, 2, figsize=(7.2, 1.6 + 0.19 * len(arms)), layout="constrained", width_ratios=(1.25, 1)
    )
    trained = []
    for place, arm in enumerate(arms):
        own = sorted((entry for entry in found if entry.arm == arm), key=lambda entry: entry.steps)
        shift = dict(zip(own, np.linspace(-0.2, 0.2, len(own)) if len(own) > 1 else [0.0]))
        for entry in own:
            colour, marker = styles[entry.steps]
            by_steps.errorbar(
                found[entry].value,
                place + shift[entry],
                marker=marker,
                color=colour,
                markersize=3.5,
                xerr=None if math.isnan(found[entry].half_width) else found[entry].half_width,
                elinewidth=0.7,
                linestyle="none",
            )
        spent = sources.numbers_of(own[:1], "training_core_seconds").get(own[0], [MISSING])[0]
        if not is_teacher(plan.arms[arm]) and math.isfinite(spent.value):
            trained.append((spent.value, found[own[0]], own[0]))
    for cost, interval, entry in trained:
        error_bars(
            by_cost,
            cost,
            interval,
            {"marker": ".", "markersize": 3, "color": styles[entry.steps][0], "linestyle": "none"},
        )
        near = [
            other - cost
            for other, level, of in trained
            if of != entry and math.isclose(level.value, interval.value, rel_tol=0.05)
        ]
        side, aside = (
            ("right", -2) if min(near, key=abs, default=0) > 0 else ("left", 2)
        )  # away from the nearest as high
        by_cost.annotate(
            letters[entry.arm],
            (cost, interval.value),
            (aside, 0),
            textcoords="offset points",
            ha=side,
            va="center",
            fontsize=7,
        )
    by_steps.set(
        yticks=range(len(arms)),
        yticklabels=[f"{sources.label(arm)}  {letters[arm]}" for arm in arms],
        xlabel=f"{title_of(numbers, numbers.distance)}, lower is better",
        title="Quality by steps of sampling",
    )
    logarithmic(by_steps, "x")
    by_steps.invert_yaxis()
    by_cost.set(
        xlabel="training after the teacher's: core-seconds",
        ylabel=title_of(numbers, numbers.distance),
        title="Quality at its fewest steps, and the training's time",
    )
    logarithmic(by_cost)
    handles = [
        Line2D(
            [],
            [],
            label=f"{count} step{'s' if count > 1 else ''}",
            color=styles[count][0],
            marker=styles[count][1],
            markersize=4,
            linestyle="none",
        )
        for count in steps
    ]
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, -0.01), ncol=len(steps))
    base = base_arm(plan)
    others = [
        sources.label(arm)
        for arm in arms
        if base
        and not is_teacher(plan.arms[arm])
        and abs(total_cost(plan, plan.arms[arm]) / total_cost(plan, plan.arms[base]) - 1) > 0.02
    ]
    equal = (
        f"Training compute within 2% of that of {sources.label(base)}"
        if base
        else "Training compute differs"
    )
    return note_below(
        figure,
        sources.notes(
            arms,
            equal + (f", but for {', '.join(others)}" if base and others else ""),
            sources.intervals_are(real=False),
        ),
    )
