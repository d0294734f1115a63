"""A protocol's metrics from features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from hdbench.core.errors import UserError
from hdbench.datasets.prompts import read_prompts
from hdbench.evaluation.features import Features
from hdbench.evaluation.images import Images
from hdbench.evaluation.protocols import Protocol
from hdbench.evaluation.references import Reference
from hdbench.evaluation.request import Request
from hdbench.evaluation.results import Result
from hdbench.metrics import Estimate, frechet, kernel, manifold
from hdbench.metrics.frechet import GaussianReference
from hdbench.metrics.inception_score import consecutive_splits, inception_score, shuffled_splits


def measure(
    protocol: Protocol,
    features: Features,
    real: Reference | None,
    classifier: np.ndarray | None,
    device: torch.device,
    intervals: bool = True,
) -> dict[str, Estimate]:
    """The protocol's metrics from Inception's features alone, in its order."""
    found: dict[str, Estimate] = {}
    for metric in protocol.metrics:
        if metric in ("fid", "sfid"):
            layer = "2048" if metric == "fid" else "spatial"
            found[metric] = _frechet(features[layer], real.statistics[layer], intervals)
        elif metric == "kid":
            x, y = (
                torch.from_numpy(f).to(device) for f in (features["2048"], real.features["2048"])
            )
            found[metric] = kernel.kid_of_subsets(
                x, y, subsets=protocol.kid_subsets, size=protocol.kid_subset_size
            )
        elif metric == "precision":
            x, y = (
                torch.from_numpy(f).to(device) for f in (features["2048"], real.features["2048"])
            )
            found["precision"], found["recall"] = manifold.estimates(x, y, protocol.neighbours)
        elif metric == "inception_score":
            if classifier is None:
                raise UserError(
                    "clean-fid's Inception has no logits for the inception score; give torch-fidelity's file"
                )
            n = len(features["2048"])
            splits = (
                shuffled_splits(n)
                if protocol.score_splits == "shuffled_10"
                else consecutive_splits(n)
            )
            found[metric] = inception_score(
                features["2048"].astype(np.float64) @ classifier.T.astype(np.float64), splits
            )
    return found


def _frechet(features: np.ndarray, reference: GaussianReference, intervals: bool) -> Estimate:
    """Where a covariance is singular the value is that of the libraries, rounding errors and all; see `_notes`."""
    found = (
        frechet.estimate(features, reference)
        if intervals
        else Estimate(frechet.distance(features, reference), np.full(len(features), np.nan))
    )
    if frechet.is_singular(len(features), reference):
        return found._replace(value=frechet.library_distance(*frechet.moments(features), reference))
    return found


def _categories(
    request: Request,
    features: np.ndarray,
    ids: tuple[str, ...],
    prompts: Sequence[Mapping[str, str]],
    real: Reference,
) -> dict[str, Result]:
    """FID of each category that has two images or more on both sides."""
    theirs = [row.get("category") for row in read_prompts(request.prompts, real.ids, "mjhq30k")]
    ours, results = [row.get("category") for row in prompts], {}
    for category in sorted({name for name in ours if name}):
        rows = [row for row, name in enumerate(ours) if name == category]
        others = [row for row, name in enumerate(theirs) if name == category]
        if min(len(rows), len(others)) > 1:
            gaussian = GaussianReference.of_statistics(
                *frechet.moments(real.features["2048"][others])
            )
            results[f"fid_{category}"] = Result(
                _frechet(features[rows], gaussian, request.intervals),
                tuple(ids[row] for row in rows),
            )
    return results


def _notes(protocol: Protocol, images: Images) -> list[str]:
    """What a reader should know, a sentence each."""
    notes = []
    if protocol.image_size and set(images.sizes) != {(protocol.image_size,) * 2}:
        height, width = images.sizes.most_common(1)[0][0]
        notes.append(
            f"images are {width}x{height}, those of {protocol.name} {protocol.image_size}x{protocol.image_size}"
        )
    if {"fid", "sfid"} & set(protocol.metrics) and len(images) < 2 * 2048:
        notes.append(
            f"{len(images)} images are few for 2,048 dimensions: the Frechet distance is far above that of more "
            "images, and its interval is wider than need be"
            + (
                ", and with 2,048 or fewer the libraries' rounding is part of its value, about 1e-5 of it"
                if len(images) <= 2048
                else ""
            )
        )
    return notes
