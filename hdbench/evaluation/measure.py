"""A protocol's metrics from features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from hdbench.core.errors import UserError
from hdbench.evaluation.extractors import EXTRACTORS, Extractor
from hdbench.evaluation.features import Features
from hdbench.evaluation.images import Images
from hdbench.evaluation.protocols import Protocol
from hdbench.evaluation.references import Reference
from hdbench.metrics import INDEPENDENT, MAIN, Design, Estimate, MetricInput, View, measure_metrics


def measure(
    protocol: Protocol,
    features: Mapping[str, Features],
    references: Mapping[str, Reference],
    classifier: np.ndarray | None,
    device: torch.device,
    intervals: bool = True,
    *,
    captions: Sequence[Mapping[str, str]] = (),
    real_captions: Sequence[Mapping[str, str]] = (),
    design: Design = INDEPENDENT,
) -> dict[str, Estimate]:
    """The protocol's metrics, in its order.

    `features` and `references` are by extractor, `classifier` (1008, 2048) turns Inception's
    features into logits; captions hold the categories; `design` says how the samples were drawn.
    """
    views = views_of(protocol, features, references)
    main = views[".".join(protocol.source(MAIN))]
    logits = None
    if "inception_score" in protocol.metrics:
        if classifier is None:
            raise UserError(
                "clean-fid's Inception has no logits for the inception score; give "
                "torch-fidelity's file"
            )
        pooled = views["inception.2048"].features
        logits = pooled.astype(np.float64) @ classifier.T.astype(np.float64)
    sample = MetricInput(
        features=main.features,
        reference=main.reference,
        views=views,
        logits=logits,
        clip=(views["clip.image"].features, views["clip.text"].features)
        if "clip.text" in views
        else None,
        captions=captions,
        real_captions=real_captions,
        settings=protocol.settings(device, intervals),
        design=design,
    )
    return measure_metrics(protocol.metrics, sample)


def views_of(
    protocol: Protocol, features: Mapping[str, Features], references: Mapping[str, Reference]
) -> dict[str, View]:
    """Views by "EXTRACTOR.LAYER", and those of a network's first extractor by "NETWORK.LAYER"."""
    views: dict[str, View] = {}
    for name in protocol.extractors:
        real = references.get(name)
        for layer in protocol.layers(name):
            view = View(
                features=features[name][layer],
                reference=None if real is None else real.features.get(layer),
                statistics=None if real is None else real.statistics.get(layer),
            )
            views[f"{name}.{layer}"] = view
            views.setdefault(f"{EXTRACTORS[name].network}.{layer}", view)
    return views


def design_of(images: Images, captions: Sequence[Mapping[str, str]] = ()) -> Design:
    """Labels that are as many of each class were fixed, others drawn; prompts were fixed.

    A prompt has one sample, so those of a category are taken together, which makes errors larger by
    what differs between its prompts; see `Design.of_labels`.
    """
    if captions:
        return Design.of_labels(np.arange(len(captions)), [row["category"] for row in captions])
    return INDEPENDENT if images.labels is None else Design.inferred(images.labels)


def notes(
    protocol: Protocol, images: Images, extractors: Iterable[Extractor], texts: Sequence[str]
) -> list[str]:
    """What a reader should know, a sentence each; `texts` are the images' prompts."""
    cut = max((extractor.cut(texts) for extractor in extractors), default=0)
    sentences = list(images.notes)
    if cut:
        sentences.append(
            f"{cut} of {len(texts)} prompts are longer than the text tower takes, and were cut"
        )
    if protocol.image_size and set(images.sizes) != {(protocol.image_size,) * 2}:
        height, width = images.sizes.most_common(1)[0][0]
        sentences.append(
            f"images are {width}x{height}, those of {protocol.name} "
            f"{protocol.image_size}x{protocol.image_size}"
        )
    d = max(
        (
            EXTRACTORS[extractor].dimensions[layer]
            for metric in protocol.classes()
            if metric.needs == "statistics"
            for extractor, layer in protocol.sources(metric)
        ),
        default=0,
    )
    if len(images) < 2 * d:
        sentences.append(
            f"{len(images)} images are few for {d:,} dimensions: the Frechet distance is far above "
            "that of more images, and its interval is wider than need be"
            + (
                f", and with {d:,} or fewer the libraries' rounding is part of its value, about "
                "1e-5 of it"
                if len(images) <= d and {"fid", "sfid"} & set(protocol.metrics)
                else ""
            )
        )
    return sentences
