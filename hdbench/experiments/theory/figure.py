"""The figure of the theory experiment, panel by panel."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator
from scipy.stats import gaussian_kde

from hdbench.experiments.report import Intervals
from hdbench.experiments.theory.collect import Results
from hdbench.experiments.theory.config import Theory
from hdbench.report.figures import style

COLOURS = (
    style.BLACK,
    style.BLUE,
    style.PURPLE,
    style.VERMILION,
    style.GREEN,
    style.SKY,
    style.ORANGE,
)
LOOKS = tuple(zip(COLOURS, "hoPs^DX", strict=True))  # of objectives, as the configuration has them
ERROR = "mean_velocity_error"
DASHED = (0, (3, 1))
KERNEL = 0.35  # width of the kernel of drawn densities, in sd of a sub-mode


def draw(theory: Theory, results: Results) -> Figure:
    """Errors by teacher steps and by method, samples of two students, scales by width."""
    figure = style.plt.figure(figsize=(7.2, 5.6), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1))
    by_steps, by_method = top.subplots(1, 2, width_ratios=(1, 1.15))
    flow_map, density, by_width = bottom.subplots(1, 3, width_ratios=(1, 1, 1.15))
    panels = Panels(theory, results)
    panels.draw_steps(by_steps)
    panels.draw_methods(by_method)
    panels.draw_samples(flow_map, density)
    panels.draw_widths(by_width)
    return style.note_below(
        figure,
        f"Students of {theory.network.layers} hidden layers, {theory.training.steps:,} steps of "
        f"{theory.training.batch} points from fresh weights, with the exact velocity for their "
        f"teacher. Error: root mean square over {theory.noises:,} noises, relative to that of u. "
        "Structure and detail: 1 is the true distribution, 0 a distribution without any. "
        f"Intervals: 95%, t over {len(theory.seeds)} seeds. Samples are of seed {theory.seeds[0]}.",
    )


class Panels:
    """The panels, and what they share: intervals, and the look of each objective."""

    def __init__(self, theory: Theory, results: Results):
        self.theory = theory
        self.results = results
        self.intervals = Intervals(results.frame, nfe=1)
        kinds = dict.fromkeys(method.objective.name for method in theory.methods.values())
        self.looks = dict(zip(kinds, cycle(LOOKS)))

    def point(self, name: str) -> dict:
        """Of a method: that of its objective."""
        colour, marker = self.looks[self.theory.methods[name].objective.name]
        return {"color": colour, "marker": marker, "markersize": 5, "linestyle": "none"}

    def draw_steps(self, axis: Axes) -> None:
        """Euler's error, and that of students which follow the teacher's steps."""
        steps = sorted(self.theory.euler_steps)
        axis.plot(
            steps,
            [self.intervals("euler", ERROR, n).value for n in steps],
            color=style.REFERENCE,
            linestyle=(0, (4, 1)),
            label="exact velocity",
        )
        followers: dict[str, dict[str, int]] = {}
        for name, method in self.theory.methods.items():
            if method.teacher_steps:
                followers.setdefault(method.objective.name, {})[name] = method.teacher_steps
        for by_name, shift in zip(followers.values(), spread(0.06, len(followers)), strict=True):
            self.draw_followers(axis, by_name, shift)
        axis.set(
            xscale="log",
            yscale="log",
            xlabel="Euler steps of the teacher",
            ylabel="relative error of u(ε, 0, 1)",
            title="(a) Error against the teacher's steps",
        )
        label_ticks(axis, steps)
        axis.yaxis.set_major_formatter("{x:g}")
        axis.legend(loc="lower left", handlelength=2.5)

    def draw_followers(self, axis: Axes, steps: Mapping[str, int], shift: float) -> None:
        """Methods of one objective by the number of the teacher's steps."""
        names = sorted(steps, key=lambda name: steps[name])
        x = [shift * steps[name] for name in names]
        values = [self.intervals(f"{name}_w{self.theory.largest}", ERROR) for name in names]
        point = self.point(names[0])
        for place, value in zip(x, values, strict=True):
            style.error_bars(axis, place, value, point)
        axis.plot(
            x,
            [value.value for value in values],
            linewidth=0.7,
            label=f"{self.theory.methods[names[0]].short_title.lower()} student",
            **point | {"linestyle": "-"},
        )

    def draw_methods(self, axis: Axes) -> None:
        """Each method's error at the largest width, and Euler's limit of those that have one."""
        names = list(self.theory.methods)[::-1]
        for y, name in enumerate(names):
            value = self.intervals(f"{name}_w{self.theory.largest}", ERROR)
            point = self.point(name)
            axis.errorbar(
                value.value,
                y,
                xerr=None if math.isnan(value.half_width) else value.half_width,
                elinewidth=0.9,
                ecolor=point["color"],
                **point,
            )
            steps = self.theory.methods[name].teacher_steps
            if steps in self.theory.euler_steps:
                axis.plot(
                    self.intervals("euler", ERROR, steps).value,
                    y,
                    marker="|",
                    color=style.REFERENCE,
                    markersize=9,
                    markeredgewidth=1.2,
                )
        axis.set_yticks(range(len(names)), [self.theory.methods[name].full_title for name in names])
        axis.set(
            xscale="log",
            xlabel="relative error of u(ε, 0, 1)",
            ylim=(-0.6, len(names) - 0.4),
            title=f"(b) Each method, width {self.theory.largest}; grey: Euler's limit",
        )
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())

    def draw_samples(self, flow_map: Axes, density: Axes) -> None:
        """Maps and densities of the smallest and the largest student of the shown method."""
        theory = self.theory
        exact = self.results.material.exact
        eps = self.results.material.noises.flatten().numpy()
        order = np.argsort(eps)
        truth = self.results.material.truth.flatten().numpy()
        lines = [(truth, {"color": "0.55", "linewidth": 2.6, "label": "true"})]
        for width, colour, dashes in (
            (theory.largest, style.BLUE, "-"),
            (min(theory.widths), style.VERMILION, DASHED),
        ):
            samples = self.results.samples[f"{theory.shown}_w{width}", theory.seeds[0]]
            line = {"color": colour, "linestyle": dashes, "linewidth": 1.1}
            lines.append((samples, line | {"label": f"width {width}"}))
        extent = 1.15 * (np.abs(exact.modes).max() + 2 * theory.data.sd)
        grid = np.linspace(-extent, extent, 241)
        for x, line in lines:
            flow_map.plot(eps[order], x[order], **line)
            density.plot(grid, gaussian_kde(x, KERNEL * theory.data.sd / x.std())(grid), **line)
        flow_map.set(
            xlabel="noise ε",
            ylabel="sample G(ε)",
            ylim=(-extent, extent),
            xlim=(-2.6, 2.6),
            title=f"(c) {theory.methods[theory.shown].short_title}: the map",
        )
        density.set(xlabel="sample", ylabel="density", ylim=(0, None), title="(d) and its samples")
        flow_map.legend(loc="upper left", handlelength=1.8, borderaxespad=0.2)

    def draw_widths(self, axis: Axes) -> None:
        """Structure and detail against width."""
        widths = sorted(self.theory.widths)
        names = [name for name, method in self.theory.methods.items() if method.every_width]
        for name, shift in zip(names, spread(0.05, len(names)), strict=True):
            self.draw_kept(axis, name, "structure", shift, "-", self.point(name)["color"])
            self.draw_kept(axis, name, "detail", shift, DASHED, "white")
        for level in (0, 1):
            axis.axhline(level, color="0.3", linewidth=0.7)
        low, high = axis.get_ylim()
        axis.set_ylim(low - 0.4 * (high - low), high + 0.03 * (high - low))
        handles = [
            scale_handle("structure", "-", style.REFERENCE),
            scale_handle("detail", DASHED, "white"),
        ]
        handles += [
            Line2D([], [], label=self.theory.methods[name].short_title, **self.point(name))
            for name in names
        ]
        axis.legend(handles=handles, loc="lower right", handlelength=2.2)
        axis.set(
            xscale="log",
            xlabel="width of the student",
            ylabel="kept of the true distribution",
            title="(e) Structure and detail",
        )
        label_ticks(axis, widths)

    def draw_kept(self, axis: Axes, name: str, metric: str, shift: float, line, face: str) -> None:
        """One scale of a method against width."""
        widths = sorted(self.theory.widths)
        values = [self.intervals(f"{name}_w{width}", metric) for width in widths]
        point = self.point(name) | {"markerfacecolor": face, "markersize": 4}
        for width, value in zip(widths, values, strict=True):
            style.error_bars(axis, shift * width, value, point)
        axis.plot(
            [shift * width for width in widths],
            [value.value for value in values],
            color=point["color"],
            linestyle=line,
            linewidth=0.9,
            zorder=1,
        )


def spread(share: float, count: int) -> Iterable[float]:
    """Factors around 1 that keep points of equal x apart."""
    return np.geomspace(1 - share, 1 + share, count) if count > 1 else (1.0,) * count


def scale_handle(label: str, line, face: str) -> Line2D:
    return Line2D(
        [],
        [],
        color=style.REFERENCE,
        linestyle=line,
        marker="o",
        markersize=4,
        markerfacecolor=face,
        label=label,
    )


def label_ticks(axis: Axes, values: Sequence[int]) -> None:
    """These x alone, in full."""
    axis.set_xticks(values, map(str, values), minor=False)
    axis.xaxis.set_minor_locator(NullLocator())
