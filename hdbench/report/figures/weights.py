"""Token weights of adaptive heads."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.image import AxesImage

from hdbench.report.figures.base import Figure
from hdbench.report.figures.sources import Sources, histories, scalar_of
from hdbench.report.figures.style import HEAD_COLOURS, note_below, nothing, stage_two
from hdbench.suite.arms import head_of, is_adaptive

FRACTIONS = (0, 0.1, 0.3, 0.6, 1)  # of stage 2, where weights are shown
TITLES = ("start", *(f"{fraction:.0%}" for fraction in FRACTIONS[1:-1]), "end")


class Weights(Figure):
    """Where adaptive heads look in fake samples: mean weight of each token, and entropy by step."""

    name = "weights"

    def draw(self, sources: Sources) -> plt.Figure:
        plan = sources.plan
        shown = weights_of(sources)
        if not shown:
            return nothing(sources, "results has no trained adaptive head")
        largest = 2 ** max(0.25, *(np.log2(first.to_numpy().max()) for first, _ in shown.values()))
        figure, axes = plt.subplots(
            len(shown),
            len(FRACTIONS) + 1,
            figsize=(7.2, 0.9 + 0.78 * len(shown)),
            squeeze=False,
            layout="constrained",
            width_ratios=[1] * len(FRACTIONS) + [3],
        )
        for line, (arm, (first, entropy)) in zip(axes, shown.items(), strict=True):
            image = draw_weights(line, first, largest)
            name = sources.label(arm).replace(" → ", " →\n").replace(", ", ",\n")
            line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=7)
            colour = HEAD_COLOURS[head_of(plan.arms[arm])]
            for seed in entropy:
                line[-1].plot(entropy.index, entropy[seed], color=colour, linewidth=0.8)
            line[-1].sharey(axes[0, -1])
        titles = (*TITLES, "entropy of weights / log N, each chain")
        for axis, title in zip(axes[0], titles, strict=True):
            axis.set_title(title)
        axes[-1, -1].set_xlabel("generator step")
        bar = figure.colorbar(
            image,
            ax=axes[:, :-1],
            location="bottom",
            aspect=40,
            shrink=0.8,
            extend="min",
            format="{x:.2g}",
            ticks=np.geomspace(1 / largest, largest, 5),
            label=f"mean weight × N of each of N tokens, chain {plan.suite.seeds[0]}; 1: all "
            "tokens alike",
        )
        bar.minorticks_off()
        means = "Weights and entropy are means over the fake samples of a step"
        return note_below(figure, sources.notes(shown, means))


def weights_of(sources: Sources) -> dict[str, tuple[pd.DataFrame, pd.DataFrame]]:
    """By arm: the first chain's weights times N, by step and token; entropies, a column a chain."""
    plan = sources.plan
    shown = {}
    for arm in (arm for arm in stage_two(plan) if is_adaptive(head_of(plan.arms[arm]))):
        if recorded := histories(sources, arm, "refine"):
            first = recorded[min(recorded)].filter(regex=r"^critic/token_weight_\d+$")
            if first.empty:
                sources.note_missing(f"{sources.label(arm)} (made before weights were recorded)")
            elif not np.isfinite(first.to_numpy()).all():
                sources.note_missing(f"{sources.label(arm)} (not a number)")
            else:
                entropy = scalar_of(recorded, "critic/token_entropy")
                shown[arm] = first * first.shape[1], entropy
    return shown


def draw_weights(line: np.ndarray, first: pd.DataFrame, largest: float) -> AxesImage:
    """The tokens' grid at each of `FRACTIONS`."""
    side = math.isqrt(first.shape[1])
    for axis, fraction in zip(line, FRACTIONS, strict=False):
        image = draw_grid(axis, first, round(fraction * (len(first) - 1)), side, largest)
    return image


def draw_grid(axis: Axes, first: pd.DataFrame, row: int, side: int, largest: float) -> AxesImage:
    grid = first.iloc[row].to_numpy().reshape(side, -1)
    norm = LogNorm(1 / largest, largest)
    image = axis.imshow(grid.clip(1 / largest), cmap="PuOr_r", norm=norm)
    axis.set(xticks=[], yticks=[], frame_on=False)
    axis.set_xlabel(f"step {first.index[row]}", fontsize=6, labelpad=1)
    return image
