"""Source files whose code decides what a stage computes: recorded in its manifest, compared before
its artifact is reused.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from hdbench.core.files import MANIFEST, sha256, write_atomic
from hdbench.stages import STAGES, artifact
from hdbench.stages.loop import CHECKPOINT
from hdbench.suite.stage import Stage, classes_of, configs_in

SOURCES = "sources.json"
SHARED = ("hdbench.core", "hdbench.flow", "hdbench.networks", "hdbench.suite")  # of no one method


def modules_of(kind: type) -> Iterator[str]:
    """Modules of a class and of those that it extends, as far as they belong to a method, a data
    set or another package.
    """
    for base in kind.__mro__:
        name = base.__module__
        if name.partition(".")[0] not in ("builtins", "abc", "typing", "pydantic", "torch") and (
            not name.startswith(SHARED)
        ):
            yield name


@functools.cache
def digest_of_module(name: str) -> str | None:
    """SHA-256 of a module's file; None for one that has none."""
    file = vars(sys.modules[name]).get("__file__") if name in sys.modules else None
    return sha256(Path(file)) if file and Path(file).is_file() else None


def sources_of(stage: Stage) -> dict[str, str]:
    """SHA-256 by file, as `hdbench/methods/distribution/dmd.py`: objective, head, data set, and
    the stage's own module.
    """
    kinds = [*classes_of(stage.config).values(), *map(type, configs_in(stage.config))]
    names = {name for kind in kinds for name in modules_of(kind)}
    names.add(STAGES[stage.kind].__module__)
    digests = {f"{name.replace('.', '/')}.py": digest_of_module(name) for name in sorted(names)}
    return {file: digest for file, digest in digests.items() if digest}


def manifests_of(results: Path, stage: Stage) -> dict[str, str]:
    """SHA-256 of the parents' manifests by role, of those that are there."""
    files = {
        role: artifact.folder(results, parent) / MANIFEST for role, parent in stage.parents.items()
    }
    return {role: sha256(file) for role, file in files.items() if file.is_file()}


def differences(results: Path, stage: Stage, manifest: dict[str, Any]) -> list[str]:
    """A sentence for every source and every parent that is not what a finished stage was made
    with.
    """
    present = sources_of(stage)
    parents = manifests_of(results, stage)
    made_with = manifest.get("sources", {})
    changed = [
        f"{file} has changed since {stage.id} was made; --again makes it anew"
        for file, digest in made_with.items()
        if present.get(file, digest) != digest
    ]
    return changed + [
        f"{stage.id} was made from an earlier {stage.parents[role]}; --again makes it anew"
        for role, digest in manifest.get("parent_manifests", {}).items()
        if parents.get(role, digest) != digest
    ]


def changed_sources(results: Path, stages: Iterable[Stage]) -> list[str]:
    """A sentence for every file that is not what finished stages were made with."""
    users: dict[str, list[str]] = {}
    for stage in stages:
        try:
            path = artifact.folder(results, stage.id) / MANIFEST
            made_with = json.loads(path.read_text(encoding="utf-8"))["sources"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        present = sources_of(stage)
        for file, digest in made_with.items():
            if present.get(file, digest) != digest:
                users.setdefault(file, []).append(stage.id)
    return [
        f"{file} has changed since {ids[0]} "
        f"{f'and {len(ids) - 1} more were' if ids[1:] else 'was'} made; "
        "`hdbench stage` or `hdbench arm` with --again makes them anew"
        for file, ids in users.items()
    ]


def note_sources(stage: Stage, work: Path) -> None:
    """Say in the work folder what its checkpoints are made with, unless there is a checkpoint,
    made before.
    """
    if not (work / CHECKPOINT).is_file():
        write_atomic(work / SOURCES, json.dumps(sources_of(stage)) + "\n")


def resumption(stage: Stage, work: Path) -> list[str]:
    """Sentences on the checkpoint from which a stage goes on, if it does."""
    if not stage.training or not (work / CHECKPOINT).is_file():
        return []
    try:
        with safe_open(work / CHECKPOINT, "pt") as file:
            step = int(file.metadata()["step"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return []  # a broken checkpoint is refused when it is loaded
    try:
        made_with = json.loads((work / SOURCES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        made_with = {}
    present = sources_of(stage)
    return [f"{stage.id} goes on from step {step} of {stage.training.steps}"] + [
        f"{file} has changed since that checkpoint was made; --again starts afresh"
        for file, digest in made_with.items()
        if present.get(file, digest) != digest
    ]
