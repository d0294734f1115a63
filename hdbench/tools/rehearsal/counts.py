"""Rehearsals as a table, RESULTS/rehearsals/SUITE.csv, and what is counted from one.

A row is of all stages that differ in no setting that decides its counts, by a digest of these; a
suite with another stage is refused, and so are other versions of objectives and metrics.  CI
rehearses the suites of the paper's scale and compares with the tables of workflow/rehearsals.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from hdbench.core.errors import UserError
from hdbench.core.files import digest_of
from hdbench.suite.plan import Plan
from hdbench.suite.stage import (
    CheckpointStage,
    DataStage,
    PairsStage,
    ProtocolStage,
    SampleStage,
    Stage,
    outside_paths,
    versions_of,
)

FOLDER = "rehearsals"  # in the results
COMMITTED = Path("workflow") / FOLDER
STEPS = 2  # of a sampler
UNTRAINED = (CheckpointStage, PairsStage, ProtocolStage, SampleStage)


@dataclass(kw_only=True)
class Rehearsal:
    """What one step of a stage does."""

    stage: str
    rows: int
    """Of a micro-batch, or of samples made at once."""
    parameters: int = 0
    """Of all networks that the step holds, each once."""
    flops: dict[str, float] = field(default_factory=dict)
    """Of one sample in one training step, of one evaluation of the network that samples, or of one
    image that is measured or encoded; by precision."""
    decoding: dict[str, float] = field(default_factory=dict)
    """FLOPs of decoding one image, by precision."""
    memory: dict[str, int] = field(default_factory=dict)
    """Bytes at the peak, by category."""
    to_device: float = 0.0
    """Bytes a sample and step that are copied to the device."""
    waits: dict[str, int] = field(default_factory=dict)
    """Where the host waits for the device, and how often a step."""
    faults: list[str] = field(default_factory=list)
    """What would fail on a GPU, or compute in float64."""

    @property
    def peak(self) -> int:
        return sum(self.memory.values())

    @property
    def total_flops(self) -> float:
        """Without decoding."""
        return sum(self.flops.values())


# not where the host waits, nor faults: these name lines of code
COUNTED = [x.name for x in fields(Rehearsal) if x.name not in ("waits", "faults")]


def is_rehearsed(plan: Plan, stage: Stage) -> bool:
    """Whether a stage is of a kind that is rehearsed."""
    encoded = isinstance(stage.config, DataStage) and plan.suite.data.stored == "latents"
    return bool(stage.training) or encoded or isinstance(stage.config, UNTRAINED)


def rehearsed_steps(config: Any) -> int:
    """All where evaluations reuse others', since they then differ."""
    reused = isinstance(config, SampleStage) and config.sampling and config.sampling.reuse
    return config.steps if reused else min(config.steps, STEPS)


def key_of(plan: Plan, stage: Stage) -> str:
    """Of all settings that decide a rehearsal: stages of one key have the same."""
    config = stage.config.model_dump(mode="json")
    for name in ("seed", "chain", "samples", "count", "times", "checkpoint"):
        config.pop(name, None)
    if stage.training:
        del config["training"]["steps"]
    elif "steps" in config:
        config["steps"] = rehearsed_steps(stage.config)
    suite = plan.suite
    text = suite.text.model_dump(mode="json") if suite.text else None
    parents = {role: plan.stage(id_).kind == "teacher" for role, id_ in stage.parents.items()}
    if stage.training:
        parents.pop("student", None)  # of which the weights alone are read
    data = suite.data.model_dump(mode="json")
    versions = versions_of(stage.kind, stage.config)
    key = json.dumps([stage.kind, config, text, parents, data, versions], sort_keys=True)
    read = [stage.config, suite.data, *([suite.text] if suite.text else [])]
    for path in sorted({path for config in read for path in outside_paths(config)}):
        key = key.replace(json.dumps(path), '""')  # where a file lies decides nothing
    return digest_of(key)


def different(plan: Plan) -> dict[str, Stage]:
    """The first stage of each key."""
    stages: dict[str, Stage] = {}
    for stage in plan.stages.values():
        if is_rehearsed(plan, stage):
            stages.setdefault(key_of(plan, stage), stage)
    return stages


def table(rehearsals: Iterable[tuple[str, Rehearsal]]) -> str:
    """As CSV: by key, mappings as JSON."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["key", *COUNTED])
    for key, rehearsal in rehearsals:
        values = (getattr(rehearsal, name) for name in COUNTED)
        writer.writerow([key, *(json.dumps(x) if isinstance(x, dict) else x for x in values)])
    return file.getvalue()


class Counts(NamedTuple):
    """Rehearsals of a suite's stages."""

    plan: Plan
    source: Path
    rows: dict[str, Rehearsal]

    def of(self, stage: Stage) -> Rehearsal | None:
        """The stage's; None of a kind that is not rehearsed; UserError for one that is missing."""
        if not is_rehearsed(self.plan, stage):
            return None
        key = key_of(self.plan, stage)
        if key not in self.rows:
            raise UserError(
                f"{self.source}: counts of other settings than {stage.id} has; run `hdbench "
                f"rehearse --suite {self.plan.given}`, whose counts are then read"
            )
        return self.rows[key]

    def different(self) -> list[tuple[Stage, Rehearsal]]:
        """The first stage of each key, and its counts."""
        counted = [(stage, self.of(stage)) for stage in different(self.plan).values()]
        return [(stage, row) for stage, row in counted if row]


def counts_of(plan: Plan, results: Path) -> Counts | None:
    """From the table in the results, else the committed one; None without either."""
    name = f"{plan.stem}.csv"
    source = next((p for p in (results / FOLDER / name, COMMITTED / name) if p.is_file()), None)
    if source is None:
        return None
    try:
        rows = csv.DictReader(io.StringIO(source.read_text(encoding="utf-8")))
        return Counts(plan, source, {row.pop("key"): from_row(row) for row in rows})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{source}: not a table of rehearsals ({error!r}); run `hdbench rehearse --suite "
            f"{plan.given}`"
        ) from None


def from_row(row: dict[str, str]) -> Rehearsal:
    """Inverse of a row of `table`."""
    text = {"stage": row.pop("stage")}
    return Rehearsal(**text, **{name: json.loads(value) for name, value in row.items()})
