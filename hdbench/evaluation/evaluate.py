"""Evaluate images under named protocols: inputs checked first, one pass, every metric with its interval."""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from hdbench.artifact import write_together
from hdbench.collect import COLUMNS, SHARES, with_count
from hdbench.errors import UserError
from hdbench.evaluation import references
from hdbench.evaluation.extractors import ClipExtractor, Inception, InceptionExtractor
from hdbench.evaluation.features import Features, Settings, digest_of, extract
from hdbench.evaluation.protocols import Layout, Protocol, label
from hdbench.evaluation.references import Reference
from hdbench.evaluation.samples import Images, open_images, read_prompts
from hdbench.evaluation.weights import Weights, find, reason
from hdbench.metrics import Estimate, frechet, kernel, manifold
from hdbench.metrics.clip_score import clip_score
from hdbench.metrics.frechet import GaussianReference
from hdbench.metrics.inception_score import consecutive_splits, inception_score, shuffled_splits

SUITE = "evaluate"  # of rows that no suite made


class Result(NamedTuple):
    """An estimate and the samples that it is of."""

    estimate: Estimate
    ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Every metric of one protocol on one set of samples; `protocol` is its column in tables."""

    name: str
    protocol: str
    reference: str
    digest: str
    results: dict[str, Result]
    facts: dict[str, Any] = field(default_factory=dict)

    def frame(self) -> pd.DataFrame:
        """One row a metric, with the columns of every table of numbers."""
        rows = [{"suite": SUITE, "arm": self.name, "metric": with_count(metric, len(ids)), "value": estimate.value,
                 "se": estimate.standard_error, "n": len(ids), "protocol": self.protocol, "digest": self.digest}
                for metric, (estimate, ids) in self.results.items()]
        return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)

    def table(self) -> str:
        """For people: metric, value, 95% interval, n, protocol, reference."""
        from tabulate import tabulate

        rows = []
        for metric, (estimate, ids) in self.results.items():
            half, (least, most) = 1.96 * estimate.standard_error, (0, 1) if metric in SHARES else (-math.inf, math.inf)
            interval = "-" if math.isnan(half) else (f"[{max(estimate.value - half, least):.6g}, "
                                                     f"{min(estimate.value + half, most):.6g}]")
            rows.append([with_count(metric, len(ids)), f"{estimate.value:.6g}", interval, len(ids),
                         self.protocol.rsplit(":", 1)[0], self.reference[:16] or "-"])
        return tabulate(rows, ["metric", "value", "95% interval", "n", "protocol", "reference"], disable_numparse=True,
                        colalign=("left", "right", "right", "right", "left", "left"))

    def save(self, path: Path) -> None:
        """Rows to `path` (.csv or .json, that with all facts), influences and ids to the .npz beside it."""
        arrays = {f"{kind}.{metric}": np.array(values) for metric, (estimate, ids) in self.results.items()
                  for kind, values in (("influence", estimate.influence), ("ids", ids), ("value", estimate.value))}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        rows = [{"metric": with_count(metric, len(ids)), "value": estimate.value, "se": _number(estimate.standard_error),
                 "se_with_random_reference": _number(estimate.both), "n": len(ids)}
                for metric, (estimate, ids) in self.results.items()]
        document = {"name": self.name, "protocol": self.protocol, "reference": self.reference, "digest": self.digest,
                    **self.facts, "metrics": rows}
        text = (self.frame().to_csv(index=False, lineterminator="\n") if path.suffix == ".csv" else
                json.dumps(document, indent=1, allow_nan=False) + "\n")
        write_together({path: text.encode(), path.with_suffix(".npz"): buffer.getvalue()})


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def check_out(path: Path) -> None:
    """UserError where `Evaluation.save` could not write, or would write its influences over something else."""
    place = next(folder for folder in path.absolute().parents if folder.exists())
    influences = path.with_suffix(".npz")
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"--out = {path}: {place} is not a folder that can be written to; choose another")
    try:
        foreign = influences.exists() and not read_results(influences)
    except UserError:
        foreign = True
    if foreign or path.is_dir():
        raise UserError(f"--out = {path}: {influences if foreign else path} is something else, which would be overwritten; "
                        "choose another name")


def read_results(path: Path) -> dict[str, Result]:
    """The results that `Evaluation.save` wrote beside a table, for `metrics.comparison.paired_difference`."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            metrics = [name.removeprefix("value.") for name in arrays if name.startswith("value.")]
            return {metric: Result(Estimate(float(arrays[f"value.{metric}"]), arrays[f"influence.{metric}"]),
                                   tuple(arrays[f"ids.{metric}"].tolist())) for metric in metrics}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not the influences of an evaluation ({reason(error)})") from None


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to evaluate; references by protocol name, weights by role."""

    samples: Path | None
    protocols: tuple[Protocol, ...]
    references: Mapping[str, Path | Images]
    weights: Mapping[str, str]
    settings: Settings
    device: torch.device
    n: int | None = None
    prompts: Path | None = None
    allow: frozenset[str] = frozenset()
    intervals: bool = True
    layout: Layout = "library"
    name: str | None = None


class Extractors:
    """The networks that some protocols need, each loaded once, and one extractor for each preprocessing."""

    def __init__(self, request: Request):
        protocols, other = request.protocols, "other-weights" in request.allow
        roles = [role for role, wanted in (("inception", any(p.inception for p in protocols)),
                                           ("clip", request.samples and any(p.prompts for p in protocols))) if wanted]
        self.weights: dict[str, Weights] = {role: find(role, request.weights.get(role), request.settings.cache, other)
                                            for role in roles}
        self.by_protocol: dict[str, InceptionExtractor] = {}
        self.clip: ClipExtractor | None = None
        self._request = request

    def load(self) -> None:
        """Networks, after everything that is quick to check has been."""
        protocols, device = self._request.protocols, self._request.device
        network = (Inception(self.weights["inception"], device, self._request.layout) if "inception" in self.weights
                   else None)
        settings = {protocol.name: (protocol.inception, protocol.resolution) for protocol in protocols if protocol.inception}
        for key in dict.fromkeys(settings.values()):
            sharing = [protocol for protocol in protocols if settings.get(protocol.name) == key]
            layers = tuple(layer for layer in ("2048", "spatial") if any(layer in protocol.layers for protocol in sharing))
            extractor = InceptionExtractor(network, key[0], layers, key[1])
            self.by_protocol |= {protocol.name: extractor for protocol in sharing}
        if "clip" in self.weights:
            self.clip = ClipExtractor(self.weights["clip"], protocols[0].clip_architecture, device)

    def all(self) -> list:
        return [*dict.fromkeys(self.by_protocol.values()), *([self.clip] if self.clip else [])]


def evaluate(request: Request) -> list[Evaluation] | None:
    """One evaluation a protocol; None on a rank other than 0, whose features are then written.

    Raises UserError, before any network runs, for weights, samples, prompts or references that do not serve.
    """
    extractors = Extractors(request)
    images, prompts = _samples(request)
    for protocol in request.protocols:
        if protocol.needs_reference and protocol.name not in request.references:
            raise UserError(f"{protocol.name} needs a reference; give --reference with a folder or npz of real images"
                            + (", or ADM's VIRTUAL_imagenet256_labeled.npz" if "sfid" in protocol.metrics else "")
                            + ", or what `hdbench reference` built")
    extractors.load()
    found = build_references(request, extractors)
    texts = None if prompts is None else [row["prompt"] for row in prompts]
    features = extract(images, extractors.all(), texts, replace(request.settings, label="samples"))
    if features is None or found is None:
        return None
    by_extractor = dict(zip(extractors.all(), features))
    return [_evaluation(request, protocol, images, prompts, found.get(protocol.name), extractors, by_extractor)
            for protocol in request.protocols]


def build_references(request: Request, extractors: Extractors) -> dict[str, Reference] | None:
    """The reference of each protocol that needs one, from the cache where it is there; None on ranks other than 0."""
    found, plans = {}, {}
    for protocol in request.protocols:
        if not protocol.needs_reference:
            continue
        source, extractor = request.references[protocol.name], extractors.by_protocol[protocol.name]
        if references.is_built(source):
            found[protocol.name] = references.checked(references.load(source), protocol, extractor)
            if (changed := references.source_changed(found[protocol.name])):
                raise UserError(f"{source}: stale: the images in {changed} have changed since; build it again with `hdbench "
                                "reference`")
            _check_reference(request, protocol, found[protocol.name].ids)
        else:
            plans[protocol.name] = each = references.plan(source, protocol, extractor, request.settings.cache, request.allow)
            _check_reference(request, protocol, () if each.images is None else each.images.ids)
    if not references.build(list(plans.values()), request.settings):
        return None
    return found | {name: references.checked(references.load(each.folder, each.key), _named(request, name), each.extractor)
                    for name, each in plans.items()}


def _check_reference(request: Request, protocol: Protocol, ids: tuple[str, ...]) -> None:
    """UserError where the reference's images are too few for these samples' metrics, or lack prompts with categories."""
    if request.samples is None:
        return
    if "kid" in protocol.metrics and len(ids) < protocol.kid_subset_size:
        raise UserError(f"{request.references[protocol.name]}: too few reference images, {len(ids)}; KID's subsets have "
                        f"{protocol.kid_subset_size}; give --kid-subset-size")
    if protocol.categories:
        read_prompts(request.prompts, ids, protocol.name)


def _named(request: Request, name: str) -> Protocol:
    return next(protocol for protocol in request.protocols if protocol.name == name)


def _samples(request: Request) -> tuple[Images, list[dict[str, str]] | None]:
    """The images and their prompts, or UserError where they are not what the protocols ask for."""
    mixed = all(protocol.resolution or not protocol.inception for protocol in request.protocols)
    images = open_images(request.samples, allow=request.allow, mixed_sizes=mixed)
    found = len(images)
    for protocol in request.protocols:
        if request.n is None and protocol.n not in (None, found):
            raise UserError(f"{request.samples}: holds {found} images, {protocol.name} wants {protocol.n}; give --n {found} "
                            f"to evaluate them under that count, which then stands in every metric's name")
    if request.n is not None:
        if not 2 <= request.n <= found:
            raise UserError(f"--n = {request.n}: {request.samples} holds {found} images; give 2 to {found}")
        images = images.subset(request.n)
    for protocol in request.protocols:
        least, why = 2, "an interval"
        if {"precision", "recall"} & set(protocol.metrics):
            least, why = protocol.neighbours + 2, f"{protocol.neighbours} neighbours"
        if "inception_score" in protocol.metrics and protocol.score_splits == "shuffled_10" and least < 10:
            least, why = 10, "the 10 parts of the inception score"
        if "kid" in protocol.metrics and protocol.kid_subset_size > least:
            least, why = protocol.kid_subset_size, "KID's subsets (--kid-subset-size changes them)"
        if len(images) < least:
            raise UserError(f"{request.samples}: too few images, {len(images)}; {protocol.name} needs at least {least} for "
                            f"{why}")
    prompts = [protocol.name for protocol in request.protocols if protocol.prompts]
    return images, read_prompts(request.prompts, images.ids, prompts[0]) if prompts else None


def _evaluation(request: Request, protocol: Protocol, images: Images, prompts: list[dict[str, str]] | None,
                real: Reference | None, extractors: Extractors, found: Mapping[Any, Features]) -> Evaluation:
    features = found[extractors.by_protocol[protocol.name]] if protocol.inception else {}
    results = {metric: Result(estimate, images.ids) for metric, estimate in
               measure(protocol, features, real, _classifier(extractors), request.device, request.intervals).items()}
    if protocol.categories and prompts is not None:
        results |= _categories(request, features["2048"], images.ids, prompts, real)
    if protocol.prompts:
        towers = found[extractors.clip]
        results["clip_score"] = Result(clip_score(towers["image"], towers["text"]), images.ids)
    used = [role for role, wanted in (("inception", protocol.inception), ("clip", protocol.prompts)) if wanted]
    other = {role: extractors.weights[role].sha256 for role in used if not extractors.weights[role].public}
    reference = "" if real is None else real.key["source"]
    column = label(protocol, other, reference, request.layout)
    facts = {"about": protocol.about, "samples": images.source, "samples_digest": images.digest, "n": len(images),
             "labels": images.label_kind(), "sizes": {f"{w}x{h}": n for (h, w), n in images.sizes.items()},
             "weights": {role: extractors.weights[role].sha256 for role in used},
             "extractors": [each.description() for each in found], "notes": _notes(protocol, images)}
    return Evaluation(name=request.name or Path(images.source).stem, protocol=column, reference=reference, results=results,
                      digest=digest_of([images.digest, column, request.n])[:16], facts=facts)


def _classifier(extractors: Extractors) -> np.ndarray | None:
    return next((each.network.classifier for each in extractors.by_protocol.values()), None)


def measure(protocol: Protocol, features: Features, real: Reference | None, classifier: np.ndarray | None,
            device: torch.device, intervals: bool = True) -> dict[str, Estimate]:
    """The protocol's metrics from Inception's features alone, in its order."""
    found: dict[str, Estimate] = {}
    for metric in protocol.metrics:
        if metric in ("fid", "sfid"):
            layer = "2048" if metric == "fid" else "spatial"
            found[metric] = _frechet(features[layer], real.statistics[layer], intervals)
        elif metric == "kid":
            x, y = (torch.from_numpy(f).to(device) for f in (features["2048"], real.features["2048"]))
            found[metric] = kernel.kid_of_subsets(x, y, subsets=protocol.kid_subsets, size=protocol.kid_subset_size)
        elif metric == "precision":
            x, y = (torch.from_numpy(f).to(device) for f in (features["2048"], real.features["2048"]))
            found["precision"], found["recall"] = manifold.estimates(x, y, protocol.neighbours)
        elif metric == "inception_score":
            if classifier is None:
                raise UserError("clean-fid's Inception has no logits for the inception score; give torch-fidelity's file")
            n = len(features["2048"])
            splits = shuffled_splits(n) if protocol.score_splits == "shuffled_10" else consecutive_splits(n)
            found[metric] = inception_score(features["2048"].astype(np.float64) @ classifier.T.astype(np.float64), splits)
    return found


def _frechet(features: np.ndarray, reference: GaussianReference, intervals: bool) -> Estimate:
    """Where a covariance is singular the value is that of the libraries, rounding errors and all; see `_notes`."""
    found = (frechet.estimate(features, reference) if intervals else
             Estimate(frechet.distance(features, reference), np.full(len(features), np.nan)))
    if frechet.is_singular(len(features), reference):
        return found._replace(value=frechet.library_distance(*frechet.moments(features), reference))
    return found


def _categories(request: Request, features: np.ndarray, ids: tuple[str, ...], prompts: Sequence[Mapping[str, str]],
                real: Reference) -> dict[str, Result]:
    """FID of each category that has two images or more on both sides."""
    theirs = [row.get("category") for row in read_prompts(request.prompts, real.ids, "mjhq30k")]
    ours, results = [row.get("category") for row in prompts], {}
    for category in sorted({name for name in ours if name}):
        rows = [row for row, name in enumerate(ours) if name == category]
        others = [row for row, name in enumerate(theirs) if name == category]
        if min(len(rows), len(others)) > 1:
            gaussian = GaussianReference.of_statistics(*frechet.moments(real.features["2048"][others]))
            results[f"fid_{category}"] = Result(_frechet(features[rows], gaussian, request.intervals),
                                                tuple(ids[row] for row in rows))
    return results


def _notes(protocol: Protocol, images: Images) -> list[str]:
    """What a reader should know, a sentence each."""
    notes = []
    if protocol.image_size and set(images.sizes) != {(protocol.image_size,) * 2}:
        height, width = images.sizes.most_common(1)[0][0]
        notes.append(f"images are {width}x{height}, those of {protocol.name} {protocol.image_size}x{protocol.image_size}")
    if {"fid", "sfid"} & set(protocol.metrics) and len(images) < 2 * 2048:
        notes.append(f"{len(images)} images are few for 2,048 dimensions: the Frechet distance is far above that of more "
                     "images, and its interval is wider than need be"
                     + (", and with 2,048 or fewer the libraries' rounding is part of its value, about 1e-5 of it"
                        if len(images) <= 2048 else ""))
    return notes
