"""Hours and bytes of the stages that are to do, as a table."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import NamedTuple

from tabulate import tabulate

from hdbench.core.files import MANIFEST
from hdbench.core.provenance import SHIPPED
from hdbench.report.provenance import STAGES, read_run
from hdbench.stages import artifact
from hdbench.suite.plan import Plan
from hdbench.suite.stage import KINDS
from hdbench.tools.cost.counting import Cost, Costs
from hdbench.tools.cost.model import MODEL, CostModel
from hdbench.tools.cost.schedule import schedule
from hdbench.tools.numbers import WIDTH, number
from hdbench.tools.rehearsal.counts import Counts

GPUS = 8  # of one machine


def to_do(plan: Plan, results: Path) -> list[str]:
    """The plan's stages that are not done."""
    return [stage for stage in plan.stages if not artifact.exists(results, stage)]


class Estimate(NamedTuple):
    """Of stages by id."""

    costs: dict[str, Cost]
    seconds: dict[str, float]
    """Of a GPU or a core."""
    basis: dict[str, int]
    """How many are `shipped`, `measured`, `alike` (at a measured pace) or `counted`."""


def estimate(
    plan: Plan, stages: Iterable[str], model: CostModel, tables: Path, counts: Counts | None = None
) -> Estimate:
    """The cost of these stages: GPU seconds of a suite on latents, else core-seconds."""
    counted = Costs(plan, model, counts)
    if not counted.latents:
        return core_seconds(plan, counted, stages, model, measured_seconds(tables))
    costs = {stage: counted.of(plan.stage(stage)) for stage in stages}
    seconds = {stage: model.seconds(cost.flops) + cost.waiting for stage, cost in costs.items()}
    return Estimate(costs, seconds, {})


def core_seconds(
    plan: Plan, counted: Costs, stages: Iterable[str], model: CostModel, measured: dict[str, float]
) -> Estimate:
    """Measured, or at the median pace of measured stages of the kind, or at the model's.

    A shipped stage costs nothing.
    """
    costs = {stage.id: counted.of(stage) for stage in plan.stages.values()}
    flops = {stage: sum(cost.flops.values()) for stage, cost in costs.items()}
    paces: dict[str, list[float]] = {}
    for stage in plan.stages.values():
        if stage.id in measured and flops[stage.id]:
            paces.setdefault(stage.kind, []).append(measured[stage.id] / flops[stage.id])
    basis: Counter[str] = Counter()
    seconds = {}
    for stage in map(plan.stage, stages):
        if (SHIPPED / stage.id / MANIFEST).is_file():
            basis["shipped"] += 1
            seconds[stage.id] = 0.0
        elif stage.id in measured:
            basis["measured"] += 1
            seconds[stage.id] = measured[stage.id]
        else:
            basis["alike" if stage.kind in paces else "counted"] += 1
            pace = median(paces.get(stage.kind, [1 / (1e9 * model.cpu.gflops)]))
            seconds[stage.id] = pace * flops[stage.id]
    return Estimate(costs, seconds, dict(basis))


def measured_seconds(tables: Path) -> dict[str, float]:
    """Core-seconds of stages by id, of all runs whose stages.csv is beside their tables."""
    return {
        stage.id: stage.core_seconds
        for path in sorted(tables.glob(f"*/{STAGES}"))
        for stage in read_run(path.parent).stages
    }


def report(
    plan: Plan,
    stages: Iterable[str],
    model: CostModel,
    tables: Path,
    local: int = 0,
    counts: Counts | None = None,
    gpus: int | None = None,
) -> str:
    """A table by rule of these stages, with totals, and what was assumed; `local` jobs render.

    FLOPs are by formula, or those of a rehearsal's `counts`.  With `gpus`, the wall time on so many
    GPUs, or cores of a small suite.
    """
    stages = list(stages)
    estimated = estimate(plan, stages, model, tables, counts)
    rows = []
    for kind in KINDS:
        ids = [stage for stage in stages if plan.stage(stage).kind == kind]
        if ids:
            costs = [estimated.costs[stage] for stage in ids]
            hours = sum(estimated.seconds[stage] for stage in ids) / 3600
            disk = sum(cost.disk for cost in costs) / 1e9
            checkpoint = max(cost.checkpoint for cost in costs) / 1e9
            rows.append([kind, len(ids), hours, disk, checkpoint])
    if local:
        rows.append(["local rules", local, 0, 0, 0])
    totals = [sum(row[column] for row in rows) for column in (1, 2, 3)]
    rows.append(["total", *totals, max((row[4] for row in rows), default=0)])
    unit = "GPU hours" if plan.suite.data.stored == "latents" else "core-hours"
    table = tabulate(
        [[kind, f"{jobs:,}", *map(number, numbers)] for kind, jobs, *numbers in rows],
        ["rule", "jobs", unit, "disk GB", "checkpoint GB a job"],
        disable_numparse=True,
        colalign=("left", *["right"] * 4),
    )
    text = "All stages are done."
    if stages:
        parts = (
            basis_of(plan, counts),
            wall_time(plan, estimated, gpus) if gpus else duration(plan, estimated),
            assumptions(plan, model, estimated),
        )
        text = " ".join(parts)
    title = f"{plan.stem}, what is still to do, by {MODEL}:"
    return "\n".join([title, table, *textwrap.wrap(text, WIDTH)])


def wall_time(plan: Plan, estimated: Estimate, gpus: int) -> str:
    """How long it takes, and what it cannot be shorter than."""
    planned = schedule(plan, estimated.seconds, gpus)
    total = sum(estimated.seconds.values())
    chain = " -> ".join(stage for stage in planned.chain if estimated.seconds[stage] >= 60)
    unit = "GPU" if plan.suite.data.stored == "latents" else "core"
    return (
        f"On {gpus} {unit}s, one for each stage at a time: {days(planned.wall)}. The critical path "
        f"takes {days(planned.longest)} on any number of them: {chain or 'under a minute'}. All "
        f"{unit}s at work on each stage, without loss: {days(total / gpus)}."
    )


def days(seconds: float) -> str:
    """`2.05 days` from two days on, else hours."""
    hours = seconds / 3600
    return f"{number(hours / 24)} days" if hours >= 48 else f"{number(hours)} hours"


def basis_of(plan: Plan, counts: Counts | None) -> str:
    """Where the counts are from, in a sentence."""
    if counts:
        return (
            f"FLOPs of what trains, samples, measures or encodes images: {counts.source}, a "
            "rehearsal's."
        )
    return f"FLOPs by formula: `hdbench rehearse --suite {plan.given}` counts them."


def duration(plan: Plan, estimated: Estimate) -> str:
    """How long it takes at least, in a sentence."""
    chain = schedule(plan, estimated.seconds, GPUS).longest
    if plan.suite.data.stored != "latents":
        return f"Stages that must follow each other take {number(chain / 3600)} hours."
    everything = sum(estimated.seconds.values())
    return (
        f"With one GPU a job, jobs that must follow each other take {number(chain / 86400)} days; "
        f"{GPUS} GPUs that are never idle take {number(everything / GPUS / 86400)} days for all."
    )


def assumptions(plan: Plan, model: CostModel, estimated: Estimate) -> str:
    """What the hours rest on."""
    if plan.suite.data.stored == "memory":
        texts = {
            "shipped": "taken as shipped",
            "measured": "measured before",
            "alike": "at the pace of measured ones of their kind",
            "counted": f"counted, at {model.cpu.gflops:g} GFLOP/s a core",
        }
        basis = "; ".join(
            f"{text}: {estimated.basis[key]}"
            for key, text in texts.items()
            if key in estimated.basis
        )
        return f"Stages {basis}. The start of each process, some seconds, comes on top."
    used = ", ".join(
        f"{100 * model.utilisation.of(precision):.0f}% of {peak:g} TFLOP/s in {precision}"
        for precision, peak in model.gpus[model.gpu].peak.items()
    )
    return (
        f"Assumed: {model.gpu} ({used}), no loss with several a job; "
        f"{Costs(plan, model).images():,} images of data; PNG of {model.png.bytes_per_pixel:g} "
        "bytes a pixel. A checkpoint goes when its job is done; there are two while it is saved. "
        "Start with --config device=cuda; "
        f"`hdbench doctor --suite {plan.given}` says what must be there."
    )
