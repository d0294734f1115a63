"""Radial power spectra relative to real images."""

from __future__ import annotations

from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

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


def relative_power(sources: Sources, rows: list[Row], name: str) -> np.ndarray:
    """Power over real images (chains, H/2) on integer radii."""
    found = []
    for row in rows:
        folder = sources.folder(
            row.stages["evaluate"], f"{name}, chain {row.seed}" if row.seed is not None else name
        )
        if (
            folder and (folder / "rings.npz").is_file()
        ):  # the protocols of large images have no spectrum
            with np.load(folder / "rings.npz", allow_pickle=False) as file:
                found.append(file["rings"] / file["real"])
    return np.array(found)


def plot_power(axis: Axes, power: np.ndarray, **line) -> None:
    if len(power):
        plot_band(axis, np.arange(1, power.shape[1] + 1), power, **line)


def spectrum(sources: Sources) -> Figure:
    """Relative power against radial frequency: by sampling steps before stage 2, and by head after it."""
    plan, groups = sources.plan, by_kind(sources.plan)
    figure, axes = plt.subplots(
        -(-(1 + len(groups)) // 2),
        2,
        figsize=(7.2, 0.9 + 2.3 * -(-(1 + len(groups)) // 2)),
        squeeze=False,
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    before, *after = list(axes.flat)[: 1 + len(groups)]
    for axis in list(axes.flat)[1 + len(groups) :]:
        axis.set_axis_off()
    for colour, arm in zip(cycle((BLUE, VERMILION, GREEN, PURPLE)), before_stage_two(plan)):
        for entry, style in zip(
            sources.numbers.entries(arm), cycle(("-", (0, (5, 1.5)), (0, (2, 1)), (0, (1, 1))))
        ):
            power = relative_power(sources, sources.rows(arm, entry.steps), sources.name(entry))
            plot_power(before, power, color=colour, linestyle=style, label=sources.name(entry))
    for axis, arms in zip(after, groups.values()):
        for arm in arms:
            plot_power(
                axis,
                relative_power(sources, sources.rows(arm), sources.label(arm)),
                **head_style(plan, arm),
            )
    arms = [arm for group in groups.values() for arm in group]
    half = plan.suite.data.image_size // 2
    edges = [
        part[-1] + 0.5
        for part in np.array_split(np.arange(1, half + 1), plan.suite.evaluation.bands)[:-1]
    ]
    real = [
        (name, relative_power(sources, sources.rows(name), sources.label(name)))
        for name, arm in plan.arms.items()
        if arm.real == "test"
    ]
    if not (any(axis.lines for axis in axes.flat) or any(len(power) for _, power in real)):
        plt.close(figure)
        return nothing(sources, "results has no measured arm")
    for axis, title in zip(
        (before, *after),
        ("Before stage 2, by sampling steps", *(f"{kind}, one step" for kind in groups)),
    ):
        for name, power in real:
            plot_power(
                axis,
                power,
                color="0.6",
                linestyle=(0, (4, 1)),
                linewidth=2.2,
                zorder=1,
                label=sources.label(name),
            )
        axis.axhline(1, color="0.3", linewidth=0.7)
        for edge in edges:
            axis.axvline(edge, color="0.75", linewidth=0.7, linestyle=":")
        axis.set_title(title)
        logarithmic(axis)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    figure.supxlabel("radial frequency, cycles an image", fontsize=8)
    figure.supylabel("power relative to real images", fontsize=8)
    legends(
        figure,
        {
            "Before stage 2": before.get_legend_handles_labels()[0],
            "After: head": head_handles(plan, arms),
        },
        wide=["Before stage 2", "After: head"],
    )
    return note_below(
        figure,
        sources.notes(
            arms,
            "Bands: from the lowest to the highest chain; dotted: edges of the bands of the tables",
        ),
    )
