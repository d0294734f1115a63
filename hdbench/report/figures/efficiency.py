"""Quality against what an image costs: FLOPs, and latencies measured side by side."""

from __future__ import annotations

import math
from typing import NamedTuple

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

from hdbench.report.figures.base import Figure
from hdbench.report.figures.sources import Sources
from hdbench.report.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    error_bars,
    floor,
    logarithmic,
    note_below,
    nothing,
    title_of,
)
from hdbench.report.latency import FULL, SINGLE
from hdbench.report.numbers import Entry
from hdbench.suite.schema import Arm


class Family(NamedTuple):
    """How a kind of sampling is drawn; `joined`: a line through an arm's numbers of steps."""

    label: str
    colour: str
    marker: str
    joined: bool = False


SOLVERS = {
    "euler": Family("Teacher, Euler", BLACK, "s", True),
    "heun": Family("Teacher, Heun", SKY, "s", True),
    "dpm_solver": Family("Teacher, DPM-Solver++(2M)", BLUE, "D", True),
    "unipc": Family("Teacher, UniPC", GREEN, "^", True),
}
REUSE = Family("Teacher, features reused", ORANGE, "P")
INTERVAL = Family("Teacher, guidance in an interval", PURPLE, "X", True)
GUIDANCE = Family("Guidance-distilled, one evaluation a step", PURPLE, "o", True)
FEW = Family("Few-step students", "0.6", "v")
ONE = Family("One-step students", VERMILION, ".")
AXES = {
    "sampling_flops": ("MFLOPs an image", 1e-6),
    SINGLE: ("milliseconds, batch 1", 1.0),
    FULL: ("milliseconds an image, full batch", 1.0),
}


def family(arm: Arm, steps: int) -> Family:
    """By how the arm is sampled, and with how many steps."""
    if arm.sampling:
        if arm.sampling.reuse:
            return REUSE
        return INTERVAL if arm.sampling.guidance else SOLVERS[arm.sampling.solver]
    last = arm.refine or arm.trajectory
    if last is None:
        return (ONE if steps == 1 else FEW) if arm.baseline else SOLVERS["euler"]
    if last.objective.sampler() == "ode":
        return GUIDANCE
    return ONE if steps == 1 else FEW


class Efficiency(Figure):
    """FD test against FLOPs, milliseconds at batch 1 and milliseconds an image in a full batch."""

    name = "efficiency"
    tables = ()

    def draw(self, sources: Sources) -> plt.Figure:
        plan, numbers = sources.plan, sources.numbers
        models = [name for name, arm in plan.arms.items() if not arm.real]
        entries = [entry for arm in models for entry in numbers.entries(arm)]
        known = sources.numbers_of(entries, numbers.counted(numbers.distance))
        if not known:
            return nothing(sources, "the metrics have none of its arms")
        families = {e: family(plan.arms[e.arm], e.steps) for e in known}
        panels: dict[str, dict[Entry, float]] = {}
        for metric, (label, scale) in AXES.items():
            costs = {e: scale * numbers(e, metric).value for e in known}
            if places := {e: x for e, x in costs.items() if math.isfinite(x) and x > 0}:
                panels[label] = places
        if not panels:
            return nothing(sources, "the metrics have no costs of its arms")
        size = (2.4 * max(len(panels), 2), 3.2)
        figure, (axes,) = plt.subplots(
            1, len(panels), figsize=size, sharey=True, squeeze=False, layout="constrained"
        )
        for axis, (label, places) in zip(axes, panels.items(), strict=True):
            for entry, x in places.items():
                _, colour, marker, _ = families[entry]
                look = {"color": colour, "marker": marker, "markersize": 4, "linestyle": "none"}
                error_bars(axis, x, known[entry][0], look)
            for arm in models:
                line = [e for e in places if e.arm == arm and families[e].joined]
                if len(line) > 1:
                    points = [(places[e], known[e][0].value) for e in line]
                    colour = families[line[0]].colour
                    axis.plot(*zip(*points, strict=True), color=colour, linewidth=0.8, zorder=1)
            floor(sources, axis, numbers.counted(numbers.distance))
            axis.set_xlabel(label)
            logarithmic(axis, "x")
        axes[0].set_ylabel(f"{title_of(numbers, numbers.distance)}, lower is better")
        logarithmic(axes[0])
        shown = dict.fromkeys(families.values())
        handles = [
            Line2D([], [], label=f.label, color=f.colour, marker=f.marker, markersize=4,
                   linestyle="-" if f.joined else "none")
            for f in shown
        ]  # fmt: skip
        figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, -0.01), ncol=3)
        said = "Latencies are of one machine, see environments.json, and have no interval"
        missing = "Latencies are not measured: `hdbench latency`, then `hdbench collect`"
        is_measured = AXES[SINGLE][0] in panels or AXES[FULL][0] in panels
        notes = sources.notes(models, said if is_measured else missing, sources.intervals_are())
        return note_below(figure, notes)
