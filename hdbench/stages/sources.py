"""Files that decide what a stage computes: recorded in its manifest, and compared later.

They are sources of Python, manifests of parents, and the user's own: weights, images, prompts.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from hdbench.core.errors import UserError
from hdbench.core.files import MANIFEST, Fingerprint, from_json, sha256, write_atomic
from hdbench.stages import STAGES, artifact
from hdbench.stages.loop import CHECKPOINT
from hdbench.suite.stage import Stage, classes_of, configs_in, outside_paths

SOURCES = "sources.json"
FOREIGN = ("builtins", "abc", "typing", "pydantic", "torch")
SHARED = ("hdbench.core", "hdbench.flow", "hdbench.networks", "hdbench.suite")  # of no one method


def modules_of(kind: type) -> Iterator[str]:
    """Modules of a class and its bases that belong to a method, data set or another package."""
    for name in (base.__module__ for base in kind.__mro__):
        if name.partition(".")[0] not in FOREIGN and not name.startswith(SHARED):
            yield name


@functools.cache
def digest_of_module(name: str) -> str | None:
    """SHA-256 of a module's file; None for one that has none."""
    file = vars(sys.modules[name]).get("__file__") if name in sys.modules else None
    return sha256(Path(file)) if file and Path(file).is_file() else None


def sources_of(stage: Stage) -> dict[str, str]:
    """SHA-256 by file (`hdbench/methods/distribution/dmd.py`) of its classes and its own module."""
    kinds = [*classes_of(stage.config).values(), *map(type, configs_in(stage.config))]
    names = {name for kind in kinds for name in modules_of(kind)}
    names.add(STAGES[stage.kind].__module__)
    digests = {f"{name.replace('.', '/')}.py": digest_of_module(name) for name in sorted(names)}
    return {file: digest for file, digest in digests.items() if digest}


def manifest_of(results: Path, stage_id: str) -> dict[str, Any]:
    """A stage's manifest without a look at its files; {} where none can be read."""
    try:
        return artifact.read_manifest(artifact.folder(results, stage_id) / MANIFEST)
    except (OSError, ValueError):
        return {}


def manifests_of(results: Path, stage: Stage) -> dict[str, str]:
    """SHA-256 of the parents' manifests by role, of those that are there."""
    files = {
        role: artifact.folder(results, parent) / MANIFEST for role, parent in stage.parents.items()
    }
    return {role: sha256(file) for role, file in files.items() if file.is_file()}


def inputs_of(stage: Stage) -> dict[str, dict[str, str | None]]:
    """The record of a `Fingerprint` by path, of the user's files that a stage reads."""
    return {path: Fingerprint(path).record() for path in outside_paths(stage.config)}


def refuse_changed_inputs(results: Path, stages: Iterable[Stage]) -> None:
    """UserError where a user's file is not the one that a finished stage was made from.

    One that is gone by now is no change.
    """
    for stage in stages:
        for path in outside_paths(stage.config):
            records = manifest_of(results, stage.id).get("inputs", {})
            if Fingerprint(path).differs(records.get(path, {})):
                raise UserError(
                    f"{path}: has changed since {stage.id} was made from it; put the former back, "
                    f"or run `hdbench stage {stage.kind} --id {stage.id} --again`"
                )


def changed(made_with: dict[str, str], present: dict[str, str]) -> list[str]:
    """Names that both have, with different digests."""
    return [name for name, digest in made_with.items() if present.get(name, digest) != digest]


def differences(results: Path, stage: Stage, manifest: dict[str, Any]) -> list[str]:
    """A sentence for every source and every parent that a finished stage was not made with."""
    files = changed(manifest.get("sources", {}), sources_of(stage))
    roles = changed(manifest.get("parent_manifests", {}), manifests_of(results, stage))
    return [
        *(f"{file} has changed since {stage.id} was made; --again makes it anew" for file in files),
        *(
            f"{stage.id} was made from an earlier {stage.parents[role]}; --again makes it anew"
            for role in roles
        ),
    ]


def changed_sources(results: Path, stages: Iterable[Stage]) -> list[str]:
    """A sentence for every file that is not what finished stages were made with."""
    users: dict[str, list[str]] = {}
    for stage in stages:
        made_with = manifest_of(results, stage.id).get("sources", {})
        for file in changed(made_with, sources_of(stage)):
            users.setdefault(file, []).append(stage.id)
    return [
        f"{file} has changed since {ids[0]} "
        f"{f'and {len(ids) - 1} more were' if ids[1:] else 'was'} made; "
        "`hdbench stage` or `hdbench arm` with --again makes them anew"
        for file, ids in users.items()
    ]


def note_sources(stage: Stage, work: Path) -> None:
    """Note in the work folder what its checkpoints are made with, unless one is there already."""
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
        made_with = from_json((work / SOURCES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        made_with = {}
    return [f"{stage.id} goes on from step {step} of {stage.training.steps}"] + [
        f"{file} has changed since that checkpoint was made; --again starts afresh"
        for file in changed(made_with, sources_of(stage))
    ]
