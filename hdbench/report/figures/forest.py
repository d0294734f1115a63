"""Paired differences between arms."""

from __future__ import annotations

import math
from collections.abc import Callable

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from hdbench.metrics.records import Interval
from hdbench.report.document import for_people
from hdbench.report.figures.base import Figure
from hdbench.report.figures.sources import Sources, dagger
from hdbench.report.figures.style import (
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
from hdbench.suite.plan import Plan

Groups = dict[str, dict[str, Interval]]  # by heading and arm
PANELS: dict[str, Callable[[Plan, str], str | None]] = {  # what an arm is compared with
    "A discriminator head, against none": same_without_head,
    "Another start of stage 2, same head": same_from_trajectory,
}
BETWEEN = 1.3  # lines from a group to the next heading


class Forest(Figure):
    """Paired differences of FD test: heads against none, starts of stage 2 against the suite's."""

    name = "forest"
    tables = ("main", "initialisation")

    def draw(self, sources: Sources) -> plt.Figure:
        numbers = sources.numbers
        panels = {title: differences(sources, reference) for title, reference in PANELS.items()}
        panels = {title: groups for title, groups in panels.items() if groups}
        if not panels:
            return nothing(sources, "the metrics have no two arms that are compared")
        grouped = list(panels.values())
        lines = max(sum(len(group) + BETWEEN for group in groups.values()) for groups in grouped)
        size = (3.6 * len(panels), 0.9 + 0.155 * lines)
        figure, axes = plt.subplots(
            1, len(panels), figsize=size, sharex=True, squeeze=False, layout="constrained"
        )
        for axis, (title, groups) in zip(axes[0], panels.items(), strict=True):
            ticks = draw_groups(axis, sources.plan, groups)
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
            say_sides(axis)
        # the stub knows the base class alone, whose `set` has no options
        figure.get_layout_engine().set(wspace=0.08)  # pyright: ignore[reportCallIssue]
        shown = [pair for groups in grouped for group in groups.values() for pair in group.items()]
        unknown = any(math.isnan(interval.half_width) for _, interval in shown)
        said = [sources.intervals_are(" of differences within a chain", real=False)]
        said += ["Without interval: the artifacts that it needs are not there"] if unknown else []
        return note_below(figure, sources.notes([arm for arm, _ in shown], *said))


def draw_groups(axis: Axes, plan: Plan, groups: Groups) -> dict[float, str]:
    """Headings, differences and their numbers; names of heads by their height."""
    y = 0.0
    ticks = {}
    beside = axis.get_yaxis_transform()
    for heading, group in groups.items():
        axis.text(
            0,
            y,
            heading,
            transform=beside,
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
            text = for_people(interval, signed=True)
            axis.text(1.02, y, text, transform=beside, fontsize=6.5, va="center")
            ticks[y] = head_name(plan.arms[arm]) + dagger(head_of(plan.arms[arm]))
        y += BETWEEN
    return ticks


def say_sides(axis: Axes) -> None:
    for text, side, x in (("← better", "right", -3), ("worse →", "left", 3)):
        axis.annotate(
            text, (0, -1.1), (x, 0), textcoords="offset points", ha=side, va="center", fontsize=6.5
        )


def differences(sources: Sources, reference: Callable[[Plan, str], str | None]) -> Groups:
    """FD test minus that of the arm that `reference` names."""
    plan = sources.plan
    numbers = sources.numbers
    groups: Groups = {}
    for arm in stage_two(plan):
        other = reference(plan, arm)
        if other is None or other == arm:
            continue
        pair = [numbers.entries(name)[0] for name in (arm, other)]
        difference = numbers.difference(*pair, metric=numbers.distance)
        known = sources.numbers_of(pair, numbers.counted(numbers.distance))
        if len(known) == 2 and math.isfinite(difference.value):
            rule = ", equal total" if equal_total(plan, arm) else ""
            against = "" if reference is same_without_head else f" − {kind_of(plan, other)}"
            groups.setdefault(kind_of(plan, arm) + rule + against, {})[arm] = difference
    return groups
