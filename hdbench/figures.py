"""The suite's figures: samples from equal noises, training curves, and spectra relative to real images.

Colour is the discriminator head and line style the initialisation.  What has no artifact is left out, and a note says so.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from itertools import cycle
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from hdbench import artifact
from hdbench.arms import describe, equal_total, head_name, head_of, initialisation, is_teacher
from hdbench.discriminators import HEADS
from hdbench.images import load_images
from hdbench.suite import Plan, Row

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (  # Okabe and Ito's colours, for every kind of sight
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
HEAD_COLOURS = dict(zip(("none", *HEADS), (BLACK, ORANGE, GREEN, SKY, VERMILION, BLUE, PURPLE)))
STYLE = {"font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 7, "xtick.labelsize": 7,
         "ytick.labelsize": 7, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
         "grid.linewidth": 0.5, "lines.linewidth": 1.2, "legend.frameon": False, "pdf.fonttype": 42, "savefig.dpi": 200}


class Sources:
    """Artifacts of rows, and a list of what was not there."""

    def __init__(self, plan: Plan, results: Path):
        self.plan, self.results, self.missing = plan, results, []

    def folder(self, stage: str, name: str) -> Path | None:
        """The artifact's folder, or None, with `name` noted as missing."""
        if artifact.exists(self.results, stage):
            return artifact.load(self.results, stage)[0]
        if name not in self.missing:
            self.missing.append(name)
        return None

    def rows(self, arm: str, steps: int | None = None) -> list[Row]:
        return [row for row in self.plan.rows if row.arm == arm and steps in (None, row.steps)]

    def label(self, arm: str) -> str:
        reconstruction = (head_of(self.plan.arms[arm]) or "").startswith("awd")
        return describe(self.plan, arm) + ("†" if reconstruction else "")

    def notes(self, arms: Iterable[str]) -> str:
        """What stands under a figure."""
        parts = [self.plan.suite.title]
        if any("†" in self.label(arm) for arm in arms):
            parts.append("† Reconstruction: the paper gives no formula")
        if self.missing:
            more = [f"and {len(self.missing) - 8} more"] if len(self.missing) > 8 else []
            parts.append("Not available: " + "; ".join([*self.missing[:8], *more]))
        return ". ".join(parts) + "."


def draw(plan: Plan, results: Path, out: Path) -> list[Path]:
    """Every figure into out/<suite>/figures, as pdf and png; the paths written."""
    folder, written = out / plan.name / "figures", []
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure_of in {"samples": samples, "curves": curves, "spectrum": spectrum}.items():
        with plt.rc_context(STYLE):
            figure = figure_of(Sources(plan, results))
            for suffix, metadata in {"pdf": {"CreationDate": None}, "png": {}}.items():
                written.append(folder / f"{name}.{suffix}")
                figure.savefig(written[-1], metadata=metadata, bbox_inches="tight")
            plt.close(figure)
    return written


def note_below(figure: Figure, text: str) -> None:
    figure.text(0.5, -0.01, textwrap.fill(text, 130), fontsize=6, color="0.35", ha="center", va="top")


def samples(sources: Sources) -> Figure:
    """The same noises (columns) through every method (rows), first chain; on top real test images of those classes."""
    plan, shown = sources.plan, []
    count = min(10, plan.suite.data.classes)
    data = next(stage.id for stage in plan.stages.values() if stage.kind == "data")
    if (folder := sources.folder(data, "real images")):
        images, labels = load_images(folder / "test.npz")
        shown.append(("Real images (test)", images[[int((labels == c).nonzero()[0]) for c in range(count)]]))
    for name, arm in plan.arms.items():
        rows = sorted((row for row in sources.rows(name) if row.seed == plan.suite.seeds[0]), key=lambda row: row.steps)
        kept = [] if arm.real else rows[-1:] if is_teacher(arm) else rows[:1] + rows[1:][-1:]
        for row in kept:
            label = steps_label(sources, name, row.steps)
            if (folder := sources.folder(row.stages["sample"], label)):
                shown.append((label, load_images(folder / "samples.npz")[0][:count]))
    lines = max(len(shown), 1)
    side, margin = min(0.42, 9.2 / lines), 3.0  # inches; the whole fits on a page
    width = margin + side * count
    figure, axes = plt.subplots(lines, count, squeeze=False, figsize=(width, side * lines), gridspec_kw={
        "wspace": 0.06, "hspace": 0.06, "left": margin / width, "right": 1, "top": 1, "bottom": 0})
    for axis in axes.flat:
        axis.set_axis_off()
    for line, (label, images) in zip(axes, shown):
        pixels = images.permute(0, 2, 3, 1).numpy()
        for axis, image in zip(line, pixels):
            axis.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=255,
                        interpolation="nearest")
        line[0].text(-0.15, 0.5, label, transform=line[0].transAxes, ha="right", va="center")
    note_below(figure, sources.notes(plan.arms))
    return figure


def histories(sources: Sources, arm: str, kind: str, scalar: str) -> pd.DataFrame:
    """One column a chain, by step; empty where no chain has that stage or that scalar."""
    columns = {}
    for row in {row.stages[kind]: row for row in sources.rows(arm)}.values():
        if (folder := sources.folder(row.stages[kind], f"{sources.label(arm)}, chain {row.seed}")):
            history = pd.read_csv(folder / "history.csv", index_col="step")
            if scalar in history:
                columns[row.seed] = history[scalar]
    return pd.DataFrame(columns)


def plot_chains(axis: Axes, history: pd.DataFrame, **line) -> None:
    """Rolling median over steps: the mean over chains, and a light band from the lowest to the highest chain."""
    if history.empty:
        return
    smooth = history.rolling(max(1, len(history) // 10), center=True, min_periods=1).median()
    axis.plot(smooth.index, smooth.mean(axis=1), **line)
    if smooth.shape[1] > 1:
        axis.fill_between(smooth.index, smooth.min(axis=1), smooth.max(axis=1), color=line["color"], alpha=0.12, linewidth=0)


def stage_two_style(sources: Sources, arm: str) -> dict:
    config, base = sources.plan.arms[arm], sources.plan.suite.base
    return {"color": HEAD_COLOURS.get(head_of(config), "0.5"),
            "linestyle": "--" if not config.trajectory else "-" if config.trajectory == base.trajectory else "-."}


def refined_arms(sources: Sources) -> list[str]:
    """Stage-2 arms of the plain budget; those with equal total compute run for many more steps."""
    return [name for name, arm in sources.plan.arms.items() if arm.refine and not equal_total(sources.plan, name)]


def steps_label(sources: Sources, arm: str, steps: int) -> str:
    return sources.label(arm) + ("" if sources.plan.arms[arm].refine else f", {steps} step{'s' if steps > 1 else ''}")


def stage_two_handles(sources: Sources, arms: list[str]) -> list[Line2D]:
    """Of a legend: colours are heads, line styles initialisations."""
    configs = [sources.plan.arms[arm] for arm in arms]
    heads = {head_of(c): head_name(c) + ("†" if head_of(c).startswith("awd") else "") for c in configs if head_of(c)}
    starts = {stage_two_style(sources, arm)["linestyle"]: f"from {initialisation(sources.plan.arms[arm])}" for arm in arms}
    return [Line2D([], [], color=HEAD_COLOURS.get(head, "0.5"), label=f"head: {name}") for head, name in heads.items()] + [
        Line2D([], [], color="0.4", linestyle=style, label=name) for style, name in starts.items()]


def curves(sources: Sources) -> Figure:
    """Trajectory loss by objective, and what stage 2 does, arm by arm."""
    figure, axes = plt.subplots(2, 3, figsize=(7.2, 4.2), layout="constrained")
    trajectory, *panels, legend = axes.flat
    legend.set_axis_off()
    students = [name for name, arm in sources.plan.arms.items() if arm.trajectory and not arm.refine]
    for name, colour in zip(students, cycle((BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY))):
        plot_chains(trajectory, histories(sources, name, "trajectory", "student/mean_square"), color=colour,
                    label=sources.label(name))
    trajectory.set(title="Trajectory distillation", ylabel="mean square residual", xlabel="step", yscale="log")
    if trajectory.lines:
        trajectory.legend()
    arms = refined_arms(sources)
    for axis, (scalar, title) in zip(panels, {
            "critic/fake_loss": "Fake velocity loss", "generator/dmd_gradient_rms": "DMD gradient, RMS",
            "critic/accuracy": "Critic accuracy", "critic/token_entropy": "Entropy of token weights† / log N"}.items()):
        for name in arms:
            if scalar != "critic/token_entropy" or (head_of(sources.plan.arms[name]) or "").startswith("awd"):
                plot_chains(axis, histories(sources, name, "refine", scalar), **stage_two_style(sources, name))
        axis.set(title=title, xlabel="generator step")
    legend.legend(handles=stage_two_handles(sources, arms), loc="center")
    note_below(figure, sources.notes(arms))
    return figure


def relative_power(sources: Sources, rows: list[Row], name: str) -> np.ndarray:
    """Power over real images (chains, H/2) on integer radii."""
    found = []
    for row in rows:
        if (folder := sources.folder(row.stages["evaluate"], f"{name}, chain {row.seed}" if row.seed is not None else name)):
            with np.load(folder / "rings.npz", allow_pickle=False) as file:
                found.append(file["rings"] / file["real"])
    return np.array(found)


def plot_power(axis: Axes, power: np.ndarray, **line) -> None:
    """Mean over chains, and a light band from the lowest to the highest."""
    if not len(power):
        return
    radii = np.arange(1, power.shape[1] + 1)
    axis.plot(radii, power.mean(0), **line)
    if len(power) > 1:
        axis.fill_between(radii, power.min(0), power.max(0), color=line["color"], alpha=0.12, linewidth=0)


def spectrum(sources: Sources) -> Figure:
    """Relative power against radial frequency: by sampling steps before stage 2, and by head after it."""
    plan = sources.plan
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.4), sharey=True, layout="constrained")
    models = [(name, arm) for name, arm in plan.arms.items() if not (arm.refine or arm.real)]
    for colour, (name, arm) in zip(cycle((BLUE, VERMILION, GREEN, PURPLE)), models):
        for steps, style in zip(arm.steps, cycle(("-", "--", "-.", ":", (0, (1, 3))))):
            label = steps_label(sources, name, steps)
            power = relative_power(sources, sources.rows(name, steps), label)
            plot_power(left, power, color=colour, linestyle=style, label=label)
    arms = refined_arms(sources)
    for name in arms:
        power = relative_power(sources, sources.rows(name), sources.label(name))
        plot_power(right, power, **stage_two_style(sources, name))
    half = plan.suite.data.image_size // 2
    edges = [part[-1] + 0.5 for part in np.array_split(np.arange(1, half + 1), plan.suite.evaluation.bands)[:-1]]
    for axis in (left, right):
        for name in (name for name, arm in plan.arms.items() if arm.real == "test"):
            power = relative_power(sources, sources.rows(name), sources.label(name))
            plot_power(axis, power, color="0.55", linestyle=(0, (4, 1)), linewidth=2.2, zorder=1, label=sources.label(name))
        axis.axhline(1, color="0.3", linewidth=0.7)
        for edge in edges:
            axis.axvline(edge, color="0.75", linewidth=0.7, linestyle=":")
        axis.set(xlabel="radial frequency, cycles an image", yscale="log")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
    left.set(ylabel="power relative to real images", title="Before stage 2, by sampling steps")
    right.set(title="After stage 2, one step")
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.15), "ncol": 2, "columnspacing": 1.5}
    named = [line for line in right.lines if not line.get_label().startswith("_")]
    if left.get_legend_handles_labels()[0]:
        left.legend(**below)
    right.legend(handles=stage_two_handles(sources, arms) + named, **below)
    note_below(figure, sources.notes(arms))
    return figure
