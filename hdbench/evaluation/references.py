"""References: statistics of real images with factors of covariances, and features where needed.

A reference is of one extractor.  It lies under a digest of its images' contents, the weights,
preprocessing, layers, n and library versions, never under a name.  It is built from images, or from
an npz that holds statistics (`mu, sigma`, ADM's also `mu_s, sigma_s`), whose images then serve
precision and recall alone.  Statistics do not say of which preprocessing they are: those with
`mu_s` or images are ADM's, others are of the extractor that their file is named for
(`inception_clean.npz`); elsewhere the reference is computed from `arr_0`, or refused.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from hdbench.core.errors import UserError, reason
from hdbench.core.files import MANIFEST, from_json, hidden, read_text, sha256, share, write_atomic
from hdbench.core.npz import array_names, read_array
from hdbench.evaluation.archives import STANDARD, ArrayForm
from hdbench.evaluation.extractors import Extractor
from hdbench.evaluation.features import Settings, digest_of, discard, extract
from hdbench.evaluation.images import Images, open_images
from hdbench.evaluation.protocols import Protocol
from hdbench.metrics.frechet import GaussianReference, moments

KIND = "reference of hdbench evaluate"
FOREIGN = "not said to be of {name}'s preprocessing, as a file {name}.npz would"
FILES = ("statistics.safetensors", "features.safetensors")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Statistics and features (M, d) by layer of one reference; `ids` are of the features."""

    digest: str
    key: dict[str, Any]
    folder: Path
    statistics: dict[str, GaussianReference]
    features: dict[str, np.ndarray]
    ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A reference before it is built: what it will be made of, and under which key it will lie."""

    source: str
    images: Images | None
    extractor: Extractor
    given: dict[str, tuple[np.ndarray, np.ndarray]]  # statistics by layer that the source holds
    features: tuple[str, ...]  # layers whose features are kept
    key: dict[str, Any]
    folder: Path

    @property
    def built(self) -> bool:
        return (self.folder / MANIFEST).is_file()


def source_for(source: Path | Images | Mapping[str, Path], extractor: Extractor) -> Path | Images:
    """The source of one extractor: NAME/ or NAME.npz in a folder that has it, or the whole."""
    if isinstance(source, Mapping):
        return source[extractor.name]
    if isinstance(source, Path):
        for path in (source / extractor.name, source / f"{extractor.name}.npz"):
            if path.exists():
                return path
    return source


def is_built(source: Path | Images) -> bool:
    """Whether it is the folder of a built reference."""
    return isinstance(source, Path) and (source / MANIFEST).is_file()


def plan(
    source: Path | Images,
    protocol: Protocol,
    extractor: Extractor,
    cache: Path,
    allow: frozenset[str] = frozenset(),
    form: ArrayForm = STANDARD,
) -> Plan:
    """What the reference of a folder or npz of images, or an npz of ADM's statistics, will be.

    Raises UserError for a source that does not serve the protocol.
    """
    is_file = isinstance(source, Path) and source.is_file()
    given = _statistics(source, protocol, extractor) if is_file else {}
    kept = protocol.reference_layers(extractor.name, "features")
    images = None
    if kept or not given:
        mixed = protocol.resolution is not None
        images = (
            source
            if isinstance(source, Images)
            else open_images(source, allow=allow, mixed_sizes=mixed, form=form)
        )
        if is_file and not given and array_names(source) & _names(extractor):
            unused = f"{source}: its statistics are {FOREIGN.format(name=extractor.name)}"
            images = replace(images, notes=(*images.notes, f"{unused}; its images are used"))
        needed = protocol.neighbours + 1 if {"precision", "recall"} & set(protocol.metrics) else 2
        if len(images) < needed:
            raise UserError(
                f"{images.source}: only {len(images)} images; a reference of {protocol.name} needs "
                f"at least {needed}"
            )
    if given:
        extractor = extractor.with_layers(kept)
    elif "text" in extractor.layers:  # real images have no prompts here
        extractor = extractor.with_layers(protocol.reference_layers(extractor.name))
    key = {
        "source": sha256(source) if given else images.digest,
        "n": None if images is None else len(images),
        "statistics": sorted(given) or "computed",
        "features": list(kept),
        "extractor": extractor.description(),
    }
    if form != STANDARD:
        key["array"] = asdict(form)
    return Plan(
        source=str(source.source if isinstance(source, Images) else source),
        images=images,
        extractor=extractor,
        given=given,
        features=kept,
        key=key,
        folder=cache / "references" / digest_of(key)[:16],
    )


def build(plans: Sequence[Plan], settings: Settings) -> bool:
    """Build those that are missing, each source decoded once; False on ranks other than 0."""
    missing = [plan for plan in plans if not plan.built]
    for source in dict.fromkeys(plan.source for plan in missing):
        group = [plan for plan in missing if plan.source == source]
        extractors = {
            digest_of(plan.extractor.description()): plan.extractor
            for plan in group
            if plan.images is not None
        }
        features_of: dict[str, Any] = {}
        if extractors:
            images = next(plan.images for plan in group if plan.images is not None)
            features = extract(
                images,
                list(extractors.values()),
                None,
                replace(settings, label=f"reference {source}"),
            )
            features_of = {} if features is None else dict(zip(extractors, features, strict=True))
        if settings.shard.rank == 0:
            for plan in group:
                _publish(plan, features_of.get(digest_of(plan.extractor.description()), {}))
            for extractor in extractors.values():
                discard(images, extractor, settings)
    return settings.shard.rank == 0


def _statistics(
    path: Path, protocol: Protocol, extractor: Extractor
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Statistics by layer, or nothing if the file holds images alone."""
    if path.suffix.lower() != ".npz":
        raise UserError(
            f"{path}: not an npz file; a reference is a folder of images, an npz file, or built by "
            "`hdbench reference`"
        )
    there = array_names(path)
    if path.stem != extractor.name and not there & set(extractor.marks):
        if there & _names(extractor) and "arr_0" not in there:
            raise UserError(
                f"{path}: its statistics are {FOREIGN.format(name=extractor.name)}; rename it if "
                "they are, or give the images"
            )
        return {}
    statistics = {
        layer: tuple(read_array(path, name) for name in names)
        for layer, names in extractor.statistics.items()
        if layer in extractor.layers
    }
    if all(array is None for pair in statistics.values() for array in pair):
        return {}
    for layer, (mu, sigma) in statistics.items():
        names = extractor.statistics[layer]
        d = extractor.dimensions[layer]
        if mu is None or sigma is None:
            missing = [
                name for name, array in zip(names, (mu, sigma), strict=True) if array is None
            ]
            reading = (
                x for x in protocol.classes() if (extractor.name, layer) in protocol.sources(x)
            )
            raise UserError(
                f"{path}: has no {' and no '.join(missing)}, which {protocol.name} needs for "
                f"{next(reading).title}"
            )
        if mu.shape != (d,) or sigma.shape != (d, d) or not _is_covariance(mu, sigma):
            raise UserError(
                f"{path}: {', '.join(names)} have the shapes {mu.shape} and "
                f"{sigma.shape}, or values not finite, or not those of a covariance; those of "
                f"{extractor.name} must be finite, ({d},) and ({d}, {d})"
            )
    return {layer: (np.array(mu), np.array(sigma)) for layer, (mu, sigma) in statistics.items()}


def _names(extractor: Extractor) -> frozenset[str]:
    """The names of its statistics in an npz."""
    return frozenset(name for names in extractor.statistics.values() for name in names)


def _is_covariance(mu: np.ndarray, sigma: np.ndarray) -> bool:
    return (
        all(
            np.issubdtype(array.dtype, np.floating) and np.isfinite(array).all()
            for array in (mu, sigma)
        )
        and np.diagonal(sigma).min() >= 0
        and np.abs(sigma - sigma.T).max() <= 1e-6 * np.abs(sigma).max()
    )


def _publish(plan: Plan, features: dict[str, np.ndarray]) -> None:
    temporary = hidden(plan.folder)
    statistics = plan.given or {layer: moments(features[layer]) for layer in plan.extractor.layers}
    arrays = {}
    for layer, (mu, sigma) in statistics.items():
        gaussian = GaussianReference.of_statistics(mu, sigma)
        arrays |= {
            f"{layer}.{name}": np.ascontiguousarray(array)
            for name in ("mu", "sigma", "root", "cholesky")
            if (array := getattr(gaussian, name)) is not None
        }
    try:
        temporary.mkdir(parents=True)
        save_file(arrays, temporary / "statistics.safetensors")
        save_file(
            {layer: features[layer] for layer in plan.features}, temporary / "features.safetensors"
        )
        payload = {name: sha256(temporary / name) for name in FILES}
        manifest = {
            "kind": KIND,
            "digest": digest_of(plan.key),
            "key": plan.key,
            "source": plan.source,
            "payload": payload,
            "ids": [] if plan.images is None else plan.images.ids,
        }
        write_atomic(temporary / MANIFEST, json.dumps(manifest) + "\n")
        share(temporary)
        if plan.folder.exists() and not plan.built:  # somebody took its manifest away
            shutil.rmtree(plan.folder)
        os.rename(temporary, plan.folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if not plan.built:  # else another process has built the same meanwhile
            raise UserError(
                f"{plan.folder}: cannot be written ({reason(error)}); choose another --cache folder"
            ) from None


def load(folder: Path, key: dict[str, Any] | None = None) -> Reference:
    """A built reference; UserError where it differs from its manifest, or is not of `key`."""
    try:
        manifest = from_json(read_text(folder / MANIFEST))
        kind = manifest["kind"]
        digest = manifest["digest"]
        stored_key = manifest["key"]
        ids = tuple(manifest["ids"])
        payload = {name: manifest["payload"][name] for name in FILES}
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{folder / MANIFEST}: not the manifest of a reference; delete the folder {folder} and "
            "build it again"
        ) from None
    changed = next(
        (
            name
            for name, sum_ in payload.items()
            if not (folder / name).is_file() or sha256(folder / name) != sum_
        ),
        None,
    )
    if kind != KIND or digest != digest_of(stored_key) or key not in (None, stored_key) or changed:
        raise UserError(
            f"{folder / (changed or MANIFEST)}: differs from its manifest, so the reference was "
            f"tampered with or is broken; delete the folder {folder} and run again"
        )
    arrays = load_file(folder / "statistics.safetensors")
    statistics = {
        layer: GaussianReference(
            **{
                name.rsplit(".", 1)[1].replace("triangle", "cholesky"): array  # its older name
                for name, array in arrays.items()
                if name.rsplit(".", 1)[0] == layer
            }
        )
        for layer in {name.rsplit(".", 1)[0] for name in arrays}
    }
    return Reference(
        digest=digest,
        key=stored_key,
        folder=folder,
        statistics=statistics,
        ids=ids,
        features=load_file(folder / "features.safetensors"),
    )


def checked(reference: Reference, protocol: Protocol, extractor: Extractor) -> Reference:
    """The reference; UserError if of another extractor, or without what the protocol needs."""
    stored = reference.key["extractor"]
    expected = extractor.description()
    for name in expected:
        if name not in ("layers", "device", "layout") and stored.get(name) != expected[name]:
            raise UserError(
                f"{reference.folder}: stale: built with {name} {stored.get(name)}, now "
                f"{expected[name]}; build it again with `hdbench reference`"
            )
    name = extractor.name
    missing = [x for x in protocol.reference_layers(name) if x not in reference.statistics]
    kept = protocol.reference_layers(name, "features")
    missing += [layer for layer in kept if layer not in reference.features]
    if missing:
        raise UserError(
            f"{reference.folder}: has no layer {missing[0]} that {protocol.name} needs; build it "
            f"with `hdbench reference --protocol {protocol.name}`"
        )
    return reference


def copy(reference: Reference, folder: Path) -> None:
    """Copy the reference to a folder of its own; UserError if something is there."""
    if folder.exists():
        raise UserError(f"{folder}: exists already; choose another --out folder or delete it")
    temporary = hidden(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(reference.folder, temporary)
        os.rename(temporary, folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}); choose another --out folder"
        ) from None


def source_changed(reference: Reference) -> str | None:
    """A built reference's source if its images are still there but differ; else None."""
    source = Path(from_json((reference.folder / MANIFEST).read_text(encoding="utf-8"))["source"])
    if not source.exists() or (source / MANIFEST).is_file():
        return None
    form = ArrayForm(**reference.key.get("array", {}))
    digest = (
        sha256(source)
        if reference.key["statistics"] != "computed"
        else open_images(source, allow=("conversion", "mixed-sizes"), form=form).digest
    )
    return None if digest == reference.key["source"] else str(source)
