"""A protocol's metrics from features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from hdbench.core.errors import UserError
from hdbench.evaluation.features import Features
from hdbench.evaluation.images import Images
from hdbench.evaluation.protocols import Protocol
from hdbench.evaluation.references import Reference
from hdbench.metrics import Estimate, MetricInput, measure_metrics


def measure(
    protocol: Protocol,
    features: Features,
    real: Reference | None,
    classifier: np.ndarray | None,
    device: torch.device,
    intervals: bool = True,
    *,
    clip: Features | None = None,
    captions: Sequence[Mapping[str, str]] = (),
    real_captions: Sequence[Mapping[str, str]] = (),
) -> dict[str, Estimate]:
    """The protocol's metrics, in its order.

    `features` are Inception's by layer, `classifier` (1008, 2048) turns them into logits, `clip`
    are the features "image" and "text" of CLIP's towers; captions hold the categories.
    """
    logits = None
    if "inception_score" in protocol.metrics:
        if classifier is None:
            raise UserError(
                "clean-fid's Inception has no logits for the inception score; give "
                "torch-fidelity's file"
            )
        logits = features["2048"].astype(np.float64) @ classifier.T.astype(np.float64)
    sample = MetricInput(
        features=features.get("2048"),
        spatial=features.get("spatial"),
        reference=None if real is None else real.features.get("2048"),
        statistics={} if real is None else real.statistics,
        logits=logits,
        clip=None if clip is None else (clip["image"], clip["text"]),
        captions=captions,
        real_captions=real_captions,
        settings=protocol.settings(device, intervals),
    )
    return measure_metrics(protocol.metrics, sample)


def notes(protocol: Protocol, images: Images) -> list[str]:
    """What a reader should know, a sentence each."""
    sentences = []
    if protocol.image_size and set(images.sizes) != {(protocol.image_size,) * 2}:
        height, width = images.sizes.most_common(1)[0][0]
        sentences.append(
            f"images are {width}x{height}, those of {protocol.name} "
            f"{protocol.image_size}x{protocol.image_size}"
        )
    if {"fid", "sfid"} & set(protocol.metrics) and len(images) < 2 * 2048:
        sentences.append(
            f"{len(images)} images are few for 2,048 dimensions: the Frechet distance is far above "
            "that of more images, and its interval is wider than need be"
            + (
                ", and with 2,048 or fewer the libraries' rounding is part of its value, about "
                "1e-5 of it"
                if len(images) <= 2048
                else ""
            )
        )
    return sentences
