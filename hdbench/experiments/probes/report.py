"""Tables and figures of the probes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from hdbench.core import files
from hdbench.experiments.probes.config import STRENGTH, Probes, Unit
from hdbench.experiments.probes.measures import CHANCE, MEASURES
from hdbench.experiments.probes.run import collect
from hdbench.metrics.records import MISSING, Interval, interval
from hdbench.report import figures
from hdbench.report.columns import Column
from hdbench.report.document import for_people
from hdbench.report.figures import sources as report_figures_sources
from hdbench.report.figures import style as report_figures_style


def run_probes(probes: Probes, results: Path, out: Path) -> list[Path]:
    """Everything: results/probes/metrics.csv, a copy of it, table and figures in out/probes; the paths written."""
    frame, units = collect(probes, results)
    paired = differences(probes, frame)
    text, folder, table = (
        frame.to_csv(index=False, lineterminator="\n").encode(),
        out / "probes",
        render(probes, frame),
    )
    contents = {
        results / "probes" / "metrics.csv": text,
        folder / "metrics.csv": text,
        folder / "probes.csv": table.to_csv(index=False, lineterminator="\n").encode(),
        folder / "differences.csv": paired.to_csv(index=False, lineterminator="\n").encode(),
        folder / "probes.md": to_markdown(probes, table, paired, lost(probes, frame)).encode(),
    }
    with figures.plt.rc_context(report_figures_style.STYLE):
        contents |= report_figures_style.pictures_of(
            draw_crossover(probes, frame), folder / "crossover"
        )
        contents |= report_figures_style.pictures_of(
            draw_weights(probes, units), folder / "weights"
        )
    files.write_together(contents)
    return list(contents)


def intervals(frame: pd.DataFrame) -> Callable[..., Interval]:
    """Of a reported arm and metric, or of it minus another arm's, paired: over seeds; one arm's over images for one seed."""
    groups = dict(list(frame[frame.suite == "probes"].set_index("seed").groupby(["arm", "metric"])))

    def found(arm: str, metric: str, minus: str | None = None) -> Interval:
        group, other = groups.get((arm, metric)), groups.get((minus, metric))
        if group is None or minus and other is None:
            return MISSING
        if (
            not minus and len(group) > 1 and group.value.nunique(dropna=False) == 1
        ):  # settings; the mean of equal values rounds
            return Interval(group.value.iloc[0], math.nan)
        return (
            interval(group.value - other.value)
            if minus
            else interval(group.value, group.se.iloc[0])
        )

    return found


def render(probes: Probes, frame: pd.DataFrame) -> pd.DataFrame:
    """One row a head, flaw and number of tokens: each measure with the half-width of its 95% interval, and what was chosen."""
    found, rows = intervals(frame), []
    for tokens in probes.tokens:
        for flaw in probes.flaws:
            for head in probes.heads:
                arm = f"{head}_n{tokens}_{flaw.name}"
                row: dict[str, Any] = {
                    "arm": arm,
                    "tokens": tokens,
                    "flaw": flaw.name,
                    "head": head,
                }
                for metric in (
                    "flaw_area",
                    "flaw_share",
                    *MEASURES,
                    "weight_in_flaw",
                    "learning_rate",
                    "head_parameters",
                ):
                    value = found(arm, metric)
                    row |= {metric: value.value, f"{metric}_half_width": value.half_width}
                rows.append(row)
    return pd.DataFrame(rows)


def differences(probes: Probes, frame: pd.DataFrame) -> pd.DataFrame:
    """One row a flaw, number of tokens, adaptive head and plain head: each measure of the first minus the second, by seeds."""
    found, rows = intervals(frame), []
    adaptive = [head for head in probes.heads if head.startswith("awd")]
    for tokens, flaw, head, plain in itertools.product(
        probes.tokens, probes.flaws, adaptive, probes.heads
    ):
        if plain not in adaptive:
            row = {"tokens": tokens, "flaw": flaw.name, "head": head, "minus": plain}
            for metric in MEASURES:
                value = found(
                    f"{head}_n{tokens}_{flaw.name}", metric, f"{plain}_n{tokens}_{flaw.name}"
                )
                row |= {metric: value.value, f"{metric}_half_width": value.half_width}
            rows.append(row)
    return pd.DataFrame(rows)


def lost(probes: Probes, frame: pd.DataFrame) -> str:
    """A sentence that names what has no number on some seed, or nothing."""
    found = intervals(frame)
    names = [
        f"{title.strip(' ↑↓')} of {label(head)}, {tokens} tokens, {flaw.title}"
        for tokens, flaw, head in itertools.product(probes.tokens, probes.flaws, probes.heads)
        for metric, title in MEASURES.items()
        if not math.isfinite(found(f"{head}_n{tokens}_{flaw.name}", metric).value)
    ]
    return f" Without a finite number on some seed: {'; '.join(names)}." if names else ""


def label(head: str) -> str:
    return head.replace("awd_", "AWD-") + report_figures_sources.dagger(head)


def explanation(probes: Probes) -> str:
    over = f"t over {len(probes.seeds)} seeds" if len(probes.seeds) > 1 else "over images"
    return (
        f"Real images with one planted flaw against clean ones: heads of equal size on frozen features at times up to "
        f"{probes.t_max:g}, {probes.steps:,} steps, measured on {probes.images:,} held-out images. Flip: the texture's phase "
        "is turned by half a period; fade: its amplitude is halved. Inside: share of the energy of the generator's gradient "
        "where the image is wrong. "
        "Cosine: of minus the gradient with the true correction. Damage: squared change elsewhere for each unit of squared "
        "error repaired, at the step that cancels the flaw along the true correction. Learning rates by the largest cosine "
        f"on a seed that is not shown. 95% intervals, {over}."
    )


def to_markdown(probes: Probes, table: pd.DataFrame, differences: pd.DataFrame, lost: str) -> str:
    titles = {
        "flaw_share": "Share of tokens",
        **MEASURES,
        "weight_in_flaw": "Weight inside",
        "learning_rate": "Learning rate",
    }
    flaws = {flaw.name: flaw.title for flaw in probes.flaws}

    def shown(table: pd.DataFrame, titles: Mapping[str, str], **more: pd.Series) -> str:
        named = {
            "Tokens": table.tokens.astype(str),
            "Flaw": table.flaw.map(flaws),
            "Head": table["head"].map(label),
        }
        column = Column(key="", title="", cell=lambda entry: MISSING, signed=bool(more))
        columns = {
            title: [
                for_people(column, Interval(*pair))
                for pair in zip(table[key], table[f"{key}_half_width"])
            ]
            for key, title in titles.items()
        }
        return pd.DataFrame(named | more | columns).to_markdown(index=False, disable_numparse=True)

    parts = [
        explanation(probes) + " † Reconstruction: the paper gives no formula." + lost,
        shown(table, titles),
    ]
    if len(differences):
        parts += [
            "Each adaptive head minus each plain one, within seeds:",
            shown(differences, MEASURES, Minus=differences["minus"].map(label)),
        ]
    return "\n\n".join(parts) + "\n"


def draw_crossover(probes: Probes, frame: pd.DataFrame) -> Figure:
    """Each measure against the share of tokens that a flaw fills, one line a head; global flaws open."""
    found = intervals(frame)
    changes = [change for change in STRENGTH if any(flaw.change == change for flaw in probes.flaws)]
    lines = [(tokens, change) for tokens in probes.tokens for change in changes]
    figure, axes = figures.plt.subplots(
        len(lines),
        len(MEASURES),
        figsize=(7.2, 0.7 + 1.65 * len(lines)),
        squeeze=False,
        layout="constrained",
        sharex=True,
        sharey="col",
    )
    for row, (tokens, change) in zip(axes, lines):
        for axis, metric in zip(row, MEASURES):
            for number, head in enumerate(probes.heads):
                points = []
                for flaw in (flaw for flaw in probes.flaws if flaw.change == change):
                    x, y = (
                        found(f"{head}_n{tokens}_{flaw.name}", name)
                        for name in ("flaw_share", metric)
                    )
                    if not (math.isfinite(x.value) and math.isfinite(y.value)):
                        continue
                    shifted = x.value * 1.03 ** (number - (len(probes.heads) - 1) / 2)
                    points.append((shifted, y.value))
                    colour = report_figures_style.HEAD_COLOURS[head]
                    style = {"marker": "o", "color": colour, "markersize": 3.5, "linestyle": "none"}
                    report_figures_style.error_bars(
                        axis,
                        shifted,
                        y,
                        style | {"markerfacecolor": colour if flaw.size else "white"},
                    )
                if points:
                    axis.plot(
                        *zip(*sorted(points)),
                        color=report_figures_style.HEAD_COLOURS[head],
                        linestyle=report_figures_style.HEAD_LINES[head],
                        linewidth=0.9,
                        zorder=1,
                    )
            if axis is row[0]:
                axis.set_ylabel(f"{tokens} tokens, {change}")
            axis.set_xscale("log")
            chance = [
                [
                    found(f"{probes.heads[0]}_n{tokens}_{flaw.name}", name).value
                    for name in ("flaw_share", "flaw_area")
                ]
                for flaw in probes.flaws
                if flaw.change == change
            ]
            x, area = zip(*sorted(chance))
            if metric in CHANCE:
                axis.plot(
                    x,
                    area if CHANCE[metric] is None else [CHANCE[metric]] * len(x),
                    color=report_figures_style.REFERENCE,
                    linestyle=":",
                    linewidth=0.9,
                    zorder=0,
                )
    for axis, (metric, title) in zip(axes[0], MEASURES.items()):
        axis.set_title(
            title.replace("↑", "(higher is better)")
            .replace("↓", "(lower is better)")
            .replace(" (", "\n(")
        )
        if metric in ("auc", "in_flaw_share"):  # intervals of shares may go beyond
            low, high = axis.get_ylim()
            axis.set_ylim(max(low, -0.02), min(high, 1.03))
    for axis in axes[-1]:
        axis.set_xlabel("tokens in the flaw, share")
        axis.xaxis.set_major_formatter("{x:g}")
    handles = [
        Line2D(
            [],
            [],
            color=report_figures_style.HEAD_COLOURS[head],
            linestyle=report_figures_style.HEAD_LINES[head],
            label=label(head),
        )
        for head in probes.heads
    ]
    handles += [
        Line2D(
            [],
            [],
            color=report_figures_style.REFERENCE,
            marker="o",
            markersize=3.5,
            linestyle="none",
            label=text,
            markerfacecolor=face,
        )
        for text, face in (("local", report_figures_style.REFERENCE), ("global", "white"))
    ]
    handles.append(
        Line2D(
            [],
            [],
            color=report_figures_style.REFERENCE,
            linestyle=":",
            label="uniform or by chance",
        )
    )
    figure.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.01), ncol=4)
    return report_figures_style.note_below(
        figure,
        explanation(probes)
        + " †\u00a0Reconstruction: the paper gives no formula."
        + lost(probes, frame),
    )


def draw_weights(probes: Probes, units: Mapping[Unit, Mapping[str, np.ndarray]]) -> Figure:
    """Flawed images with the flaw outlined, and below each the token weights of every adaptive head; of the first seed."""
    tokens, heads = max(probes.tokens), [head for head in probes.heads if head.startswith("awd")]
    shown = [
        (unit.flaw, found)
        for unit, found in units.items()
        if unit.tokens == tokens and unit.seed == probes.seeds[0]
    ]
    columns = [(flaw, found, k) for flaw, found in shown for k in range(len(found["flawed"]))]
    weights = {
        head: [
            tokens * found["weights"][list(found["heads"]).index(head), k]
            for _, found, k in columns
        ]
        for head in heads
    }
    side = math.isqrt(tokens)
    largest = max(
        [
            2.0**0.25,
            *(
                float(np.nanmax(w))
                for values in weights.values()
                for w in values
                if np.isfinite(w).any()
            ),
        ]
    )
    figure, axes = figures.plt.subplots(
        1 + len(heads),
        len(columns),
        squeeze=False,
        layout="constrained",
        figsize=(max(7.2, 0.62 * len(columns)), 0.9 + 0.75 * (1 + len(heads))),
    )
    drawn = None
    for number, (flaw, found, k) in enumerate(columns):
        pixels, where = found["flawed"].shape[-1], found["where"][k, 0]
        extent = (-0.5, pixels - 0.5, pixels - 0.5, -0.5)
        axes[0, number].imshow(found["flawed"][k, 0], cmap="gray", vmin=-1, vmax=1, extent=extent)
        for line, head in enumerate(heads, start=1):
            drawn = axes[line, number].imshow(
                weights[head][number].reshape(side, side).clip(1 / largest),
                cmap="PuOr_r",
                norm=LogNorm(1 / largest, largest),
                extent=extent,
            )
        for axis in axes[:, number]:
            axis.set(xticks=[], yticks=[], frame_on=False)
            if flaw.size:
                top, left = np.argwhere(where)[0]
                axis.add_patch(
                    Rectangle(
                        (left - 0.5, top - 0.5),
                        flaw.size,
                        flaw.size,
                        fill=False,
                        linewidth=0.8,
                        edgecolor=report_figures_style.GREEN,
                    )
                )
        axes[0, number].set_title(flaw.title.replace(", ", "\n"), fontsize=6)
    for line, text in enumerate(("image", *map(label, heads))):
        axes[line, 0].set_ylabel(text, rotation=0, ha="right", va="center")
    if drawn is not None:
        bar = figure.colorbar(
            drawn,
            ax=axes[1:],
            location="bottom",
            aspect=60,
            shrink=0.7,
            extend="min",
            format="{x:.2g}",
            ticks=np.geomspace(1 / largest, largest, 5),
            label="weight × N of each of N tokens; 1: alike",
        )
        bar.minorticks_off()
    return report_figures_style.note_below(
        figure,
        (
            f"Held-out real images with a planted flaw (green: its place), {tokens} tokens, seed {probes.seeds[0]}, at a random "
            f"time. Learning rates as chosen, {probes.steps:,} steps. †\u00a0Reconstruction: the paper gives no formula."
        ),
    )
