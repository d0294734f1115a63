"""Paired differences between arms."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from hdbench.metrics.records import Interval
from hdbench.report.document import for_people
from hdbench.report.figures.sources import Sources, dagger
from hdbench.report.figures.style import (
    SIGNED,
    kind_of,
    note_below,
    nothing,
    point_style,
    stage_two,
    title_of,
)
from hdbench.suite.arms import (
    equal_total,
    head_name,
    head_of,
    same_from_trajectory,
    same_without_head,
)


def forest(sources: Sources) -> Figure:
    """Paired differences of FD test: each head against none, and each start of stage 2 against the suite's own."""
    plan, numbers = sources.plan, sources.numbers
    panels = {
        "A discriminator head, against none": same_without_head,
        "Another start of stage 2, same head": same_from_trajectory,
    }
    grouped = [groups_of_differences(sources, reference) for reference in panels.values()]
    if not any(grouped):
        return nothing(sources, "the metrics have no two arms that are compared")
    lines = max(sum(len(group) + 1.3 for group in groups.values()) for groups in grouped)
    figure, axes = plt.subplots(
        1, 2, figsize=(7.2, 0.9 + 0.155 * lines), sharex=True, layout="constrained"
    )
    for axis, title, groups in zip(axes, panels, grouped):
        y, ticks = 0.0, {}
        for heading, group in groups.items():
            axis.text(
                0,
                y,
                heading,
                transform=axis.get_yaxis_transform(),
                fontsize=7,
                weight="bold",
                va="center",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
                zorder=3,
            )
            for arm, interval in group.items():
                y += 1
                axis.errorbar(
                    interval.value,
                    y,
                    xerr=None if math.isnan(interval.half_width) else interval.half_width,
                    elinewidth=1,
                    **point_style(plan, arm) | {"markersize": 4},
                )
                axis.text(
                    1.02,
                    y,
                    for_people(SIGNED, interval),
                    transform=axis.get_yaxis_transform(),
                    fontsize=6.5,
                    va="center",
                )
                ticks[y] = head_name(plan.arms[arm]) + dagger(head_of(plan.arms[arm]))
            y += 1.3
        axis.axvline(0, color="0.2", linewidth=0.8, zorder=1)
        axis.set(
            ylim=(lines - 0.3, -1.6),
            yticks=list(ticks),
            yticklabels=list(ticks.values()),
            title=title,
            xlabel=f"difference of {title_of(numbers, numbers.distance)}",
        )
        axis.grid(axis="y", visible=False)
        axis.spines["left"].set_visible(False)
        axis.tick_params(axis="y", length=0)
        for text, side, x in (("← better", "right", -3), ("worse →", "left", 3)):
            axis.annotate(
                text,
                (0, -1.1),
                (x, 0),
                textcoords="offset points",
                ha=side,
                va="center",
                fontsize=6.5,
            )
    figure.get_layout_engine().set(wspace=0.08)
    arms = [arm for groups in grouped for group in groups.values() for arm in group]
    unknown = any(
        math.isnan(interval.half_width)
        for groups in grouped
        for g in groups.values()
        for interval in g.values()
    )
    return note_below(
        figure,
        sources.notes(
            arms,
            sources.intervals_are(" of differences within a chain", real=False),
            *(["Without interval: the artifacts that it needs are not there"] if unknown else []),
        ),
    )


def groups_of_differences(sources: Sources, reference) -> dict[str, dict[str, Interval]]:
    """By heading and arm: FD test minus that of the arm that `reference` names."""
    plan, numbers, groups = sources.plan, sources.numbers, {}
    for arm in stage_two(plan):
        other = reference(plan, arm)
        if other is None or other == arm:
            continue
        pair = [numbers.entries(name)[0] for name in (arm, other)]
        difference = numbers.difference(*pair, numbers.distance)
        if len(sources.numbers_of(pair, numbers.counted(numbers.distance))) == 2 and math.isfinite(
            difference.value
        ):
            rule = ", equal total" if equal_total(plan, arm) else ""
            against = "" if reference is same_without_head else f" − {kind_of(plan, other)}"
            groups.setdefault(kind_of(plan, arm) + rule + against, {})[arm] = difference
    return groups
