"""The suite's figures: quality from the collected numbers; samples, training curves, spectra and token weights from artifacts.

Colour is the discriminator head; the marker is what stage 2 starts from, open for controls of equal total compute.  What has
no numbers or no artifact is left out, and a note below the figure says so.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from string import ascii_letters

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from scipy.optimize import isotonic_regression

from hdbench import artifact
from hdbench.arms import base_arm, describe, equal_total, head_name, head_of, is_teacher, same_from_trajectory, same_without_head
from hdbench.artifact import write_together
from hdbench.collect import COLUMNS, MISSING, Entry, Interval, Numbers
from hdbench.discriminators import HEADS
from hdbench.images import first_images, load_images
from hdbench.suite import FIGURES, Plan, Row, total_cost
from hdbench.tables import Column, for_people

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (  # Okabe and Ito's colours, for every kind of sight
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
ALL_HEADS = ("none", *HEADS)
HEAD_COLOURS = dict(zip(ALL_HEADS, cycle((BLACK, ORANGE, GREEN, SKY, VERMILION, BLUE, PURPLE, YELLOW))))
HEAD_LINES = dict(zip(ALL_HEADS, cycle((
    "-", (0, (6, 1.5)), (0, (3, 1)), (0, (1, 1)), (0, (6, 1, 1, 1)), (0, (3, 1, 1, 1)), (0, (3, 1, 1, 1, 1, 1))))))
HEAD_LETTERS = dict(zip(ALL_HEADS, cycle("abcdefghijklmnopqrstuvwxyz")))
REFERENCE = "0.35"  # colour of all that stage 2 is compared with
STYLE = {"font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 7, "xtick.labelsize": 7,
         "ytick.labelsize": 7, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
         "grid.linewidth": 0.5, "lines.linewidth": 1.2, "legend.frameon": False, "pdf.fonttype": 42, "figure.dpi": 200,
         "legend.title_fontsize": 7}
NOTHING = "nothing to draw yet"
SIGNED = Column(key="difference", title="", cell=lambda entry: "-", signed=True)


class Sources:
    """Numbers and artifacts of rows, and lists of what was not there."""

    def __init__(self, plan: Plan, results: Path, numbers: Numbers | None = None):
        self.plan, self.results, self.missing, self.remarks = plan, results, [], []
        self.numbers = numbers or Numbers(plan, pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS), results)

    def folder(self, stage: str, name: str) -> Path | None:
        """The artifact's folder, or None, with `name` noted as missing."""
        if artifact.exists(self.results, stage):
            return artifact.load(self.results, stage)[0]
        self.note_missing(name)
        return None

    def note_missing(self, name: str) -> None:
        if name not in self.missing:
            self.missing.append(name)

    def rows(self, arm: str, steps: int | None = None) -> list[Row]:
        return [row for row in self.plan.rows if row.arm == arm and steps in (None, row.steps)]

    def label(self, arm: str) -> str:
        return describe(self.plan, arm) + dagger(head_of(self.plan.arms[arm]))

    def name(self, entry: Entry) -> str:
        config = self.plan.arms[entry.arm]
        return self.label(entry.arm) + ("" if config.real or config.refine else steps_text(entry.steps))

    def numbers_of(self, entries: Iterable[Entry], *metrics: str) -> dict[Entry, list[Interval]]:
        """Of each entry these metrics; one that lacks any is left out and, as is one with fewer chains, noted."""
        found = {entry: [self.numbers(entry, metric) for metric in metrics] for entry in entries}
        for entry, intervals in list(found.items()):
            name, (have, all_chains), values = self.name(entry), self.numbers.chains(entry), self.numbers.of(entry)
            if not all(math.isfinite(interval.value) for interval in intervals):
                broken = not values.value[values.metric.isin(metrics)].map(math.isfinite).all()
                self.note_missing(name + " (not a number)" * broken)
                del found[entry]
            elif have < all_chains and (remark := f"{name}, {have} of {all_chains}") not in self.remarks:
                self.remarks.append(remark)
        return found

    def notes(self, arms: Iterable[str], *said: str) -> str:
        """What stands under a figure."""
        parts = [self.plan.suite.title, *said]
        if any("†" in self.label(arm) for arm in arms):
            parts.append("†\u00a0Reconstruction: the paper gives no formula")
        for text, names in {"Fewer chains: ": self.remarks, "Not available: ": self.missing}.items():
            if names:
                parts.append(text + "; ".join([*names[:8], *([f"and {len(names) - 8} more"] if len(names) > 8 else [])]))
        return ". ".join([*parts, *(note.rstrip(".") for note in self.numbers.notes)]) + "."

    def intervals_are(self, of: str = "", real: bool = True) -> str:
        if self.numbers.alone:
            return f"95% intervals{of}: over samples, {self.numbers.over}"
        return f"95% intervals{of}: t-intervals over {self.numbers.over}" + ", of real images over samples" * real


def dagger(head: str | None) -> str:
    return "†" if (head or "").startswith("awd") else ""


def steps_text(steps: int) -> str:
    return f", {steps} step{'s' if steps > 1 else ''}"


def draw(plan: Plan, results: Path, out: Path, frame: pd.DataFrame | None = None, anybody: bool = False) -> list[Path]:
    """Every figure into out/<suite>/figures, as pdf and png, from artifacts and metrics (`anybody`: as Numbers); the paths.

    From anybody's metrics, a figure for which there is nothing does not replace one that is there.
    """
    folder, pictures = out / plan.name / "figures", {}

    def numbers(of: Plan) -> Numbers | None:
        return None if frame is None else Numbers(
            of, frame[~frame.arm.isin(plan.arms.keys() - of.arms.keys())], results, anybody)

    parts = {"methods": plan, "forest": ablations(plan, "main", "initialisation")}
    known = {name: (part, numbers(part)) for name, part in {**parts, "": ablations(plan, "main")}.items()}
    for name in FIGURES:
        part, found = known.get(name, known[""])
        with plt.rc_context(STYLE):
            figure = FIGURE_OF[name](Sources(part, results, found))
            if anybody and figure.get_label() == NOTHING and (folder / f"{name}.png").exists():
                plt.close(figure)
            else:
                pictures |= pictures_of(figure, folder / name)
    write_together(pictures)
    return list(pictures)


def pictures_of(figure: Figure, path: Path) -> dict[Path, bytes]:
    """The figure as path.pdf and path.png, the same bytes at every drawing; it is closed."""
    pictures = {}
    for suffix, metadata in {"pdf": {"CreationDate": None}, "png": {}}.items():
        picture = io.BytesIO()
        figure.savefig(picture, format=suffix, metadata=metadata, bbox_inches="tight")
        pictures[path.with_suffix(f".{suffix}")] = picture.getvalue()
    plt.close(figure)
    return pictures


def ablations(plan: Plan, *tables: str) -> Plan:
    """The plan with the arms of these tables and the real images alone: other methods have a figure of their own."""
    shown = {name for table in tables for name in getattr(plan.suite.tables, table).rows}
    arms = {name: arm for name, arm in plan.arms.items() if arm.real or name in shown}
    return replace(plan, arms=arms, rows=[row for row in plan.rows if row.arm in arms])


def note_below(figure: Figure, text: str) -> Figure:
    bottom = min([0, *(legend.get_window_extent().y0 for legend in figure.legends)]) / figure.bbox.height
    figure.text(0.5, bottom - 0.01, textwrap.fill(text, 130), fontsize=6, color="0.35", ha="center", va="top")
    return figure


def nothing(sources: Sources, needed: str) -> Figure:
    """In place of a figure for which there is nothing."""
    figure = plt.figure(figsize=(7.2, 1.0), label=NOTHING)
    figure.text(0.5, 0.5, f"{NOTHING}: {needed}", ha="center", va="center", fontsize=9)
    return note_below(figure, sources.notes(()))


def kind_of(plan: Plan, arm: str) -> str:
    """What an arm is apart from its head and its rule for steps: `Teacher → DMD`."""
    return describe(plan, arm).replace(f" + {head_name(plan.arms[arm])}", "").replace(", equal total", "")


def stage_two(plan: Plan) -> list[str]:
    return [name for name, arm in plan.arms.items() if arm.refine]


def before_stage_two(plan: Plan) -> list[str]:
    return [name for name, arm in plan.arms.items() if not (arm.refine or arm.real)]


def markers(plan: Plan) -> dict[str, str]:
    """Of each arm: round or pointed from a trajectory student, square from the teacher, others before stage 2."""
    shapes = {True: cycle("o^Dv<>"), False: cycle("sph8")}
    kinds = dict.fromkeys((kind_of(plan, arm), bool(plan.arms[arm].trajectory)) for arm in stage_two(plan))
    shape = {kind: next(shapes[student]) for kind, student in kinds}
    return {arm: shape[kind_of(plan, arm)] for arm in stage_two(plan)} | dict(zip(before_stage_two(plan), cycle("*PXd")))


def point_style(plan: Plan, arm: str) -> dict:
    """Colour is the head, and what was not trained by stage 2 grey; open where the total compute is made equal."""
    colour = HEAD_COLOURS.get(head_of(plan.arms[arm]), REFERENCE)
    return {"marker": markers(plan)[arm], "color": colour, "markeredgecolor": colour, "markeredgewidth": 0.9,
            "markerfacecolor": "white" if equal_total(plan, arm) else colour, "linestyle": "none"}


def head_handles(plan: Plan, arms: Iterable[str], **line) -> list[Line2D]:
    """Of a legend: each head's colour, on its own line style or on what is given (of all heads, or by head)."""
    heads = {head: head_name(plan.arms[arm]) + dagger(head) for arm in arms if (head := head_of(plan.arms[arm]))}
    return [Line2D([], [], label=name, color=HEAD_COLOURS[head], **{
        key: value[head] if isinstance(value, dict) else value for key, value in ({"linestyle": HEAD_LINES} | line).items()})
        for head, name in heads.items()]


def marker_handles(sources: Sources, arms: Iterable[str]) -> list[Line2D]:
    """Of a legend: the marker of each kind of arm, in grey."""
    plan, named = sources.plan, {}
    for arm in arms:
        text = sources.label(arm)
        if plan.arms[arm].refine:
            text = kind_of(plan, arm) + (", equal total" if equal_total(plan, arm) else "")
        colours = {"color": REFERENCE, "markeredgecolor": REFERENCE}
        colours |= {} if equal_total(plan, arm) else {"markerfacecolor": REFERENCE}
        named.setdefault(text, Line2D([], [], label=text, **point_style(plan, arm) | colours | {"markersize": 5}))
    return list(named.values())


def legends(figure: Figure, columns: dict[str, list[Line2D]], wide: Sequence[str] = ()) -> None:
    """Up to three legends side by side below the axes, each with its title; those named `wide` in two columns."""
    columns = {title: handles for title, handles in columns.items() if handles}
    places = {0: (), 1: (0.5,), 2: (0, 1), 3: (0, 0.5, 1)}[len(columns)]
    for place, (title, handles) in zip(places, columns.items()):
        side = {0: "left", 0.5: "center", 1: "right"}[place]
        figure.legend(handles=handles, title=title, loc=f"upper {side}", bbox_to_anchor=(place, -0.01), alignment="left",
                      ncol=2 if title in wide else 1)


def error_bars(axis: Axes, x: float, y: Interval, style: dict, x_half: float = math.nan, faint: float = 0.4) -> None:
    axis.errorbar(x, y.value, xerr=None if math.isnan(x_half) else x_half, elinewidth=0.7,
                  yerr=None if math.isnan(y.half_width) else y.half_width, ecolor=to_rgba(style["color"], faint), **style)


def logarithmic(axes: Axes, along: str = "y") -> None:
    axes.set(**{f"{along}scale": "log"})
    axis = getattr(axes, f"{along}axis")
    low, high = sorted(axis.get_view_interval())
    axis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7) if high < 20 * low else (1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def join(axis: Axes, points: Sequence[tuple[float, float]]) -> None:
    """A thin line through one model at several numbers of sampling steps."""
    axis.plot(*zip(*points), color=REFERENCE, linewidth=0.7, zorder=1)


def precision_recall(sources: Sources) -> Figure:
    """Precision against recall; on the right the part around the one-step arms, larger and without intervals."""
    plan, numbers = sources.plan, sources.numbers
    shown = [name for name, arm in plan.arms.items() if arm.real != "train"]
    found = sources.numbers_of((entry for arm in shown for entry in numbers.entries(arm)),
                               *map(numbers.counted, ("recall", "precision")))
    if not found:
        return nothing(sources, "the metrics have none of its arms")
    figure, (whole, part) = plt.subplots(1, 2, figsize=(7.2, 4.4), layout="constrained")
    for axis in (whole, part):
        for arm in before_stage_two(plan):
            if (entries := [entry for entry in found if entry.arm == arm]):
                join(axis, [(found[entry][0].value, found[entry][1].value) for entry in entries])
        for entry, (recall, precision) in found.items():
            if plan.arms[entry.arm].real:
                style = {"marker": "h", "color": REFERENCE, "markersize": 7, "linestyle": "none"}
            else:
                style = point_style(plan, entry.arm) | {"markersize": 4.5 if axis is whole else 7}
            if axis is whole:
                error_bars(axis, recall.value, precision, style, recall.half_width, 0.3)
            else:
                axis.plot(recall.value, precision.value, **style)
            text = HEAD_LETTERS.get(head_of(plan.arms[entry.arm]))
            if text and axis is part:
                colour = style["color"] if equal_total(plan, entry.arm) else "white"
                axis.annotate(text, (recall.value, precision.value), ha="center", va="center_baseline", fontsize=5,
                              color=colour, annotation_clip=True)
            elif not text:
                real = plan.arms[entry.arm].real
                axis.annotate(sources.label(entry.arm) if real else str(entry.steps), (recall.value, precision.value),
                              (0, -11) if real else (6, 2), textcoords="offset points", ha="center" if real else "left",
                              fontsize=6, color=REFERENCE, annotation_clip=True)
        axis.set(xlabel="recall: share of real images near samples")
    whole.set(ylabel="precision: share of samples near real images", title="All, with 95% intervals both ways")
    arms = [entry.arm for entry in found if plan.arms[entry.arm].refine]
    if arms:
        near = np.array([[recall.value, precision.value] for entry, (recall, precision) in found.items()
                         if plan.arms[entry.arm].refine])
        low, high = near.min(0), near.max(0)
        margin = 0.12 * (high - low) + 0.004
        (left, bottom), (right, top) = low - margin, high + margin
        part.set(xlim=(left, right), ylim=(bottom, top), title="Part in the frame, larger, without intervals")
        whole.add_patch(Rectangle((left, bottom), right - left, top - bottom, fill=False, edgecolor="0.2", linewidth=0.7))
    else:
        part.set_axis_off()
    letters = {head: rf"$\mathrm{{{letter}}}$" for head, letter in HEAD_LETTERS.items()}
    models = dict.fromkeys(entry.arm for entry in found if not plan.arms[entry.arm].real)
    legends(figure, {"Head": head_handles(plan, arms, linestyle="none", marker=letters,
                                          markeredgewidth=0.2),
                     "Stage 2": marker_handles(sources, arms),
                     "Without stage 2 (numbers: steps)": marker_handles(sources, [m for m in models if m not in arms])},
            wide=["Head"])
    return note_below(figure, sources.notes(arms, sources.intervals_are()))


def spread(x: Sequence[float], distance: float) -> np.ndarray:
    """The nearest positions in the same order that are at least `distance` apart."""
    order = np.argsort(x, kind="stable")
    shift = distance * np.arange(len(x))
    positions = np.empty(len(x))
    positions[order] = isotonic_regression(np.asarray(x, float)[order] - shift).x + shift
    return positions


def quality(sources: Sources) -> Figure:
    """FD test against what sampling costs, and against what training cost."""
    plan, numbers = sources.plan, sources.numbers
    fd = numbers.counted(numbers.distance)
    models = [name for name, arm in plan.arms.items() if not arm.real]
    entries = sorted((entry for arm in models for entry in numbers.entries(arm)), key=lambda e: (
        not plan.arms[e.arm].refine, equal_total(plan, e.arm)))
    found = sources.numbers_of(entries, fd)
    spent = {entry: interval.value / 1e3 for entry, (interval,) in sources.numbers_of(
        found, "training_forward_equivalents").items()}
    if not found:
        return nothing(sources, "the metrics have none of its arms")
    figure, (sampling, training) = plt.subplots(2, 1, figsize=(7.2, 6.6), sharey=True, layout="constrained")
    one = [entry for entry in found if plan.arms[entry.arm].refine]
    rest = [entry for entry in found if not plan.arms[entry.arm].refine]
    apart = 0.022  # of a factor of ten
    evaluations = dict(zip(rest, spread([math.log10(entry.nfe) for entry in rest], apart)))
    evaluations |= zip(one, spread([math.log10(entry.nfe) for entry in one], apart) - apart * (len(one) + 2) / 2)
    places = {sampling: {entry: 10 ** x for entry, x in evaluations.items()},
              training: dict(zip(spent, spread(list(spent.values()), 0.0095 * max([*spent.values(), 1]))))}
    for axis, place in places.items():
        for arm in before_stage_two(plan):
            if (points := [(x, found[entry][0].value) for entry, x in place.items() if entry.arm == arm]):
                join(axis, points)
        for entry, x in place.items():
            error_bars(axis, x, found[entry][0], point_style(plan, entry.arm) | {"markersize": 4})
        floor(sources, axis, fd)
        axis.set_ylabel(f"{title_of(numbers, numbers.distance)}, lower is better")
        logarithmic(axis)
    if one:
        left = min(places[sampling][entry] for entry in one) / 1.05
        sampling.axvspan(left, 10 ** -apart, color=REFERENCE, alpha=0.07, zorder=0, linewidth=0)
        sampling.set_xlim(left, 1.15 * max(entry.nfe for entry in found))
    evaluated = sorted({entry.nfe for entry in found})
    sampling.set(title="Quality against the cost of sampling", xscale="log", xticks=evaluated, xticklabels=evaluated,
                 xlabel="network evaluations an image (NFE; guidance counts twice); shaded: one evaluation, spread sideways")
    sampling.xaxis.set_minor_locator(NullLocator())
    training.set(xlabel="training after the teacher's: thousand forward-equivalents (kFE); equal costs are spread sideways",
                 title="Quality against the cost of training")
    arms = dict.fromkeys(entry.arm for entry in one)
    heads = "Head (in this order from left to right)"
    legends(figure, {heads: head_handles(plan, arms, linestyle="none", marker="o", markersize=4),
                     "Stage 2": marker_handles(sources, arms),
                     "Without stage 2 (joined: by steps)": [
                         *marker_handles(sources, dict.fromkeys(entry.arm for entry in rest)),
                         *sampling.get_legend_handles_labels()[0]]}, wide=[heads])
    return note_below(figure, sources.notes(arms, sources.intervals_are()))


def methods(sources: Sources) -> Figure:
    """FD test of every method by its sampling steps, and against what its training took; equal letters, equal method."""
    plan, numbers = sources.plan, sources.numbers
    fd = numbers.counted(numbers.distance)
    arms = [name for name in plan.suite.tables.methods.rows if not plan.arms[name].real]
    found = {entry: interval for entry, (interval,) in sources.numbers_of(
        (entry for arm in arms for entry in numbers.entries(arm)), fd).items()}
    if not found:
        return nothing(sources, "the metrics have no method")
    arms = sorted(dict.fromkeys(entry.arm for entry in found),
                  key=lambda arm: next(interval.value for entry, interval in found.items() if entry.arm == arm))
    letters = dict(zip(arms, (*ascii_letters, *map(str, range(len(arms))))))
    steps = sorted({entry.steps for entry in found})
    styles = dict(zip(steps, zip(cycle((BLACK, ORANGE, SKY, GREEN, VERMILION, BLUE, PURPLE)), cycle("osD^vP*"))))
    figure, (by_steps, by_cost) = plt.subplots(
        1, 2, figsize=(7.2, 1.6 + 0.19 * len(arms)), layout="constrained", width_ratios=(1.25, 1))
    trained = []
    for place, arm in enumerate(arms):
        own = sorted((entry for entry in found if entry.arm == arm), key=lambda entry: entry.steps)
        shift = dict(zip(own, np.linspace(-0.2, 0.2, len(own)) if len(own) > 1 else [0.0]))
        for entry in own:
            colour, marker = styles[entry.steps]
            by_steps.errorbar(found[entry].value, place + shift[entry], marker=marker, color=colour, markersize=3.5,
                              xerr=None if math.isnan(found[entry].half_width) else found[entry].half_width,
                              elinewidth=0.7, linestyle="none")
        spent = sources.numbers_of(own[:1], "training_core_seconds").get(own[0], [MISSING])[0]
        if not is_teacher(plan.arms[arm]) and math.isfinite(spent.value):
            trained.append((spent.value, found[own[0]], own[0]))
    for cost, interval, entry in trained:
        error_bars(by_cost, cost, interval, {"marker": ".", "markersize": 3, "color": styles[entry.steps][0],
                                             "linestyle": "none"})
        near = [other - cost for other, level, of in trained
                if of != entry and math.isclose(level.value, interval.value, rel_tol=0.05)]
        side, aside = ("right", -2) if min(near, key=abs, default=0) > 0 else ("left", 2)  # away from the nearest as high
        by_cost.annotate(letters[entry.arm], (cost, interval.value), (aside, 0), textcoords="offset points", ha=side,
                         va="center", fontsize=7)
    by_steps.set(yticks=range(len(arms)), yticklabels=[f"{sources.label(arm)}  {letters[arm]}" for arm in arms],
                 xlabel=f"{title_of(numbers, numbers.distance)}, lower is better", title="Quality by steps of sampling")
    logarithmic(by_steps, "x")
    by_steps.invert_yaxis()
    by_cost.set(xlabel="training after the teacher's: core-seconds", ylabel=title_of(numbers, numbers.distance),
                title="Quality at its fewest steps, and the training's time")
    logarithmic(by_cost)
    handles = [Line2D([], [], label=f"{count} step{'s' if count > 1 else ''}", color=styles[count][0],
                      marker=styles[count][1], markersize=4, linestyle="none") for count in steps]
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, -0.01), ncol=len(steps))
    base = base_arm(plan)
    others = [sources.label(arm) for arm in arms if base and not is_teacher(plan.arms[arm])
              and abs(total_cost(plan, plan.arms[arm]) / total_cost(plan, plan.arms[base]) - 1) > 0.02]
    equal = f"Training compute within 2% of that of {sources.label(base)}" if base else "Training compute differs"
    return note_below(figure, sources.notes(
        arms, equal + (f", but for {', '.join(others)}" if base and others else ""), sources.intervals_are(real=False)))


def title_of(numbers: Numbers, metric: str) -> str:
    """`FD test 4k`, for axes."""
    return numbers.counted(metric).replace("fd_", "FD ").replace("fid", "FID").replace("_", " ")


def floor(sources: Sources, axis: Axes, metric: str) -> None:
    """What real training images score: test images against themselves would measure nothing."""
    real = [e for name, arm in sources.plan.arms.items() if arm.real == "train" for e in sources.numbers.entries(name)]
    for entry, (interval,) in sources.numbers_of(real, metric).items():
        axis.axhline(interval.value, color=REFERENCE, linestyle="--", linewidth=1, label=f"{sources.label(entry.arm)}: floor")
        axis.axhspan(interval.value - interval.half_width, interval.value + interval.half_width, color=REFERENCE, alpha=0.12,
                     linewidth=0, zorder=0)


def forest(sources: Sources) -> Figure:
    """Paired differences of FD test: each head against none, and each start of stage 2 against the suite's own."""
    plan, numbers = sources.plan, sources.numbers
    panels = {"A discriminator head, against none": same_without_head,
              "Another start of stage 2, same head": same_from_trajectory}
    grouped = [groups_of_differences(sources, reference) for reference in panels.values()]
    if not any(grouped):
        return nothing(sources, "the metrics have no two arms that are compared")
    lines = max(sum(len(group) + 1.3 for group in groups.values()) for groups in grouped)
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 0.9 + 0.155 * lines), sharex=True, layout="constrained")
    for axis, title, groups in zip(axes, panels, grouped):
        y, ticks = 0.0, {}
        for heading, group in groups.items():
            axis.text(0, y, heading, transform=axis.get_yaxis_transform(), fontsize=7, weight="bold", va="center",
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5}, zorder=3)
            for arm, interval in group.items():
                y += 1
                axis.errorbar(interval.value, y, xerr=None if math.isnan(interval.half_width) else interval.half_width,
                              elinewidth=1, **point_style(plan, arm) | {"markersize": 4})
                axis.text(1.02, y, for_people(SIGNED, interval), transform=axis.get_yaxis_transform(), fontsize=6.5,
                          va="center")
                ticks[y] = head_name(plan.arms[arm]) + dagger(head_of(plan.arms[arm]))
            y += 1.3
        axis.axvline(0, color="0.2", linewidth=0.8, zorder=1)
        axis.set(ylim=(lines - 0.3, -1.6), yticks=list(ticks), yticklabels=list(ticks.values()), title=title,
                 xlabel=f"difference of {title_of(numbers, numbers.distance)}")
        axis.grid(axis="y", visible=False)
        axis.spines["left"].set_visible(False)
        axis.tick_params(axis="y", length=0)
        for text, side, x in (("← better", "right", -3), ("worse →", "left", 3)):
            axis.annotate(text, (0, -1.1), (x, 0), textcoords="offset points", ha=side, va="center", fontsize=6.5)
    figure.get_layout_engine().set(wspace=0.08)
    arms = [arm for groups in grouped for group in groups.values() for arm in group]
    unknown = any(math.isnan(interval.half_width) for groups in grouped for g in groups.values() for interval in g.values())
    return note_below(figure, sources.notes(arms, sources.intervals_are(" of differences within a chain", real=False), *(
        ["Without interval: the artifacts that it needs are not there"] if unknown else [])))


def groups_of_differences(sources: Sources, reference) -> dict[str, dict[str, Interval]]:
    """By heading and arm: FD test minus that of the arm that `reference` names."""
    plan, numbers, groups = sources.plan, sources.numbers, {}
    for arm in stage_two(plan):
        other = reference(plan, arm)
        if other is None or other == arm:
            continue
        pair = [numbers.entries(name)[0] for name in (arm, other)]
        difference = numbers.difference(*pair, numbers.distance)
        if len(sources.numbers_of(pair, numbers.counted(numbers.distance))) == 2 and math.isfinite(difference.value):
            rule = ", equal total" if equal_total(plan, arm) else ""
            against = "" if reference is same_without_head else f" − {kind_of(plan, other)}"
            groups.setdefault(kind_of(plan, arm) + rule + against, {})[arm] = difference
    return groups


def samples(sources: Sources) -> Figure:
    """The same noises (columns) through every method (rows), first chain; on top real test images of those classes."""
    plan, shown = sources.plan, []
    count = min(10, plan.suite.data.classes or 10)
    data = next(stage.id for stage in plan.stages.values() if stage.kind == "data")
    folder = sources.folder(data, "real images")
    if folder and (folder / "test.npz").is_file():
        images, labels = load_images(folder / "test.npz")
        shown.append(("real", "Real images (test)", images[:count] if plan.suite.text else
                      images[[int((labels == c).nonzero()[0]) for c in range(count)]]))
    for name, arm in plan.arms.items():
        rows = sorted((row for row in sources.rows(name) if row.seed == plan.suite.seeds[0]), key=lambda row: row.steps)
        kept = [] if arm.real else rows[-1:] if is_teacher(arm) else rows[:1] + rows[1:][-1:]
        for row in kept:
            label = sources.name(Entry(name, row.steps, row.nfe))
            group = (kind_of(plan, name), equal_total(plan, name)) if arm.refine else "before stage 2"
            if (folder := sources.folder(row.stages["sample"], label)):
                shown.append((group, label, first_images(folder, count)))
    if not shown:
        return nothing(sources, "results has no samples")
    tops = np.cumsum([0, *(1 + 0.25 * (above[0] != below[0]) for above, below in zip(shown, shown[1:]))])  # in rows
    side, margin = min(0.42, 9.2 / (tops[-1] + 1)), 2.6  # inches; the whole fits on a page
    size = np.array([margin + side * count, side * (tops[-1] + 1)])
    figure = plt.figure(figsize=size)
    for top, (_, label, images) in zip(tops, shown):
        pixels = np.pad(images.permute(2, 0, 3, 1).numpy(), ((0, 1), (0, 0), (0, 1), (0, 0)), constant_values=255)
        line = pixels.reshape(len(pixels), -1, pixels.shape[-1])  # one image of all, with white lines between
        axis = figure.add_axes((margin / size[0], 1 - side * (top + 1) / size[1], side * count / size[0], side / size[1]))
        axis.imshow(line if line.shape[-1] == 3 else line[..., 0], cmap="gray", vmin=0, vmax=255, interpolation="nearest",
                    aspect="auto")
        axis.set_axis_off()
        figure.text((margin - 0.08) / size[0], 1 - side * (top + 0.5) / size[1], label, ha="right", va="center")
    return note_below(figure, sources.notes(plan.arms, f"Columns: equal noises and classes; chain {plan.suite.seeds[0]}"))


def histories(sources: Sources, arm: str, kind: str) -> dict[int, pd.DataFrame]:
    """By chain what that stage of an arm has recorded, by step; without chains that have no such stage."""
    found = {}
    for row in {row.stages[kind]: row for row in sources.rows(arm) if kind in row.stages}.values():
        if (folder := sources.folder(row.stages[kind], f"{sources.label(arm)}, chain {row.seed}")):
            found[row.seed] = pd.read_csv(folder / "history.csv", index_col="step")
    return found


def scalar_of(found: dict[int, pd.DataFrame], scalar: str) -> pd.DataFrame:
    """One column a chain; empty where none has that scalar."""
    return pd.DataFrame({seed: history[scalar] for seed, history in found.items() if scalar in history})


def plot_chains(axis: Axes, history: pd.DataFrame, **line) -> None:
    """Rolling median over steps: the mean over chains, and a light band from the lowest to the highest chain."""
    if not history.empty:
        smooth = history.rolling(max(1, len(history) // 10), center=True, min_periods=1).median()
        plot_band(axis, smooth.index, smooth.to_numpy().T, **line)


def plot_band(axis: Axes, x: Sequence[float], chains: np.ndarray, **line) -> None:
    """The mean over chains (rows), and a light band from the lowest to the highest."""
    axis.plot(x, chains.mean(0), **line)
    if len(chains) > 1:
        axis.fill_between(x, chains.min(0), chains.max(0), color=line["color"], alpha=0.1, linewidth=0)


def by_kind(plan: Plan) -> dict[str, list[str]]:
    """Stage-2 arms of the plain budget by what they start from; those of equal total compute run for many more steps."""
    groups = {}
    for arm in stage_two(plan):
        if not equal_total(plan, arm):
            groups.setdefault(kind_of(plan, arm), []).append(arm)
    return groups


def head_style(plan: Plan, arm: str) -> dict:
    head = head_of(plan.arms[arm])
    return {"color": HEAD_COLOURS.get(head, REFERENCE), "linestyle": HEAD_LINES.get(head, "-")}


def curves(sources: Sources) -> Figure:
    """A column for each start: the residual of its trajectory stage, and below what stage 2 does, head by head."""
    plan, groups = sources.plan, by_kind(sources.plan)
    refined = [arm for arms in groups.values() for arm in arms]
    used = [plan.arms[arm].trajectory for arm in refined]
    groups |= {sources.label(arm): [arm] for arm in before_stage_two(plan) if plan.arms[arm].trajectory not in (None, *used)}
    scalars = {"critic/fake_loss": "fake velocity loss", "generator/dmd_gradient_rms": "DMD gradient,\nroot mean square",
               "critic/accuracy": "critic accuracy", "critic/token_entropy": "entropy of token\nweights† / log N"}
    figure, axes = plt.subplots(5, max(len(groups), 1), figsize=(7.2, 7.4), squeeze=False, layout="constrained")
    for column, (heading, arms) in zip(axes.T, groups.items()):
        column[0].set_title(heading, weight="bold")
        plot_chains(column[0], scalar_of(histories(sources, arms[0], "trajectory"), "student/mean_square"), color=REFERENCE)
        logarithmic(column[0])
        for arm in arms:
            found = histories(sources, arm, "refine")
            for axis, scalar in zip(column[1:], scalars):
                if scalar != "critic/token_entropy" or dagger(head_of(plan.arms[arm])):
                    plot_chains(axis, scalar_of(found, scalar), **head_style(plan, arm))
    for axis in (axis for axis in axes.flat if not axis.lines):
        axis.set_axis_off()
    for line, label in zip(axes, ("trajectory stage:\nmean square residual", *scalars.values())):
        drawn = [axis for axis in line if axis.lines]
        for axis in drawn[1:] if label in scalars.values() else []:
            axis.sharey(drawn[0])
        for axis in drawn[:1]:
            axis.set_ylabel(label)
            axis.autoscale(axis="y")
    for column in axes.T:
        for line, label in ((column[:1], "step of the trajectory stage"), (column[1:], "generator step")):
            for axis in [axis for axis in line if axis.lines][-1:]:
                axis.set_xlabel(label)
    if not any(axis.lines for axis in axes.flat):
        plt.close(figure)
        return nothing(sources, "results has no trained stage")
    figure.legend(handles=head_handles(plan, refined), title="Head", loc="upper center", bbox_to_anchor=(0.5, 0), ncol=7)
    return note_below(figure, sources.notes(
        refined, "Lines: rolling medians, mean over chains; bands: from the lowest to the highest chain"))


def relative_power(sources: Sources, rows: list[Row], name: str) -> np.ndarray:
    """Power over real images (chains, H/2) on integer radii."""
    found = []
    for row in rows:
        folder = sources.folder(row.stages["evaluate"], f"{name}, chain {row.seed}" if row.seed is not None else name)
        if folder and (folder / "rings.npz").is_file():  # the protocols of large images have no spectrum
            with np.load(folder / "rings.npz", allow_pickle=False) as file:
                found.append(file["rings"] / file["real"])
    return np.array(found)


def plot_power(axis: Axes, power: np.ndarray, **line) -> None:
    if len(power):
        plot_band(axis, np.arange(1, power.shape[1] + 1), power, **line)


def spectrum(sources: Sources) -> Figure:
    """Relative power against radial frequency: by sampling steps before stage 2, and by head after it."""
    plan, groups = sources.plan, by_kind(sources.plan)
    figure, axes = plt.subplots(-(-(1 + len(groups)) // 2), 2, figsize=(7.2, 0.9 + 2.3 * -(-(1 + len(groups)) // 2)),
                                squeeze=False, sharex=True, sharey=True, layout="constrained")
    before, *after = list(axes.flat)[:1 + len(groups)]
    for axis in list(axes.flat)[1 + len(groups):]:
        axis.set_axis_off()
    for colour, arm in zip(cycle((BLUE, VERMILION, GREEN, PURPLE)), before_stage_two(plan)):
        for entry, style in zip(sources.numbers.entries(arm), cycle(("-", (0, (5, 1.5)), (0, (2, 1)), (0, (1, 1))))):
            power = relative_power(sources, sources.rows(arm, entry.steps), sources.name(entry))
            plot_power(before, power, color=colour, linestyle=style, label=sources.name(entry))
    for axis, arms in zip(after, groups.values()):
        for arm in arms:
            plot_power(axis, relative_power(sources, sources.rows(arm), sources.label(arm)), **head_style(plan, arm))
    arms = [arm for group in groups.values() for arm in group]
    half = plan.suite.data.image_size // 2
    edges = [part[-1] + 0.5 for part in np.array_split(np.arange(1, half + 1), plan.suite.evaluation.bands)[:-1]]
    real = [(name, relative_power(sources, sources.rows(name), sources.label(name)))
            for name, arm in plan.arms.items() if arm.real == "test"]
    if not (any(axis.lines for axis in axes.flat) or any(len(power) for _, power in real)):
        plt.close(figure)
        return nothing(sources, "results has no measured arm")
    for axis, title in zip((before, *after), ("Before stage 2, by sampling steps", *(f"{kind}, one step" for kind in groups))):
        for name, power in real:
            plot_power(axis, power, color="0.6", linestyle=(0, (4, 1)), linewidth=2.2, zorder=1, label=sources.label(name))
        axis.axhline(1, color="0.3", linewidth=0.7)
        for edge in edges:
            axis.axvline(edge, color="0.75", linewidth=0.7, linestyle=":")
        axis.set_title(title)
        logarithmic(axis)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    figure.supxlabel("radial frequency, cycles an image", fontsize=8)
    figure.supylabel("power relative to real images", fontsize=8)
    legends(figure, {"Before stage 2": before.get_legend_handles_labels()[0], "After: head": head_handles(plan, arms)},
            wide=["Before stage 2", "After: head"])
    return note_below(figure, sources.notes(arms, "Bands: from the lowest to the highest chain; dotted: edges of the bands of "
                                                  "the tables"))


def weights(sources: Sources) -> Figure:
    """Where adaptive heads look in fake samples: mean weight of each token at some steps, and entropy over all steps."""
    plan, shown = sources.plan, {}
    for arm in (arm for arm in stage_two(plan) if dagger(head_of(plan.arms[arm]))):
        if (found := histories(sources, arm, "refine")):
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
    figure, axes = plt.subplots(len(shown), len(fractions) + 1, figsize=(7.2, 0.9 + 0.78 * len(shown)), squeeze=False,
                                layout="constrained", width_ratios=[1] * len(fractions) + [3])
    for line, (arm, (first, entropy)) in zip(axes, shown.items()):
        side = math.isqrt(first.shape[1])
        for axis, fraction in zip(line, fractions):
            grid = first.iloc[round(fraction * (len(first) - 1))].to_numpy().reshape(side, -1)
            image = axis.imshow(grid.clip(1 / largest), cmap="PuOr_r", norm=LogNorm(1 / largest, largest))
            axis.set(xticks=[], yticks=[], frame_on=False)
            axis.set_xlabel(f"step {first.index[round(fraction * (len(first) - 1))]}", fontsize=6, labelpad=1)
        line[0].set_ylabel(sources.label(arm).replace(" → ", " →\n").replace(", ", ",\n"), rotation=0, ha="right",
                           va="center", fontsize=7)
        for seed in entropy:
            line[-1].plot(entropy.index, entropy[seed], color=HEAD_COLOURS[head_of(plan.arms[arm])], linewidth=0.8)
        line[-1].sharey(axes[0, -1])
    for axis, title in zip(axes[0], ("start", *(f"{fraction:.0%}" for fraction in fractions[1:-1]), "end",
                                     "entropy of weights / log N, each chain")):
        axis.set_title(title)
    axes[-1, -1].set_xlabel("generator step")
    bar = figure.colorbar(image, ax=axes[:, :-1], location="bottom", aspect=40, shrink=0.8, extend="min", format="{x:.2g}",
                          ticks=np.geomspace(1 / largest, largest, 5),
                          label=f"mean weight × N of each of N tokens, chain {plan.suite.seeds[0]}; 1: all tokens alike")
    bar.minorticks_off()
    return note_below(figure, sources.notes(shown, "Weights and entropy are means over the fake samples of a step"))


FIGURE_OF = {"samples": samples, "curves": curves, "spectrum": spectrum, "precision_recall": precision_recall,
             "quality": quality, "methods": methods, "forest": forest, "weights": weights}
