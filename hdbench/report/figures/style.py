"""Colours, markers, legends and axes that the figures share."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from hdbench.methods.discriminators import HEADS
from hdbench.metrics.records import Interval
from hdbench.report.figures.sources import Sources, dagger
from hdbench.report.numbers import Numbers
from hdbench.suite.arms import describe, equal_total, head_name, head_of
from hdbench.suite.plan import Plan

matplotlib.use("Agg")
# Okabe-Ito palette (colour-blind safe)
BLACK = "#000000"
ORANGE = "#E69F00"
SKY = "#56B4E9"
GREEN = "#009E73"
YELLOW = "#F0E442"
BLUE = "#0072B2"
VERMILION = "#D55E00"
PURPLE = "#CC79A7"
ALL_HEADS = ("none", *HEADS.load())
HEAD_COLOURS = dict(
    zip(ALL_HEADS, cycle((BLACK, ORANGE, GREEN, SKY, VERMILION, BLUE, PURPLE, YELLOW)))
)
DASHES = ((6, 1.5), (3, 1), (1, 1), (6, 1, 1, 1), (3, 1, 1, 1), (3, 1, 1, 1, 1, 1))
HEAD_LINES = dict(zip(ALL_HEADS, cycle(("-", *((0, dashes) for dashes in DASHES)))))
HEAD_LETTERS = dict(zip(ALL_HEADS, cycle("abcdefghijklmnopqrstuvwxyz")))
REFERENCE = "0.35"  # colour of all that stage 2 is compared with
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "figure.dpi": 200,
    "legend.title_fontsize": 7,
}
NOTHING = "nothing to draw yet"


def pictures_of(figure: Figure, path: Path, pdf: bool = False) -> dict[Path, bytes]:
    """The figure as path.png, and path.pdf if asked for; it is closed.

    The bytes are the same at every drawing.
    """
    pictures = {}
    for suffix, metadata in {"png": {}, **({"pdf": {"CreationDate": None}} if pdf else {})}.items():
        picture = io.BytesIO()
        figure.savefig(picture, format=suffix, metadata=metadata, bbox_inches="tight")
        pictures[path.with_suffix(f".{suffix}")] = picture.getvalue()
    plt.close(figure)
    return pictures


def note_below(figure: Figure, text: str) -> Figure:
    """The figure with a note below it and below its legends."""
    lowest = min([0, *(legend.get_window_extent().y0 for legend in figure.legends)])
    y = lowest / figure.bbox.height - 0.01
    figure.text(
        0.5, y, textwrap.fill(text, 130), fontsize=6, color=REFERENCE, ha="center", va="top"
    )
    return figure


def nothing(sources: Sources, needed: str) -> Figure:
    """In place of a figure for which there is nothing."""
    figure = plt.figure(figsize=(7.2, 1.0), label=NOTHING)
    figure.text(0.5, 0.5, f"{NOTHING}: {needed}", ha="center", va="center", fontsize=9)
    return note_below(figure, sources.notes(()))


def kind_of(plan: Plan, arm: str) -> str:
    """What an arm is apart from its head and its rule for steps: `Teacher → DMD`."""
    without_head = describe(plan, arm).replace(f" + {head_name(plan.arms[arm])}", "")
    return without_head.replace(", equal total", "")


def stage_two(plan: Plan) -> list[str]:
    return [name for name, arm in plan.arms.items() if arm.refine]


def before_stage_two(plan: Plan) -> list[str]:
    return [name for name, arm in plan.arms.items() if not (arm.refine or arm.real)]


def markers(plan: Plan) -> dict[str, str]:
    """By arm: round or pointed after a student, square after the teacher, others before stage 2."""
    shapes = {True: cycle("o^Dv<>"), False: cycle("sph8")}
    kinds = dict.fromkeys(
        (kind_of(plan, arm), bool(plan.arms[arm].trajectory)) for arm in stage_two(plan)
    )
    shape = {kind: next(shapes[student]) for kind, student in kinds}
    return {arm: shape[kind_of(plan, arm)] for arm in stage_two(plan)} | dict(
        zip(before_stage_two(plan), cycle("*PXd"))
    )


def point_style(plan: Plan, arm: str) -> dict:
    """Colour is the head, grey without stage 2; open where the total compute is made equal."""
    colour = HEAD_COLOURS.get(head_of(plan.arms[arm]) or "", REFERENCE)
    return {
        "marker": markers(plan)[arm],
        "color": colour,
        "markeredgecolor": colour,
        "markeredgewidth": 0.9,
        "markerfacecolor": "white" if equal_total(plan, arm) else colour,
        "linestyle": "none",
    }


def head_handles(plan: Plan, arms: Iterable[str], **line) -> list[Line2D]:
    """Of a legend: each head's colour, in its own line style or as given (for all, or by head)."""
    heads = {
        head: head_name(plan.arms[arm]) + dagger(head)
        for arm in arms
        if (head := head_of(plan.arms[arm]))
    }
    return [
        Line2D(
            [],
            [],
            label=name,
            color=HEAD_COLOURS[head],
            **{
                key: value[head] if isinstance(value, dict) else value
                for key, value in ({"linestyle": HEAD_LINES} | line).items()
            },
        )
        for head, name in heads.items()
    ]


def marker_handles(sources: Sources, arms: Iterable[str]) -> list[Line2D]:
    """Of a legend: the marker of each kind of arm, in grey."""
    plan = sources.plan
    named = {}
    for arm in arms:
        text = sources.label(arm)
        if plan.arms[arm].refine:
            text = kind_of(plan, arm) + (", equal total" if equal_total(plan, arm) else "")
        colours = {"color": REFERENCE, "markeredgecolor": REFERENCE}
        colours |= {} if equal_total(plan, arm) else {"markerfacecolor": REFERENCE}
        named.setdefault(
            text, Line2D([], [], label=text, **point_style(plan, arm) | colours | {"markersize": 5})
        )
    return list(named.values())


def legends(figure: Figure, columns: dict[str, list[Line2D]], wide: Sequence[str] = ()) -> None:
    """Up to three legends by title, side by side below the axes; those `wide` in two columns."""
    columns = {title: handles for title, handles in columns.items() if handles}
    places = {0: (), 1: (0.5,), 2: (0, 1), 3: (0, 0.5, 1)}[len(columns)]
    for place, (title, handles) in zip(places, columns.items(), strict=True):
        side = {0: "left", 0.5: "center", 1: "right"}[place]
        figure.legend(  # pyright: ignore[reportCallIssue]  # the stub's `loc` is literal texts
            handles=handles,
            title=title,
            loc=f"upper {side}",
            bbox_to_anchor=(place, -0.01),
            alignment="left",
            ncol=2 if title in wide else 1,
        )


def error_bars(
    axis: Axes, x: float, y: Interval, style: dict, x_half: float = math.nan, faint: float = 0.4
) -> None:
    axis.errorbar(
        x,
        y.value,
        xerr=None if math.isnan(x_half) else x_half,
        elinewidth=0.7,
        yerr=None if math.isnan(y.half_width) else y.half_width,
        ecolor=to_rgba(style["color"], faint),
        **style,
    )


def logarithmic(axes: Axes, along: str = "y") -> None:
    axes.set(**{f"{along}scale": "log"})
    axis = getattr(axes, f"{along}axis")
    low, high = sorted(axis.get_view_interval())
    axis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7) if high < 20 * low else (1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def join(axis: Axes, points: Sequence[tuple[float, float]]) -> None:
    """A thin line through one model at several numbers of sampling steps."""
    axis.plot(*zip(*points, strict=True), color=REFERENCE, linewidth=0.7, zorder=1)


def title_of(numbers: Numbers, metric: str) -> str:
    """`FD test 4k`, for axes."""
    return numbers.counted(metric).replace("fd_", "FD ").replace("fid", "FID").replace("_", " ")


def floor(sources: Sources, axis: Axes, metric: str) -> None:
    """What real training images score: test images against themselves would measure nothing."""
    arms = sources.plan.arms.items()
    real = [name for name, arm in arms if arm.real == "train" and not arm.autoencoded]
    entries = [entry for name in real for entry in sources.numbers.entries(name)]
    for entry, ((value, half),) in sources.numbers_of(entries, metric).items():
        name = f"{sources.label(entry.arm)}: floor"
        axis.axhline(value, color=REFERENCE, linestyle="--", linewidth=1, label=name)
        band = {"color": REFERENCE, "alpha": 0.12, "linewidth": 0, "zorder": 0}
        axis.axhspan(value - half, value + half, **band)


def plot_chains(axis: Axes, history: pd.DataFrame, **line) -> None:
    """Rolling medians over steps: mean over chains, and a band from the lowest to the highest."""
    if not history.empty:
        smooth = history.rolling(max(1, len(history) // 10), center=True, min_periods=1).median()
        plot_band(axis, smooth.index, smooth.to_numpy().T, **line)


def plot_band(axis: Axes, x: Sequence[float], chains: np.ndarray, **line) -> None:
    """The mean over chains (rows), and a light band from the lowest to the highest."""
    axis.plot(x, chains.mean(0), **line)
    if len(chains) > 1:
        axis.fill_between(
            x, chains.min(0), chains.max(0), color=line["color"], alpha=0.1, linewidth=0
        )


def by_kind(plan: Plan) -> dict[str, list[str]]:
    """Stage-2 arms by their start; not those of equal total compute, which run far longer."""
    groups = {}
    for arm in stage_two(plan):
        if not equal_total(plan, arm):
            groups.setdefault(kind_of(plan, arm), []).append(arm)
    return groups


def head_style(plan: Plan, arm: str) -> dict:
    head = head_of(plan.arms[arm]) or ""
    return {"color": HEAD_COLOURS.get(head, REFERENCE), "linestyle": HEAD_LINES.get(head, "-")}
