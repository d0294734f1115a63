"""The rehearsals of a suite: each different stage once, kept by what decides them, as a table."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, fields, replace
from functools import cache
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from hdbench.core.errors import UserError
from hdbench.core.files import digest_of, sha256, write_atomic
from hdbench.suite.load import load_plan
from hdbench.suite.plan import Plan
from hdbench.suite.stage import Stage
from hdbench.tools.cost.model import CostModel, read_model
from hdbench.tools.numbers import WIDTH, number
from hdbench.tools.rehearsal.counts import FOLDER, Rehearsal, different, table
from hdbench.tools.rehearsal.device import PACKAGE
from hdbench.tools.rehearsal.stages import rehearse
from hdbench.tools.rehearsal.watch import CATEGORIES


@cache
def sources() -> str:
    """SHA-256 of this package's own code."""
    return digest_of([sha256(path) for path in sorted(PACKAGE.rglob("*.py"))])


def path_of(results: Path, key: str) -> Path:
    """Where the rehearsal of this key is kept, as this code and PyTorch make it."""
    return results / FOLDER / f"{digest_of([key, torch.__version__, sources()])[:16]}.json"


def read(path: Path) -> Rehearsal | None:
    """A rehearsal that was kept."""
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text)
    except (OSError, ValueError):
        return None
    known = isinstance(values, dict) and values.keys() == {x.name for x in fields(Rehearsal)}
    return Rehearsal(**values) if known else None


def rehearse_one(suite: str, stage: str) -> Rehearsal:
    """By names, for another process."""
    plan = load_plan(suite)
    return rehearse(plan, plan.stage(stage))


def rehearsals(plan: Plan, results: Path, jobs: int) -> Iterator[tuple[str, Rehearsal]]:
    """Of every different stage by key, those that are not kept made by so many processes."""
    stages = different(plan)
    kept = {key: read(path_of(results, key)) for key in stages}
    missing = [stages[key].id for key, rehearsal in kept.items() if rehearsal is None]
    with ExitStack() as stack:
        make = map
        if jobs > 1 and missing:
            pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))
            make = stack.enter_context(pool).map
        made = make(rehearse_one, repeat(plan.given), missing)
        for key, rehearsal in kept.items():
            if rehearsal is None:
                rehearsal = next(made)
                path = path_of(results, key)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(path, json.dumps(asdict(rehearsal)) + "\n")
            yield key, replace(rehearsal, stage=stages[key].id)  # kept of another suite, too


def of_suite(
    suite: str, results: Path, config: Path, gpu: str | None, jobs: int
) -> tuple[str, list[str]]:
    """The `report` of a suite by its name, on one of the cost model's GPUs, and its folder."""
    plan = load_plan(suite)
    model = read_model(config, gpu)
    rehearsed = list(rehearsals(plan, results, jobs))
    path = results / FOLDER / f"{plan.stem}.csv"
    write_atomic(path, table(rehearsed))
    text, wrong = report(plan, [rehearsal for _, rehearsal in rehearsed], model)
    return f"{text}\nKept in {path}.", wrong


def report(plan: Plan, rehearsed: Iterable[Rehearsal], model: CostModel) -> tuple[str, list[str]]:
    """A table of rehearsals with where the host waits; and sentences on what is wrong."""
    memory = 1e9 * model.gpus[model.gpu].memory
    rows = []
    waits: dict[str, int] = {}
    wrong = []
    for rehearsal in rehearsed:
        stage = plan.stage(rehearsal.stage)
        rows.append(row_of(stage, rehearsal))
        waits |= rehearsal.waits
        wrong += [f"{rehearsal.stage}: {fault}" for fault in rehearsal.faults]
        if rehearsal.peak > memory:
            wrong.append(
                f"{rehearsal.stage}: needs {rehearsal.peak / 1e9:.1f} GB with {rehearsal.rows} "
                f"rows at once, an {model.gpu} has {memory / 1e9:g}; lower {remedy(stage)}"
            )
    headers = ["rule", "what", "rows", "M parameters", "GFLOP", *CATEGORIES, "peak GB", "waits"]
    columns = ("left", "left", *["right"] * 8)
    lines = tabulate(rows, headers, disable_numparse=True, colalign=columns)
    text = (
        "GFLOP: of a sample and training step, of an evaluation of the sampling network (+ "
        "decoding one image), or of an image. Categories in GB at the peak, with replicas on one "
        "GPU: parameters are those of all networks and averages. Waits: times a step that the "
        "host waits for the device" + ("" if not waits else ": " + "; ".join(sorted(waits))) + "."
    )
    return "\n".join([lines, *textwrap.wrap(text, WIDTH)]), wrong


def row_of(stage: Stage, rehearsal: Rehearsal) -> list[Any]:
    decoded = sum(rehearsal.decoding.values())
    decoding = f" + {number(decoded / 1e9)}" if decoded else ""
    return [
        stage.kind,
        what(stage),
        rehearsal.rows,
        number(rehearsal.parameters / 1e6),
        number(rehearsal.total_flops / 1e9) + decoding,
        *(number(rehearsal.memory[category] / 1e9) for category in CATEGORIES),
        number(rehearsal.peak / 1e9),
        sum(rehearsal.waits.values()),
    ]


def what(stage: Stage) -> str:
    """What tells a stage from others of its kind."""
    if not stage.training:
        return stage.label
    objective = stage.training.objective
    head, gan = objective.head() or ("none", None)
    return objective.name if head == "none" else f"{objective.name} {head} on {gan.feature_network}"


def remedy(stage: Stage) -> str:
    if stage.training:
        return "training.micro_batch, or set training.gradient_checkpointing"
    return "the batch" if stage.kind in ("sample", "pairs") else "the batch of images"


def refuse(wrong: list[str]) -> None:
    """UserError for what is wrong, all of it."""
    if wrong:
        raise UserError("; ".join(wrong))
