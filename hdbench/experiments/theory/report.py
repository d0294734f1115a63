"""Table and figure of the theory experiment."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator
from scipy.stats import gaussian_kde

from hdbench.core.files import write_together
from hdbench.experiments.theory.config import NAMES, Theory, label, teacher_steps, units
from hdbench.experiments.theory.exact import Material
from hdbench.experiments.theory.students import QUALITY, collect
from hdbench.metrics.records import MISSING, Interval, interval
from hdbench.report import figures
from hdbench.report.document import for_people
from hdbench.report.figures import style as report_figures_style

COLOURS = {
    kind: (colour, marker)
    for kind, colour, marker in zip(
        NAMES,
        (
            report_figures_style.BLACK,
            report_figures_style.BLUE,
            report_figures_style.SKY,
            report_figures_style.PURPLE,
            report_figures_style.ORANGE,
            report_figures_style.VERMILION,
            report_figures_style.GREEN,
        ),
        "hoDPXs^",
    )
}
KERNEL = 0.35  # width of the kernel of drawn densities, in sd of a sub-mode


def run_theory(theory: Theory, results: Path, out: Path) -> list[Path]:
    """Everything: results/theory/metrics.csv, a copy of it, table and figure in out/theory; the paths written."""
    frame, samples, given = collect(theory, results)
    text, folder = frame.to_csv(index=False, lineterminator="\n").encode(), out / "theory"
    table = render(theory, frame)
    contents = {
        results / "theory" / "metrics.csv": text,
        folder / "metrics.csv": text,
        folder / "theory.csv": table.to_csv(index=False, lineterminator="\n").encode(),
        folder / "theory.md": to_markdown(theory, table).encode(),
    }
    with figures.plt.rc_context(report_figures_style.STYLE):
        contents |= report_figures_style.pictures_of(
            draw(theory, frame, samples, given), folder / "theory"
        )
    write_together(contents)
    return list(contents)


def intervals(frame: pd.DataFrame) -> dict[tuple[str, int, str], Interval]:
    """By arm, evaluations of the network and metric: over seeds, or over noises where there is one value."""
    return {
        key: interval(group.value.to_numpy(), group.se.iloc[0])
        for key, group in frame.groupby(["arm", "nfe", "metric"])
    }


def render(theory: Theory, frame: pd.DataFrame) -> pd.DataFrame:
    """One row a student or reference: what it is, and each metric with the half-width of its 95% interval."""
    found = intervals(frame)
    named = [
        ("euler", steps, f"Exact velocity, {steps} Euler step{'s' if steps > 1 else ''}", None)
        for steps in theory.euler_steps
    ]
    named += [
        (unit.arm, 1, label(unit.method, theory.methods[unit.method].objective), unit.width)
        for unit in units(theory)
        if unit.seed == theory.seeds[0]
    ]
    rows = []
    for arm, nfe, name, width in named:
        row = {"arm": arm, "nfe": nfe, "method": name, "width": width}
        for metric in (*QUALITY, "parameters", "training_core_seconds"):
            value = found.get((arm, nfe, metric), MISSING)
            row |= {metric: value.value, f"{metric}_half_width": value.half_width}
        rows.append(row)
    return pd.DataFrame(rows).astype({"width": "Int64"})


def to_markdown(theory: Theory, table: pd.DataFrame) -> str:
    titles = {
        "mean_velocity_error": "Error of u ↓",
        "structure": "Structure",
        "detail": "Detail",
        "parameters": "Parameters",
        "training_core_seconds": "Core-s",
    }
    shown = pd.DataFrame(
        {"Method": table.method, "Width": ["-" if pd.isna(w) else str(w) for w in table.width]}
        | {
            title: [
                for_people(None, Interval(*pair))
                for pair in zip(table[key], table[f"{key}_half_width"])
            ]
            for key, title in titles.items()
        }
    )
    caption = (
        f"Students where the true mean velocity is known, one step from noise, {theory.noises:,} noises. Error: root "
        "mean square of u_theta - u at (eps, 0, 1), relative to u. Structure and detail: 1 is the true law, 0 a law "
        f"without any. 95% t-intervals over {len(theory.seeds)} seeds; of references, over "
        f"noises. Students have {theory.network.layers} hidden layers and {theory.training.steps:,} steps of "
        f"{theory.training.batch} points."
    )
    return caption + "\n\n" + shown.to_markdown(index=False, disable_numparse=True) + "\n"


def draw(
    theory: Theory, frame: pd.DataFrame, samples: dict[tuple[str, int], np.ndarray], given: Material
) -> Figure:
    """Error against the teacher's steps, and of each method; what small and large students generate; scales against width."""
    figure = figures.plt.figure(figsize=(7.2, 5.6), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1))
    found = intervals(frame)
    by_steps, by_method = top.subplots(1, 2, width_ratios=(1, 1.15))
    flow_map, density, widths = bottom.subplots(1, 3, width_ratios=(1, 1, 1.15))
    draw_steps(by_steps, theory, found)
    draw_methods(by_method, theory, found)
    draw_samples(flow_map, density, theory, samples, given)
    draw_widths(widths, theory, found)
    return report_figures_style.note_below(
        figure,
        (
            f"Students of {theory.network.layers} hidden layers, {theory.training.steps:,} steps of {theory.training.batch} "
            f"points from fresh weights, with the exact velocity for their teacher. Error: root mean square over "
            f"{theory.noises:,} noises, relative to that of u. Structure and detail: 1 is the true law, 0 a law without any. "
            f"Intervals: 95%, t over {len(theory.seeds)} seeds. Samples are of seed {theory.seeds[0]}."
        ),
    )


def draw_steps(axis: Axes, theory: Theory, found: dict) -> None:
    steps = sorted(theory.euler_steps)
    axis.plot(
        steps,
        [found["euler", n, "mean_velocity_error"].value for n in steps],
        color=report_figures_style.REFERENCE,
        linestyle=(0, (4, 1)),
        label="exact velocity",
    )
    for kind, shift in (("consistency", 0.94), ("progressive", 1.06)):
        arms = sorted(
            (teacher_steps(method.objective), f"{name}_w{theory.largest}")
            for name, method in theory.methods.items()
            if method.objective.name == kind
        )
        for n, arm in arms:
            report_figures_style.error_bars(
                axis, shift * n, found[arm, 1, "mean_velocity_error"], point(kind)
            )
        axis.plot(
            [shift * n for n, _ in arms],
            [found[arm, 1, "mean_velocity_error"].value for _, arm in arms],
            linewidth=0.7,
            color=COLOURS[kind][0],
            marker=COLOURS[kind][1],
            markersize=5,
            label=f"{NAMES[kind].lower()} student",
        )
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="Euler steps of the teacher",
        ylabel="relative error of u(ε, 0, 1)",
        title="(a) Error against the teacher's steps",
    )
    axis.set_xticks(steps, map(str, steps), minor=False)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter("{x:g}")
    axis.legend(loc="lower left", handlelength=2.5)


def draw_methods(axis: Axes, theory: Theory, found: dict) -> None:
    names = list(theory.methods)[::-1]
    for y, name in enumerate(names):
        value = found[f"{name}_w{theory.largest}", 1, "mean_velocity_error"]
        kind = theory.methods[name].objective.name
        axis.errorbar(
            value.value,
            y,
            xerr=None if math.isnan(value.half_width) else value.half_width,
            elinewidth=0.9,
            ecolor=COLOURS[kind][0],
            **point(kind),
        )
        if (steps := teacher_steps(theory.methods[name].objective)) in theory.euler_steps:
            axis.plot(
                found["euler", steps, "mean_velocity_error"].value,
                y,
                marker="|",
                color=report_figures_style.REFERENCE,
                markersize=9,
                markeredgewidth=1.2,
            )
    axis.set_yticks(
        range(len(names)), [label(name, theory.methods[name].objective) for name in names]
    )
    axis.set(
        xscale="log",
        xlabel="relative error of u(ε, 0, 1)",
        ylim=(-0.6, len(names) - 0.4),
        title=f"(b) Each method, width {theory.largest}; grey: Euler's limit",
    )
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())


def draw_samples(
    flow_map: Axes,
    density: Axes,
    theory: Theory,
    samples: dict[tuple[str, int], np.ndarray],
    given: Material,
) -> None:
    eps, order = given.noises.flatten().numpy(), np.argsort(given.noises.flatten().numpy())
    shown = [(given.truth.flatten().numpy(), {"color": "0.55", "linewidth": 2.6, "label": "true"})]
    for width, colour, style in (
        (theory.largest, report_figures_style.BLUE, "-"),
        (min(theory.widths), report_figures_style.VERMILION, (0, (3, 1))),
    ):
        shown.append(
            (
                samples[f"{theory.shown}_w{width}", theory.seeds[0]],
                {"color": colour, "linestyle": style, "linewidth": 1.1, "label": f"width {width}"},
            )
        )
    extent = 1.15 * (np.abs(given.exact.modes).max() + 2 * theory.data.sd)
    grid = np.linspace(-extent, extent, 241)
    for x, line in shown:
        flow_map.plot(eps[order], x[order], **line)
        density.plot(grid, gaussian_kde(x, KERNEL * theory.data.sd / x.std())(grid), **line)
    flow_map.set(
        xlabel="noise ε",
        ylabel="sample G(ε)",
        ylim=(-extent, extent),
        xlim=(-2.6, 2.6),
        title=f"(c) {NAMES[theory.methods[theory.shown].objective.name]}: the map",
    )
    density.set(xlabel="sample", ylabel="density", ylim=(0, None), title="(d) and its samples")
    flow_map.legend(loc="upper left", handlelength=1.8, borderaxespad=0.2)


def draw_widths(axis: Axes, theory: Theory, found: dict) -> None:
    widths, names = (
        sorted(theory.widths),
        [name for name, method in theory.methods.items() if method.every_width],
    )
    for name, shift in zip(
        names, np.geomspace(0.95, 1.05, len(names)) if len(names) > 1 else (1.0,)
    ):
        kind = theory.methods[name].objective.name
        for metric, line, face in (
            ("structure", "-", COLOURS[kind][0]),
            ("detail", (0, (3, 1)), "white"),
        ):
            values = [found[f"{name}_w{width}", 1, metric] for width in widths]
            for width, value in zip(widths, values):
                report_figures_style.error_bars(
                    axis,
                    shift * width,
                    value,
                    point(kind) | {"markerfacecolor": face, "markersize": 4},
                )
            axis.plot(
                [shift * width for width in widths],
                [value.value for value in values],
                color=COLOURS[kind][0],
                linestyle=line,
                linewidth=0.9,
                zorder=1,
            )
    for level in (0, 1):
        axis.axhline(level, color="0.3", linewidth=0.7)
    handles = [
        Line2D(
            [],
            [],
            color=report_figures_style.REFERENCE,
            linestyle=line,
            marker="o",
            markersize=4,
            markerfacecolor=face,
            label=text,
        )
        for text, line, face in (
            ("structure", "-", report_figures_style.REFERENCE),
            ("detail", (0, (3, 1)), "white"),
        )
    ]
    handles += [
        Line2D(
            [],
            [],
            label=NAMES[theory.methods[name].objective.name],
            **point(theory.methods[name].objective.name),
        )
        for name in names
    ]
    low, high = axis.get_ylim()
    axis.set_ylim(low - 0.4 * (high - low), high + 0.03 * (high - low))
    axis.legend(handles=handles, loc="lower right", handlelength=2.2)
    axis.set(
        xscale="log",
        xlabel="width of the student",
        ylabel="kept of the true law",
        title="(e) Structure and detail",
    )
    axis.set_xticks(widths, map(str, widths), minor=False)
    axis.xaxis.set_minor_locator(NullLocator())


def point(kind: str) -> dict:
    colour, marker = COLOURS[kind]
    return {"color": colour, "marker": marker, "markersize": 5, "linestyle": "none"}
