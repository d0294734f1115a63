"""Figures of the probes: measures against the share of tokens in the flaw, and token weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from hdbench.experiments.probes.config import STRENGTH, Flaw, Probes, ProbeUnit, arm_name
from hdbench.experiments.probes.heads import is_adaptive, label
from hdbench.experiments.probes.measures import CHANCE, MEASURES
from hdbench.experiments.report import Intervals
from hdbench.experiments.units import Arrays
from hdbench.report.figures import style


def draw_crossover(probes: Probes, intervals: Intervals, note: str) -> Figure:
    """Measures against the share of tokens in the flaw, one line a head; global flaws open."""
    changes = [change for change in STRENGTH if any(flaw.change == change for flaw in probes.flaws)]
    lines = [(tokens, change) for tokens in probes.tokens for change in changes]
    figure, axes = style.plt.subplots(
        len(lines),
        len(MEASURES),
        figsize=(7.2, 0.7 + 1.65 * len(lines)),
        squeeze=False,
        layout="constrained",
        sharex=True,
        sharey="col",
    )
    for row, (tokens, change) in zip(axes, lines, strict=True):
        panel = Panel(probes, intervals, tokens, change)
        row[0].set_ylabel(f"{tokens} tokens, {change}")
        for axis, metric in zip(row, MEASURES, strict=True):
            for number, head in enumerate(probes.heads):
                panel.draw_head(axis, metric, head, number)
            axis.set_xscale("log")
            panel.draw_chance(axis, metric)
    for axis, metric in zip(axes[0], MEASURES, strict=True):
        finish_column(axis, metric)
    for axis in axes[-1]:
        axis.set_xlabel("tokens in the flaw, share")
        axis.xaxis.set_major_formatter("{x:g}")
    figure.legend(handles=handles(probes), loc="upper center", bbox_to_anchor=(0.5, -0.01), ncol=4)
    return style.note_below(figure, note)


class Panel(NamedTuple):
    """A row of the figure: one number of tokens and one kind of flaw."""

    probes: Probes
    intervals: Intervals
    tokens: int
    change: str

    @property
    def flaws(self) -> list[Flaw]:
        return [flaw for flaw in self.probes.flaws if flaw.change == self.change]

    def draw_head(self, axis: Axes, metric: str, head: str, number: int) -> None:
        """The head's points with intervals, shifted apart from other heads', and a line."""
        apart = 1.03 ** (number - (len(self.probes.heads) - 1) / 2)
        colour = style.HEAD_COLOURS[head]
        marker = {"marker": "o", "color": colour, "markersize": 3.5, "linestyle": "none"}
        points = []
        for flaw in self.flaws:
            arm = arm_name(head, self.tokens, flaw)
            x = self.intervals(arm, "flaw_share")
            y = self.intervals(arm, metric)
            if math.isfinite(x.value) and math.isfinite(y.value):
                points.append((x.value * apart, y.value))
                face = {"markerfacecolor": colour if flaw.size else "white"}
                style.error_bars(axis, x.value * apart, y, marker | face)
        if points:
            axis.plot(
                *zip(*sorted(points), strict=True),
                color=colour,
                linestyle=style.HEAD_LINES[head],
                linewidth=0.9,
                zorder=1,
            )

    def draw_chance(self, axis: Axes, metric: str) -> None:
        """What a head that sees nothing has."""
        if metric not in CHANCE:
            return
        shares = []
        for flaw in self.flaws:
            arm = arm_name(self.probes.heads[0], self.tokens, flaw)
            shares.append([self.intervals(arm, key).value for key in ("flaw_share", "flaw_area")])
        x, area = zip(*sorted(shares), strict=True)
        axis.plot(
            x,
            area if CHANCE[metric] is None else [CHANCE[metric]] * len(x),
            color=style.REFERENCE,
            linestyle=":",
            linewidth=0.9,
            zorder=0,
        )


def finish_column(axis: Axes, metric: str) -> None:
    """Title and limits of a column, at its first axis."""
    title = MEASURES[metric].replace("↑", "(higher is better)").replace("↓", "(lower is better)")
    axis.set_title(title.replace(" (", "\n("))
    if metric in ("auc", "in_flaw_share"):  # intervals of shares may go beyond
        low, high = axis.get_ylim()
        axis.set_ylim(max(low, -0.02), min(high, 1.03))


def handles(probes: Probes) -> list[Line2D]:
    """Of the legend: heads, local and global flaws, chance."""
    heads = [
        Line2D(
            [],
            [],
            color=style.HEAD_COLOURS[head],
            linestyle=style.HEAD_LINES[head],
            label=label(head),
        )
        for head in probes.heads
    ]
    extents = [
        Line2D(
            [],
            [],
            color=style.REFERENCE,
            marker="o",
            markersize=3.5,
            linestyle="none",
            label=text,
            markerfacecolor=face,
        )
        for text, face in (("local", style.REFERENCE), ("global", "white"))
    ]
    chance = Line2D([], [], color=style.REFERENCE, linestyle=":", label="uniform or by chance")
    return [*heads, *extents, chance]


class Example(NamedTuple):
    """A column of the figure of weights: one flawed image, and what its unit has."""

    flaw: Flaw
    arrays: Arrays
    index: int

    def weights(self, head: str, tokens: int) -> np.ndarray:
        """(tokens,): N times the token weights, 1 where all are equal."""
        return tokens * self.arrays["weights"][list(self.arrays["heads"]).index(head), self.index]


def draw_weights(probes: Probes, units: Mapping[ProbeUnit, Arrays]) -> Figure:
    """Flawed images, the flaw outlined, above token weights of adaptive heads; the first seed."""
    tokens = max(probes.tokens)
    heads = [head for head in probes.heads if is_adaptive(head)]
    examples = [
        Example(unit.flaw, arrays, index)
        for unit, arrays in units.items()
        if unit.tokens == tokens and unit.seed == probes.seeds[0]
        for index in range(len(arrays["flawed"]))
    ]
    largest = largest_of([example.weights(head, tokens) for head in heads for example in examples])
    side = math.isqrt(tokens)
    figure, axes = style.plt.subplots(
        1 + len(heads),
        len(examples),
        squeeze=False,
        layout="constrained",
        figsize=(max(7.2, 0.62 * len(examples)), 0.9 + 0.75 * (1 + len(heads))),
    )
    picture = None
    for column, example in zip(axes.T, examples, strict=True):
        draw_image(column[0], example)
        for axis, head in zip(column[1:], heads, strict=True):
            picture = axis.imshow(
                example.weights(head, tokens).reshape(side, side).clip(1 / largest),
                cmap="PuOr_r",
                norm=LogNorm(1 / largest, largest),
                extent=extent_of(example),
            )
        for axis in column:
            outline(axis, example)
        column[0].set_title(example.flaw.title.replace(", ", "\n"), fontsize=6)
    for axis, text in zip(axes[:, 0], ("image", *map(label, heads)), strict=True):
        axis.set_ylabel(text, rotation=0, ha="right", va="center")
    if picture is not None:
        add_colorbar(figure, picture, axes[1:], largest)
    return style.note_below(
        figure,
        f"Held-out real images with a planted flaw (green: its place), {tokens} tokens, seed "
        f"{probes.seeds[0]}, at a random time. Learning rates as chosen, {probes.steps:,} steps. "
        "†\u00a0Reconstruction: the paper gives no formula.",
    )


def largest_of(weights: list[np.ndarray]) -> float:
    """The end of the colour scale: the largest finite weight, or a little above 1."""
    finite = [float(np.nanmax(w)) for w in weights if np.isfinite(w).any()]
    return max([2.0**0.25, *finite])


def extent_of(example: Example) -> tuple[float, float, float, float]:
    """Of an image, for pixels at whole numbers."""
    pixels = example.arrays["flawed"].shape[-1]
    return (-0.5, pixels - 0.5, pixels - 0.5, -0.5)


def draw_image(axis: Axes, example: Example) -> None:
    image = example.arrays["flawed"][example.index, 0]
    axis.imshow(image, cmap="gray", vmin=-1, vmax=1, extent=extent_of(example))


def outline(axis: Axes, example: Example) -> None:
    """The place of a local flaw."""
    axis.set(xticks=[], yticks=[], frame_on=False)
    size = example.flaw.size
    if size:
        top, left = np.argwhere(example.arrays["where"][example.index, 0])[0]
        corner = (left - 0.5, top - 0.5)
        axis.add_patch(
            Rectangle(corner, size, size, fill=False, linewidth=0.8, edgecolor=style.GREEN)
        )


def add_colorbar(figure: Figure, picture, axes: np.ndarray, largest: float) -> None:
    bar = figure.colorbar(
        picture,
        ax=axes,
        location="bottom",
        aspect=60,
        shrink=0.7,
        extend="min",
        format="{x:.2g}",
        ticks=np.geomspace(1 / largest, largest, 5),
        label="weight × N of each of N tokens; 1: alike",
    )
    bar.minorticks_off()
