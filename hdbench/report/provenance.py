"""What a run was made with, beside its metrics.csv: stages.csv and environments.json.

stages.csv has a row for each finished stage of the plan: its commit, whether the tree was clean,
the id of its environment, and its cost (seconds, bytes).  environments.json has each distinct
environment once, by id: versions, processor, SHA-256 of the lock file and of the registrations that
were there; beside them the suite, how many stages its plan has, the provenance of latencies, and
`digests`, the SHA-256 of the files that it belongs to.  Neither has the name of a machine or a path
outside the repository.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hdbench.core.errors import UserError, reason
from hdbench.core.files import digest_of, from_json, read_bytes, read_text, sha256
from hdbench.core.provenance import DIRTY, UNKNOWN, git

STAGES = "stages.csv"
ENVIRONMENTS = "environments.json"
METRICS = "metrics.csv"
FILES = (STAGES, ENVIRONMENTS)
Seconds = Annotated[float, Field(ge=0)]
Count = Annotated[int | float, Field(ge=0)]


class Ran(BaseModel):
    """A finished stage, a row of stages.csv; what older manifests lack is None."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    id: str
    kind: str
    seed: int | None = None
    commit: str
    clean: bool = Field(description="whether the tree was that of a known commit")
    environment: str
    core_seconds: Seconds
    wall_seconds: Seconds | None = None
    gpu_seconds: Seconds | None = None
    queue_seconds: Seconds | None = None
    peak_memory_bytes: Count | None = None
    peak_gpu_memory_bytes: Count | None = None
    ranks: Count | None = None
    shipped: str | None = Field(None, description="SHA-256 of the manifest that it was taken with")


class Run(BaseModel):
    """Both files of a run."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    suite: str
    title: str
    stages_of_plan: int
    digests: dict[str, str] = Field(description="SHA-256 by file name")
    latency: dict[str, Any] | None = None
    environments: dict[str, dict[str, Any]]
    stages: tuple[Ran, ...] = Field((), exclude=True)

    @property
    def core_seconds(self) -> float:
        """Of all stages."""
        return round(sum(stage.core_seconds for stage in self.stages), 3)

    def registrations(self, stage: Ran) -> dict[str, str]:
        """SHA-256 of the registrations that were there when a stage ran, by name."""
        return self.environments[stage.environment].get("registrations", {})

    def contents(self, folder: Path) -> dict[Path, bytes]:
        """Both files as they lie in a folder, stages.csv's digest in the other."""
        table = stages_table(self.stages)
        digests = self.digests | {STAGES: hashlib.sha256(table).hexdigest()}
        run = self.model_copy(update={"digests": digests}).model_dump(exclude_none=True)
        return {
            folder / STAGES: table,
            folder / ENVIRONMENTS: (json.dumps(run, indent=1) + "\n").encode(),
        }

    def summary(self) -> pd.DataFrame:
        """Item, value, and the number of stages with that value, of all environments."""
        counts: Counter[tuple[str, str]] = Counter()
        for stage in self.stages:
            items = self.environments[stage.environment] | {"commit": described(stage)}
            counts.update(
                (item, str(value)) for item, value in items.items() if item != "registrations"
            )
        return pd.DataFrame(
            [(*key, count) for key, count in sorted(counts.items())],
            columns=["item", "value", "stages"],
        )


def described(stage: Ran) -> str:
    """The commit of a stage, with what says that the tree had changes."""
    return stage.commit + DIRTY * (not stage.clean and stage.commit != UNKNOWN)


def ran(manifest: Mapping[str, Any]) -> tuple[Ran, dict[str, Any]]:
    """The row of a stage, from its manifest, and its environment; UserError for another's."""
    environment = dict(manifest["environment"])
    commit = str(environment.pop("commit", UNKNOWN)).strip()
    if registrations := manifest.get("registrations"):
        environment["registrations"] = registrations
    facts = {key: manifest[key] for key in Ran.model_fields if key in manifest}
    facts |= {
        "kind": manifest["id"].split("/")[0],
        "commit": commit.removesuffix(DIRTY),
        "clean": commit != UNKNOWN and not commit.endswith(DIRTY),
        "shipped": manifest.get("shipped", {}).get("manifest"),
    }
    try:
        return Ran(**facts | {"environment": digest_of(environment)[:8]}), environment
    except ValueError as error:
        raise UserError(
            f"{manifest['id']}: its manifest is not one that a stage wrote ({reason(error)}); run "
            "the stage again with --again"
        ) from None


def stages_table(stages: Iterable[Ran]) -> bytes:
    """The bytes of stages.csv; missing is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Ran.model_fields), lineterminator="\n")
    writer.writeheader()
    for stage in stages:
        writer.writerow(stage.model_dump() | {"clean": "yes" if stage.clean else "no"})
    return text.getvalue().encode()


def read_run(folder: Path) -> Run:
    """The files of a run in a folder; UserError where they are none, or not of one run."""
    path = folder / STAGES
    try:
        content = read_bytes(path)
        rows = list(csv.DictReader(io.StringIO(content.decode(), newline=""), strict=True))
        stages = [
            Ran.model_validate({key: value for key, value in row.items() if value != ""})
            for row in rows
        ]
        digest = hashlib.sha256(content).hexdigest()
        path = folder / ENVIRONMENTS
        run = Run.model_validate(from_json(read_text(path)) | {"stages": stages})
    except (OSError, ValueError, TypeError, csv.Error) as error:
        kind = "malformed" if isinstance(error, ValidationError) else type(error).__name__
        raise UserError(
            f"{path}: not of a run ({kind}); `hdbench collect` writes it beside the metrics"
        ) from None
    if run.digests.get(STAGES) != digest:
        raise UserError(
            f"{path}: is not of the run of {folder / STAGES}, or one was changed; make both again "
            "with `hdbench collect`"
        )
    if lacking := {stage.environment for stage in stages} - run.environments.keys():
        raise UserError(
            f"{path}: lacks the environment {sorted(lacking)[0]}, which {folder / STAGES} names; "
            "make both again with `hdbench collect`"
        )
    return run


def is_collected(metrics: Path) -> bool:
    """Whether a file of metrics is the one that was collected with the run beside it."""
    try:
        run = read_run(metrics.parent)
    except UserError:
        return False  # none there, or another file
    return run.digests.get(METRICS) == sha256(metrics)


def unclean(run: Run, folder: Path) -> list[str]:
    """A sentence if stages ran from a tree with changes, or of no known commit."""
    stages = [stage for stage in run.stages if not stage.clean]
    return [
        f"{folder / STAGES}: {len(stages)} of {len(run.stages)} stages ran from a tree with "
        f"changes or of no known commit, such as {stage.id} ({described(stage)})"
        for stage in stages[:1]
    ]


def faults(run: Run, folder: Path) -> list[str]:
    """What a release may not have: stages of a tree with changes, of a commit that no tag of this
    repository is on, or of other versions than a lock file's.  A shipped stage need be clean alone.
    """
    place = folder / STAGES
    total = f"of {len(run.stages)} stages"
    here = [stage for stage in run.stages if stage.clean and stage.shipped is None]
    untagged = [
        commit
        for commit in sorted({stage.commit for stage in here})
        if (said := git(Path(), "tag", "--points-at", commit)) is None or not said.stdout.strip()
    ]
    locks = {stage.id: run.environments[stage.environment].get("lock", UNKNOWN) for stage in here}
    other = {stage: lock for stage, lock in locks.items() if lock == UNKNOWN or ":" in lock}
    return [
        *unclean(run, folder),
        *(f"{place}: commit {commit[:12]} has no tag in this repository" for commit in untagged),
        *(
            f"{place}: {len(other)} {total} ran with other versions than the lock file's, or with "
            f"unknown ones, such as {stage} ({lock})"
            for stage, lock in list(other.items())[:1]
        ),
    ]


def check_clean(run: Run, folder: Path) -> None:
    """That all stages ran from a commit without changes."""
    if not run.stages:
        raise UserError(f"{folder / STAGES}: has no stages; make it again with `hdbench collect`")
    if sentences := unclean(run, folder):
        raise UserError(f"{sentences[0]}; commit, and run them again")
