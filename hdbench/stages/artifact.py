"""Artifacts: a folder with a manifest, published by one atomic rename, checked at every load."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from hdbench.core import distributed
from hdbench.core.errors import UserError
from hdbench.core.files import MANIFEST, from_json, read_text, settle, sha256, share, write_atomic
from hdbench.core.provenance import environment, registrations
from hdbench.suite.stage import VERSIONS, Stage, versions_of

Count = Annotated[float, Field(ge=0)]
FileName = Annotated[str, Field(pattern=r"^[^/]+$")]


class Manifest(BaseModel):
    """What readers of a manifest count on; what older ones lack is None or empty."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    id: str
    kind: str
    digest: str
    config: dict[str, Any]
    parents: dict[str, str]
    environment: dict[str, Any]
    payload: dict[FileName, str]
    wall_seconds: Count
    core_seconds: Count
    gpu_seconds: Count | None = None
    queue_seconds: Count | None = None
    peak_memory_bytes: Count | None = None
    peak_gpu_memory_bytes: Count | None = None
    forward_equivalents: Count | None = None
    parameters: Count | None = None
    head_parameters: Count | None = None
    milliseconds_per_sample: Count | None = None
    protocol: str | None = None
    registrations: dict[str, str] = {}
    sources: dict[str, str] = {}
    parent_manifests: dict[str, str] = {}
    inputs: dict[str, dict[str, str | None]] = {}
    shipped: dict[str, Any] = {}


def read_manifest(path: Path) -> dict[str, Any]:
    """A manifest with what `Manifest` says; OSError, or ValueError for anything else."""
    text = read_text(path)
    Manifest.model_validate_json(text)
    return from_json(text)


def folder(results: Path, stage_id: str) -> Path:
    """Where a stage's artifact lies: results/stages/<kind>/<label>-<digest>."""
    return results / "stages" / stage_id


def load(results: Path, stage_id: str) -> tuple[Path, dict[str, Any]]:
    """An artifact's folder and manifest; UserError if it is missing or not what that says."""
    path = folder(results, stage_id)
    return path, checked(path, stage_id, f"delete the folder {path} and run again")


def checked(path: Path, stage_id: str, remedy: str) -> dict[str, Any]:
    """The manifest of an artifact in this folder; UserError, with the remedy, for any damage."""
    try:
        manifest = read_manifest(path / MANIFEST)
    except FileNotFoundError:
        kind = stage_id.split("/")[0]
        raise UserError(
            f"{path}: this artifact does not exist yet; make it with "
            f"`hdbench stage {kind} --id {stage_id}` or let `snakemake` make everything in order"
        ) from None
    except OSError as error:
        raise UserError(f"{path / MANIFEST}: cannot be read ({error.strerror})") from None
    except ValueError:
        raise UserError(f"{path / MANIFEST}: not a manifest; {remedy}") from None
    if manifest["id"] != stage_id:
        raise UserError(f"{path / MANIFEST}: is of {manifest['id']}; {remedy}")
    for name, digest in manifest["payload"].items():
        if not (path / name).is_file():
            raise UserError(f"{path / name}: named in the manifest but missing; {remedy}")
        if sha256(path / name) != digest:
            raise UserError(f"{path / name}: differs from its manifest; {remedy}")
    return manifest


def allocation() -> tuple[float, float | None]:
    """Seconds in the queue and GPUs on all machines (None: unknown), as the scheduler says."""
    gpus = distributed.number("SUBMITIT_GPUS", 0) if os.environ.get("SUBMITIT_GPUS") else None
    return distributed.number("SUBMITIT_QUEUE_SECONDS", 0), gpus


def exists(results: Path, stage_id: str) -> bool:
    return (folder(results, stage_id) / MANIFEST).is_file()


def partial(results: Path, stage_id: str) -> Path:
    """The hidden folder beside an artifact's place in which its stage works."""
    final = folder(results, stage_id)
    return final.with_name(f".{final.name}.partial")


def remove_artifacts(results: Path, stage_ids: Iterable[str]) -> list[Path]:
    """Remove artifacts and what was begun of them; the folders that were there."""
    folders = [
        path
        for stage_id in stage_ids
        for path in (folder(results, stage_id), partial(results, stage_id))
        if path.is_dir()
    ]
    for path in reversed(folders):  # children before what they were made from
        shutil.rmtree(path)
    return folders


class Work:
    """The folder in which a stage works: it survives a kill and becomes the artifact at the end.

    `spent` carries over the cost of runs that were cut short, so that of a resumed stage is whole.
    The `ranks` processes that work on it all call `cost` and `publish`; the files are rank 0's.
    """

    def __init__(
        self, results: Path, stage: Stage, device: torch.device | None = None, ranks: int = 1
    ):
        self.final = folder(results, stage.id)
        self.path = partial(results, stage.id)
        self.stage = stage
        self.device = device or torch.device("cpu")
        self.ranks = ranks
        self.spent: dict[str, float] = {}
        self._started = time.perf_counter(), _core_seconds()

    @contextmanager
    def locked(self) -> Iterator[Work]:
        """Hold the stage's lock, waiting for a process that has it; UserError if it cannot be made.

        The lock goes with its process, however that ends.
        """
        file = self.path.with_suffix(".lock")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            lock = file.open("w")
        except OSError as error:
            raise UserError(
                f"{file.parent}: cannot be written ({error.strerror}); choose another --results "
                "folder"
            ) from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if not isinstance(error, BlockingIOError):
                    raise UserError(
                        f"{file}: cannot be locked ({error.strerror}); choose a --results "
                        "folder on another file system"
                    ) from None
                print(
                    f"{self.stage.id}: another process is working on this stage; waiting for it",
                    file=sys.stderr,
                    flush=True,
                )
                fcntl.flock(lock, fcntl.LOCK_EX)
            # else the process that we waited for has published it
            if not (self.final / MANIFEST).is_file():
                self.path.mkdir(exist_ok=True)
            yield self
            file.unlink(missing_ok=True)

    def claimed(self) -> bool:
        """Whether a process holds the stage's lock, on any machine that shares it."""
        try:
            with self.path.with_suffix(".lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # given back with the file
        except OSError as error:
            return isinstance(error, BlockingIOError)
        return False

    def cost(self) -> dict[str, float]:
        """What the stage cost so far, over all its runs and ranks.

        Seconds: of this work (`wall`), of CPU (`core`), of allocated GPUs (`gpu`), and in the
        scheduler's queue before it.  Memory is the most that a run had at once: on the CPU the sum
        over ranks, on a GPU that of the fullest.
        """
        started, core_started = self._started
        wall = time.perf_counter() - started
        core = _core_seconds() - core_started
        cuda = self.device.type == "cuda"
        used = (
            core,
            1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            torch.cuda.max_memory_allocated(self.device) if cuda else 0,
        )
        of_ranks = distributed.gather(used) if self.ranks > 1 else [used]
        cores, memory, gpu_memory = zip(*of_ranks, strict=True)
        queue, gpus = allocation()
        gpus = gpus if gpus is not None else distributed.world_size() if cuda else 0
        spent = {
            "wall_seconds": wall,
            "core_seconds": sum(cores),
            "gpu_seconds": gpus * wall,
            "queue_seconds": queue,
        }
        most = {"peak_memory_bytes": sum(memory)} | (
            {"peak_gpu_memory_bytes": max(gpu_memory)} if cuda else {}
        )
        return (
            {key: self.spent.get(key, 0.0) + value for key, value in spent.items()}
            | {key: max(self.spent.get(key, 0), value) for key, value in most.items()}
            | {"ranks": self.ranks}
        )

    def publish(self, payload: list[str], **facts: Any) -> None:
        """Write the manifest of these files of `path`, rename it, then drop what is not of them."""
        cost = self.cost()
        if distributed.rank():
            return
        stage = self.stage
        config = stage.config.model_dump(mode="json")
        manifest = {
            "id": stage.id,
            "kind": stage.kind,
            "version": VERSIONS[stage.kind],
            "versions": versions_of(stage.kind, stage.config),
            "digest": stage.digest,
            "config": config,
            "parents": stage.parents,
            "seed": config.get("seed"),
            "environment": environment(str(self.device)),
            "registrations": registrations(),
            **{k: round(v, 3) for k, v in cost.items()},
            **facts,
            "payload": {name: sha256(self.path / name) for name in sorted(payload)},
        }
        self.replace_final(manifest)

    def replace_final(self, manifest: dict[str, Any]) -> None:
        """Make `path`, with this manifest, the artifact; what its payload does not name goes."""
        payload = manifest["payload"]
        write_atomic(self.path / MANIFEST, json.dumps(manifest, indent=1, allow_nan=False) + "\n")
        # an empty folder made by the workflow engine, or a broken artifact that is made again
        if self.final.exists():
            shutil.rmtree(self.final)
        share(self.path)
        for name in (*payload, MANIFEST):  # else a fall of the machine could leave names alone
            settle(self.path / name)
        os.rename(self.path, self.final)
        for leftover in self.final.iterdir():  # a folder's files are in an index
            if leftover.is_file() and leftover.name not in (*payload, MANIFEST):
                leftover.unlink()


def _core_seconds() -> float:
    return sum(
        getattr(resource.getrusage(who), field)
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        for field in ("ru_utime", "ru_stime")
    )
