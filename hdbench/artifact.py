"""Artifacts: a folder with a manifest, published by one atomic rename, checked at every load."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hdbench.errors import UserError
from hdbench.suite import VERSIONS, Stage

MANIFEST = "manifest.json"


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder(results: Path, stage_id: str) -> Path:
    """Where a stage's artifact lies: results/stages/<kind>/<label>-<digest>."""
    return results / "stages" / stage_id


def write_atomic(path: Path, text: str) -> None:
    """Text into a file that is either the old one or the new one, never half of it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another folder") from None


def load(results: Path, stage_id: str) -> tuple[Path, dict[str, Any]]:
    """An artifact's folder and manifest; UserError if it is missing or differs from what its manifest says."""
    path = folder(results, stage_id)
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        found, payload = manifest["id"], manifest["payload"].items()
    except FileNotFoundError:
        kind = stage_id.split("/")[0]
        raise UserError(f"{path}: this artifact does not exist yet; make it with `hdbench stage {kind} --id {stage_id}` or "
                        "let `snakemake` make everything in order") from None
    except OSError as error:
        raise UserError(f"{path / MANIFEST}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"{path / MANIFEST}: not a manifest; delete the folder {path} and run again") from None
    if found != stage_id:
        raise UserError(f"{path / MANIFEST}: is of {found}; delete the folder {path} and run again")
    for name, digest in payload:
        if not (path / name).is_file():
            raise UserError(f"{path / name}: named in the manifest but missing; delete the folder {path} and run again")
        if sha256(path / name) != digest:
            raise UserError(f"{path / name}: differs from its manifest; delete the folder {path} and run again")
    return path, manifest


def exists(results: Path, stage_id: str) -> bool:
    return (folder(results, stage_id) / MANIFEST).is_file()


def environment(device: str) -> dict[str, str]:
    """Versions and machine, recorded in every manifest and hashed into none."""
    packages = ("torch", "diffusers", "numpy", "scikit-learn", "safetensors", "snakemake")
    command = ["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"]
    try:
        commit = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True).stdout.strip()
    except OSError:  # no git on this machine
        commit = ""
    return {"python": platform.python_version(), **{name: version(name) for name in packages}, "device": device,
            "machine": platform.machine(), "commit": commit or "unknown"}


class Work:
    """The folder in which a stage works: it holds the checkpoint, survives a kill, and becomes the artifact at the end.

    `spent` carries wall and core seconds over from runs that were cut short, so the cost of a resumed stage is whole.
    """

    def __init__(self, results: Path, stage: Stage):
        self.final = folder(results, stage.id)
        self.path = self.final.with_name(f".{self.final.name}.partial")
        self.stage, self.spent = stage, {"wall_seconds": 0.0, "core_seconds": 0.0}
        self._started = time.perf_counter(), _core_seconds()

    @contextmanager
    def locked(self) -> Iterator[Work]:
        """Hold the stage's lock, after waiting for another process that works on it; UserError where nothing can be written.

        The lock goes with its process, however that ends.
        """
        file = self.path.with_suffix(".lock")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            lock = file.open("w")
        except OSError as error:
            raise UserError(f"{file.parent}: cannot be written ({error.strerror}); choose another --results "
                            "folder") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{self.stage.id}: another process is working on this stage; waiting for it", file=sys.stderr,
                      flush=True)
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not (self.final / MANIFEST).is_file():  # else the process that we waited for has published it
                self.path.mkdir(exist_ok=True)
            yield self
            file.unlink(missing_ok=True)

    def cost(self) -> dict[str, float]:
        """Wall and core seconds so far, over all runs of this stage."""
        wall, core = self._started
        return {"wall_seconds": self.spent["wall_seconds"] + time.perf_counter() - wall,
                "core_seconds": self.spent["core_seconds"] + _core_seconds() - core}

    def publish(self, payload: list[str], device: str, **facts: Any) -> None:
        """Write the manifest over the named files of `path`, rename onto the final place, then drop the checkpoint."""
        stage = self.stage
        manifest = {"id": stage.id, "kind": stage.kind, "version": VERSIONS[stage.kind], "digest": stage.digest,
                    "config": stage.config, "parents": stage.parents, "seed": stage.config.get("seed"),
                    "environment": environment(device), **{k: round(v, 3) for k, v in self.cost().items()}, **facts,
                    "payload": {name: sha256(self.path / name) for name in sorted(payload)}}
        write_atomic(self.path / MANIFEST, json.dumps(manifest, indent=1, allow_nan=False) + "\n")
        if self.final.exists():  # an empty folder made by the workflow engine, or a broken artifact that is made again
            shutil.rmtree(self.final)
        os.rename(self.path, self.final)
        for leftover in self.final.iterdir():
            if leftover.name not in (*payload, MANIFEST):
                leftover.unlink()


def _core_seconds() -> float:
    return sum(getattr(resource.getrusage(who), field) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
               for field in ("ru_utime", "ru_stime"))
