"""Features on disk: one pass for all extractors, a shard a rank, in the images' order.

A set of features lies under a key of the images' and weights' digests, preprocessing, layers and
library versions, so it cannot be taken for another.  A shard is a .safetensors file and a JSON file
with its sample ids and its digest, written last: without it the shard does not exist.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from hdbench.core.errors import UserError, reason
from hdbench.core.files import from_json, hidden, removed_on_failure, sha256, share, write_atomic
from hdbench.core.progress import Progress
from hdbench.evaluation.extractors import Extractor
from hdbench.evaluation.images import Images

Features = dict[str, np.ndarray]  # layer -> (N, d) float32, in the images' order


class Shard(NamedTuple):
    """Which part of the images a process takes: those at rank, rank + world_size, ..."""

    rank: int = 0
    world_size: int = 1
    wait_seconds: float = 3600.0  # that rank 0 waits for the others

    @classmethod
    def of(cls, rank: int | None, world_size: int | None, wait_seconds: float = 3600.0) -> Shard:
        """As given, or as RANK and WORLD_SIZE say; UserError where they do not fit."""
        values: dict[str, Any] = {"rank": rank, "world_size": world_size}
        for name, default in (("rank", "0"), ("world_size", "1")):
            if values[name] is None:
                text = os.environ.get(name.upper()) or default
                if not text.isdecimal():
                    raise UserError(f"{name.upper()} = {text!r}: must be a whole number")
                values[name] = int(text)
        if not 0 <= values["rank"] < values["world_size"]:
            raise UserError(
                f"rank {values['rank']} of world size {values['world_size']}: ranks count from 0 "
                "to world size - 1"
            )
        return cls(values["rank"], values["world_size"], wait_seconds)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a pass runs; none of it changes a feature."""

    cache: Path
    shard: Shard = Shard()
    batch: int = 32
    threads: int = 1
    label: str = "features"


def digest_of(value: Any) -> str:
    """SHA-256 of plain data, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def key_of(images: Images, extractor: Extractor, texts: Sequence[str] | None) -> dict[str, Any]:
    """Everything that decides the features."""
    prompts = list(texts) if texts is not None and "text" in extractor.layers else None
    return {
        "images": images.digest,
        "n": len(images),
        "ids": digest_of(images.ids),
        "extractor": extractor.description(),
        "prompts": None if prompts is None else digest_of(prompts),
    }


def extract(
    images: Images, extractors: Sequence[Extractor], texts: Sequence[str] | None, settings: Settings
) -> list[Features] | None:
    """Features of each extractor; an image is decoded once for all that are not cached.

    Rank 0 waits for the other ranks and returns the merged features; the others return None when
    their shard is written.  Raises UserError for a broken image, a broken cache, or a rank that
    does not come.
    """
    keys = [key_of(images, extractor, texts) for extractor in extractors]
    folders = [settings.cache / "features" / digest_of(key)[:16] for key in keys]
    rank, world_size, wait_seconds = settings.shard
    missing = [
        which
        for which, folder in enumerate(folders)
        if _world(folder) is None and not (folder / f"shard-{rank}-of-{world_size}.json").is_file()
    ]
    if missing:
        rows = range(rank, len(images), world_size)
        extracted = _pass(images, [extractors[which] for which in missing], texts, rows, settings)
        for which, arrays in zip(missing, extracted, strict=True):
            _write(
                folders[which],
                f"shard-{rank}-of-{world_size}",
                keys[which],
                [images.ids[row] for row in rows],
                arrays,
            )
    if rank:
        return None
    return [
        _merged(folder, key, images.ids, extractor.layers, wait_seconds, world_size)
        for folder, key, extractor in zip(folders, keys, extractors, strict=True)
    ]


def discard(images: Images, extractor: Extractor, settings: Settings) -> None:
    """Drop the features of these images, which have become part of something else."""
    shutil.rmtree(
        settings.cache / "features" / digest_of(key_of(images, extractor, None))[:16],
        ignore_errors=True,
    )


def _pass(
    images: Images,
    extractors: Sequence[Extractor],
    texts: Sequence[str] | None,
    rows: range,
    settings: Settings,
) -> list[Features]:
    progress = Progress(settings.label, len(rows))
    features: list[dict[str, list[np.ndarray]]] = [
        {layer: [] for layer in extractor.layers} for extractor in extractors
    ]

    def prepared(row: int) -> list[Tensor]:
        image = images.load(row)
        return [extractor.prepare(image) for extractor in extractors]

    with ThreadPoolExecutor(settings.threads) as pool:
        starts = range(0, len(rows), settings.batch)
        batches = [rows[start : start + settings.batch] for start in starts]
        for start, rows_of_batch, images_of_batch in zip(
            starts, batches, _ahead(pool, prepared, batches), strict=True
        ):
            progress(start)
            prompts = None if texts is None else [texts[row] for row in rows_of_batch]
            for which, extractor in enumerate(extractors):
                for layer, values in extractor(
                    [image[which] for image in images_of_batch], prompts
                ).items():
                    if (broken := np.flatnonzero(~np.isfinite(values).all(1))).size:
                        raise UserError(
                            f"{extractor.weights.path}: gives features that are not finite, first "
                            f"for the image {images.ids[rows_of_batch[broken[0]]]!r}; get these "
                            "weights again"
                        )
                    features[which][layer].append(values)
    progress(len(rows))
    return [
        {
            layer: np.concatenate(values) if values else np.empty((0, 0), np.float32)
            for layer, values in arrays.items()
        }
        for arrays in features
    ]


def _ahead(pool: ThreadPoolExecutor, function, batches: list[range]) -> Iterable[list]:
    """function over the rows of each part, always one part ahead of what is taken."""
    waiting: list[list] = []
    for batch in batches:
        waiting.append([pool.submit(function, row) for row in batch])
        if len(waiting) > 1:
            yield [job.result() for job in waiting.pop(0)]
    for jobs in waiting:
        yield [job.result() for job in jobs]


def _write(folder: Path, name: str, key: dict[str, Any], ids: list[str], arrays: Features) -> None:
    temporary = hidden(folder / name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with removed_on_failure(temporary):
            save_file(
                {layer: np.ascontiguousarray(values) for layer, values in arrays.items()}, temporary
            )
            share(temporary)
            os.replace(temporary, folder / f"{name}.safetensors")
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{folder}: cannot be written ({reason(error)}); choose another --cache folder"
        ) from None
    manifest = {"key": key, "sha256": sha256(folder / f"{name}.safetensors"), "ids": ids}
    write_atomic(folder / f"{name}.json", json.dumps(manifest) + "\n")


def _world(folder: Path) -> int | None:
    """A world size of which every shard is there."""
    for manifest in folder.glob("shard-0-of-*.json"):
        size = int(manifest.stem.rsplit("-", 1)[1])
        if size and all(
            (folder / f"shard-{rank}-of-{size}.json").is_file() for rank in range(size)
        ):
            return size
    return None


def _merged(
    folder: Path,
    key: dict[str, Any],
    ids: tuple[str, ...],
    layers: tuple[str, ...],
    wait_seconds: float,
    world_size: int,
) -> Features:
    started = time.monotonic()
    while (size := _world(folder)) is None:
        if time.monotonic() - started > wait_seconds:
            absent = [
                rank
                for rank in range(world_size)
                if not (folder / f"shard-{rank}-of-{world_size}.json").is_file()
            ]
            raise UserError(
                f"{folder}: no features from rank {', '.join(map(str, absent))} of {world_size} "
                f"after {wait_seconds:.0f} seconds; run the same command on these ranks, finished "
                "shards are kept"
            )
        time.sleep(0.2)
    shards = [_read(folder, f"shard-{rank}-of-{size}", key) for rank in range(size)]
    if any(names != list(ids[rank::size]) for rank, (names, _) in enumerate(shards)):
        raise UserError(
            f"{folder}: its shards do not hold each of the {len(ids)} images once, in their order; "
            "delete this folder and run again"
        )
    position = {name: row for row, name in enumerate(name for names, _ in shards for name in names)}
    order = [position[name] for name in ids]
    return {
        layer: np.concatenate([arrays[layer] for _, arrays in shards if arrays[layer].size])[order]
        for layer in layers
    }


def _read(folder: Path, name: str, key: dict[str, Any]) -> tuple[list[str], Features]:
    try:
        manifest = from_json((folder / f"{name}.json").read_text(encoding="utf-8"))
        same = manifest["key"] == key
        digest = manifest["sha256"]
        ids = manifest["ids"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{folder / name}.json: not a manifest of features; delete the folder {folder} and run "
            "again"
        ) from None
    path = folder / f"{name}.safetensors"
    if not same or not path.is_file() or sha256(path) != digest:
        raise UserError(
            f"{path}: differs from its manifest; delete the folder {folder} and run again"
        )
    return ids, load_file(path)
