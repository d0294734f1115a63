"""Radial power spectra relative to real images."""

from __future__ import annotations

from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from hdbench.report.figures.base import Figure
from hdbench.report.figures.sources import Sources
from hdbench.report.figures.style import (
    BLUE,
    GREEN,
    PURPLE,
    VERMILION,
    before_stage_two,
    by_kind,
    head_handles,
    head_style,
    legends,
    logarithmic,
    note_below,
    nothing,
    plot_band,
)
from hdbench.suite.plan import Row

COLOURS = (BLUE, VERMILION, GREEN, PURPLE)  # of arms before stage 2
LINES = ("-", (0, (5, 1.5)), (0, (2, 1)), (0, (1, 1)))  # of their numbers of sampling steps


class Spectrum(Figure):
    """Relative power against radial frequency: by steps before stage 2, and by head after it."""

    name = "spectrum"

    def draw(self, sources: Sources) -> plt.Figure:
        plan = sources.plan
        groups = by_kind(plan)
        panels = 1 + len(groups)
        lines = -(-panels // 2)
        figure, axes = plt.subplots(
            lines,
            2,
            figsize=(7.2, 0.9 + 2.3 * lines),
            squeeze=False,
            sharex=True,
            sharey=True,
            layout="constrained",
        )
        before, *after = list(axes.flat)[:panels]
        for axis in list(axes.flat)[panels:]:
            axis.set_axis_off()
        draw_before(before, sources)
        for axis, arms in zip(after, groups.values(), strict=True):
            for arm in arms:
                power = relative_power(sources, sources.rows(arm), sources.label(arm))
                plot_power(axis, power, **head_style(plan, arm))
        real = {
            sources.label(name): relative_power(sources, sources.rows(name), sources.label(name))
            for name, arm in plan.arms.items()
            if arm.real == "test"
        }
        if not any(axis.lines for axis in axes.flat) and not any(map(len, real.values())):
            plt.close(figure)
            return nothing(sources, "results has no measured arm")
        titles = ("Before stage 2, by sampling steps", *(f"{kind}, one step" for kind in groups))
        for axis, title in zip((before, *after), titles, strict=True):
            draw_reference(axis, sources, real)
            axis.set_title(title)
        figure.supxlabel("radial frequency, cycles an image", fontsize=8)
        figure.supylabel("power relative to real images", fontsize=8)
        arms = [arm for group in groups.values() for arm in group]
        columns = {
            "Before stage 2": before.get_legend_handles_labels()[0],
            "After: head": head_handles(plan, arms),
        }
        legends(figure, columns, wide=list(columns))
        bands = (
            "Bands: from the lowest to the highest chain; dotted: edges of the bands of the tables"
        )
        return note_below(figure, sources.notes(arms, bands))


def relative_power(sources: Sources, rows: list[Row], name: str) -> np.ndarray:
    """Power over real images (chains, H/2) on integer radii."""
    powers = []
    for row in rows:
        label = f"{name}, chain {row.seed}" if row.seed is not None else name
        folder = sources.folder(row.stages["evaluate"], label)
        # the protocols of large images have no spectrum
        if folder and (folder / "rings.npz").is_file():
            with np.load(folder / "rings.npz", allow_pickle=False) as file:
                powers.append(file["rings"] / file["real"])
    return np.array(powers)


def plot_power(axis: Axes, power: np.ndarray, **line) -> None:
    if len(power):
        plot_band(axis, np.arange(1, power.shape[1] + 1), power, **line)


def draw_before(axis: Axes, sources: Sources) -> None:
    """Arms without stage 2, by their numbers of sampling steps."""
    for colour, arm in zip(cycle(COLOURS), before_stage_two(sources.plan), strict=False):
        for entry, style in zip(sources.numbers.entries(arm), cycle(LINES), strict=False):
            name = sources.name(entry)
            power = relative_power(sources, sources.rows(arm, entry.steps), name)
            plot_power(axis, power, color=colour, linestyle=style, label=name)


def draw_reference(axis: Axes, sources: Sources, real: dict[str, np.ndarray]) -> None:
    """Real test images, plain and autoencoded, the line at one, and the edges of bands."""
    suite = sources.plan.suite
    for (name, power), dash in zip(real.items(), cycle((4, 1)), strict=False):
        style = {"linestyle": (0, (dash, 1)), "linewidth": 2.2}
        plot_power(axis, power, color="0.6", zorder=1, label=name, **style)
    axis.axhline(1, color="0.3", linewidth=0.7)
    radii = np.arange(1, suite.data.image_size // 2 + 1)
    for band in np.array_split(radii, suite.evaluation.bands)[:-1]:
        axis.axvline(band[-1] + 0.5, color="0.75", linewidth=0.7, linestyle=":")
    logarithmic(axis)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
