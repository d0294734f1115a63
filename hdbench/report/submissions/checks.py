"""What is wrong with a bundle, as sentences: files, digests, numbers, seeds, counts, commits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

from hdbench.core.files import canonical, digest_of, sha256
from hdbench.core.provenance import DIRTY, UNKNOWN
from hdbench.metrics.records import with_count
from hdbench.report.submissions.bundle import (
    MANIFESTS,
    METRICS,
    RECORD,
    Submission,
    evaluation_file,
    read_json,
    read_numbers,
    read_record,
)
from hdbench.stages.artifact import Manifest

Manifests = dict[str, dict[str, Any]]  # by stage id


def problems(bundle: Path) -> list[str]:
    """All that is wrong with a bundle; nothing for a sound one.

    UserError where it cannot be read at all.
    """
    record = read_record(bundle)
    listed = list(of_files(bundle, record))
    if listed:
        return listed  # what the other files say is not what was submitted
    manifests, listed = read_manifests(bundle)
    frame = read_numbers(bundle)
    listed += of_manifests(manifests)
    # numbers are traced through manifests that hold together alone
    numbers = [] if listed else of_numbers(bundle, frame, manifests)
    return [*listed, *of_chains(frame, record), *numbers, *of_commits(manifests)]


def of_files(bundle: Path, record: Submission) -> Iterator[str]:
    """Files that are missing, changed or not named in submission.json."""
    for name in (METRICS, MANIFESTS):
        if name not in record.files:
            yield f"{RECORD}: names no {name}"
    for name, digest in record.files.items():
        path = bundle / name
        if not path.resolve().is_relative_to(bundle.resolve()):
            yield f"{name}: lies outside the bundle"
        elif not path.is_file():
            yield f"{name}: is missing"
        elif sha256(path) != digest:
            yield f"{name}: was changed after {RECORD} was written"


def read_manifests(bundle: Path) -> tuple[Manifests, list[str]]:
    """The manifests that are sound by themselves, by id, and what is wrong with others."""
    data = read_json(bundle / MANIFESTS)
    manifests: Manifests = {}
    listed = []
    for number, manifest in enumerate(data if isinstance(data, list) else [data], 1):
        try:
            manifests[Manifest.model_validate_json(canonical(manifest)).id] = manifest
        except (ValidationError, ValueError):
            listed.append(f"{MANIFESTS}: entry {number} is no manifest")
    return manifests, listed


def of_manifests(manifests: Manifests) -> Iterator[str]:
    """Digests that are not of their configuration and parents, and parents that are not there."""
    for name, manifest in manifests.items():
        key = {
            "kind": manifest["kind"],
            "versions": manifest.get("versions"),
            "config": manifest["config"],
            "parents": {role: id_.rpartition("-")[2] for role, id_ in manifest["parents"].items()},
        }
        digests = {digest_of(key), manifest["digest"], name.rpartition("-")[2]}
        if len(digests) > 1:
            yield f"{name}: its digest is not that of its configuration, parents and versions"
        for parent in manifest["parents"].values():
            if parent not in manifests:
                yield f"{name}: its parent {parent} is not in the bundle"


def of_chains(frame: pd.DataFrame, record: Submission) -> Iterator[str]:
    """Arms without numbers, chains left out, and a metric that only some chains have."""
    if strangers := sorted(set(frame.arm) - set(record.arms)):
        yield f"{METRICS}: has arms that {RECORD} does not name: {', '.join(strangers)}"
    quality = frame[frame.protocol != "cost"]
    distance = with_count(record.distance, record.samples)
    for arm in record.arms:
        numbers = quality[quality.arm == arm]
        if distance not in set(numbers.metric):
            yield f"{arm}: has no {distance}"
        for (nfe, metric), rows in numbers.groupby(["nfe", "metric"]):
            missing = sorted(set(record.seeds) - set(rows.seed.dropna()))
            if missing and not rows.seed.isna().all():
                seeds = ", ".join(map(str, missing))
                yield f"{arm}, nfe {nfe}: {metric} lacks the chains {seeds}"
        for (nfe, metric), rows in numbers[numbers.metric == distance].groupby(["nfe", "metric"]):
            copies = rows[rows.value.duplicated(keep=False)]
            if copies.digest.nunique() > 1:
                seeds = ", ".join(map(str, copies.seed))
                yield f"{arm}, nfe {nfe}: {metric} is the same number in the chains {seeds}"


def of_numbers(bundle: Path, frame: pd.DataFrame, manifests: Manifests) -> Iterator[str]:
    """Numbers that no evaluation of their row's samples measured, or that are of no such chain."""
    by_digest = {m["digest"]: m for m in manifests.values() if m["kind"] == "evaluate"}
    measured: set[tuple] = set()  # with the samples' stage
    for digest, manifest in by_digest.items():
        path = bundle / evaluation_file(digest)
        if not path.is_file() or sha256(path) != manifest["payload"].get("metrics.csv"):
            yield f"{evaluation_file(digest)}: is not what {manifest['id']} measured"
            continue
        if "influence.npz" not in manifest["payload"]:
            yield f"{manifest['id']}: has no influences of single samples"
        try:
            for row in pd.read_csv(path).fillna({"se": -1.0}).itertuples():
                name = with_count(row.metric, row.n)
                measured.add((manifest["parents"].get("sample"), name, row.value, row.se, row.n))
        except (ValueError, TypeError, AttributeError):
            yield f"{evaluation_file(digest)}: is no table of metrics"
    for row in frame[frame.protocol != "cost"].fillna({"se": -1.0}).itertuples():
        where = f"{METRICS}: {row.metric} of {row.arm}, chain {row.seed}, nfe {row.nfe}"
        manifest = by_digest.get(row.digest)
        if manifest is None:
            yield f"{where}: no evaluate stage of the bundle has its digest {row.digest}"
            continue
        samples = manifest["parents"].get("sample")
        if (samples, row.metric, row.value, row.se, row.n) not in measured:
            yield f"{where}: is not what was measured"
        if not pd.isna(row.seed) and row.seed not in seeds_before(samples, manifests):
            yield f"{where}: no stage before it has this seed"


def seeds_before(stage: str | None, manifests: Manifests) -> set[int | None]:
    """The seeds of a stage and of all that it was made from, and the chain of its noises."""
    manifest = manifests.get(stage or "")
    if manifest is None:
        return set()
    seeds = {manifest["config"].get(key) for key in ("seed", "chain")}
    return seeds.union(
        *(seeds_before(parent, manifests) for parent in manifest["parents"].values())
    )


def of_commits(manifests: Manifests) -> Iterator[str]:
    """Stages of a tree with changes, or of no known commit."""
    unclean = [
        name
        for name, manifest in manifests.items()
        if (commit := str(manifest["environment"].get("commit", UNKNOWN))) == UNKNOWN
        or commit.endswith(DIRTY)
    ]
    if unclean:
        yield (
            f"{len(unclean)} of {len(manifests)} stages ran from a tree with changes or of no "
            f"known commit, such as {unclean[0]}"
        )
