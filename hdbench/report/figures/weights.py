"""Token weights of adaptive heads."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from hdbench.report.figures.sources import Sources, dagger, histories, scalar_of
from hdbench.report.figures.style import HEAD_COLOURS, note_below, nothing, stage_two
from hdbench.suite.arms import head_of


def weights(sources: Sources) -> Figure:
    """Where adaptive heads look in fake samples: mean weight of each token at some steps, and entropy over all steps."""
    plan, shown = sources.plan, {}
    for arm in (arm for arm in stage_two(plan) if dagger(head_of(plan.arms[arm]))):
        if found := histories(sources, arm, "refine"):
            first = found[min(found)].filter(regex=r"^critic/token_weight_\d+$")
            if first.empty:
                sources.note_missing(f"{sources.label(arm)} (made before weights were recorded)")
            elif not np.isfinite(first.to_numpy()).all():
                sources.note_missing(f"{sources.label(arm)} (not a number)")
            else:
                shown[arm] = first * first.shape[1], scalar_of(found, "critic/token_entropy")
    if not shown:
        return nothing(sources, "results has no trained adaptive head")
    fractions = (0, 0.1, 0.3, 0.6, 1)
    largest = 2 ** max(0.25, *(np.log2(first.to_numpy().max()) for first, _ in shown.values()))
    figure, axes = plt.subplots(
        len(shown),
        len(fractions) + 1,
        figsize=(7.2, 0.9 + 0.78 * len(shown)),
        squeeze=False,
        layout="constrained",
        width_ratios=[1] * len(fractions) + [3],
    )
    for line, (arm, (first, entropy)) in zip(axes, shown.items()):
        side = math.isqrt(first.shape[1])
        for axis, fraction in zip(line, fractions):
            grid = first.iloc[round(fraction * (len(first) - 1))].to_numpy().reshape(side, -1)
            image = axis.imshow(
                grid.clip(1 / largest), cmap="PuOr_r", norm=LogNorm(1 / largest, largest)
            )
            axis.set(xticks=[], yticks=[], frame_on=False)
            axis.set_xlabel(
                f"step {first.index[round(fraction * (len(first) - 1))]}", fontsize=6, labelpad=1
            )
        line[0].set_ylabel(
            sources.label(arm).replace(" → ", " →\n").replace(", ", ",\n"),
            rotation=0,
            ha="right",
            va="center",
            fontsize=7,
        )
        for seed in entropy:
            line[-1].plot(
                entropy.index,
                entropy[seed],
                color=HEAD_COLOURS[head_of(plan.arms[arm])],
                linewidth=0.8,
            )
        line[-1].sharey(axes[0, -1])
    for axis, title in zip(
        axes[0],
        (
            "start",
            *(f"{fraction:.0%}" for fraction in fractions[1:-1]),
            "end",
            "entropy of weights / log N, each chain",
        ),
    ):
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
        label=f"mean weight × N of each of N tokens, chain {plan.suite.seeds[0]}; 1: all tokens alike",
    )
    bar.minorticks_off()
    return note_below(
        figure,
        sources.notes(shown, "Weights and entropy are means over the fake samples of a step"),
    )
