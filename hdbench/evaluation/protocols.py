"""Protocols: what exactly a number means, from images to metrics and their settings.

Two numbers are comparable when protocol, reference digest and N are the same; a table never mixes
them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch

from hdbench.core.config import Config, nearest
from hdbench.core.errors import UserError
from hdbench.evaluation.extractors import EXTRACTORS, Layout
from hdbench.metrics import MAIN, METRICS, Metric, Settings
from hdbench.metrics.fdr import VALIDATION

CLIP_SCORE = (
    "CLIP score by OpenAI's ViT-L/14 (quickgelu), 100 cos, neither clamped nor with a prefix"
)
# extractors; the first is the main one of protocols that have these
FDR6 = tuple(view.partition(".")[0] for view in VALIDATION)


class Protocol(Config):
    """One protocol; `about` is printed with its numbers, and changed fields are named."""

    name: str
    about: str
    metrics: tuple[str, ...]  # in the order of results; families by their pattern
    quality: tuple[str, ...]  # those of them that a table of results shows
    distance: str | None  # the one by which arms are compared; None: not a protocol of suites
    n: int | None = None  # images that the protocol asks for; None: any number
    extractors: tuple[str, ...] = ()  # the first is the main one
    resolution: int | None = None  # side to which pytorch_fid resizes (shorter side) and crops
    image_size: int | None = None  # side that images should have; others are reported
    neighbours: int = 3
    score_splits: Literal["shuffled_10", "consecutive_5000"] = "shuffled_10"
    kid_subsets: int = 100
    kid_subset_size: int = 1000

    def classes(self) -> list[type[Metric]]:
        """The metrics' classes."""
        return [METRICS[name] for name in self.metrics]

    @property
    def categories(self) -> bool:
        """Whether it needs a category for each sample and each image of the reference."""
        return "fid_{category}" in self.metrics

    def sources(self, metric: type[Metric]) -> list[tuple[str, str]]:
        """Extractor and layer of the features that one of the metrics reads, in its order."""
        return [self.source(feature) for feature in metric.reads if self.extractors]

    def source(self, feature: str) -> tuple[str, str]:
        """Extractor and layer that MAIN, or "NAME.LAYER" of an extractor or a network, stands for.

        Of a network it is the first extractor; KeyError where the protocol has none.
        """
        if feature == MAIN:
            return self.extractors[0], next(iter(EXTRACTORS[self.extractors[0]].dimensions))
        name, layer = feature.rsplit(".", 1)
        of_network = [x for x in self.extractors if EXTRACTORS[x].network == name]
        for extractor in (*(x for x in self.extractors if x == name), *of_network):
            if layer in EXTRACTORS[extractor].dimensions:
                return extractor, layer
        raise KeyError(f"{self.name}: no extractor of {feature}")

    def layers(self, extractor: str) -> tuple[str, ...]:
        """Layers of one of the extractors that the metrics need."""
        return self._read(extractor, self.classes())

    def reference_layers(self, extractor: str, kind: str | None = None) -> tuple[str, ...]:
        """Layers that its reference must have; with kind "features" not only their statistics."""
        metrics = [x for x in self.classes() if x.needs and kind in (None, x.needs)]
        return self._read(extractor, metrics)

    def _read(self, extractor: str, metrics: list[type[Metric]]) -> tuple[str, ...]:
        read = {source for metric in metrics for source in self.sources(metric)}
        dimensions = EXTRACTORS[extractor].dimensions
        return tuple(layer for layer in dimensions if (extractor, layer) in read)

    @property
    def compared(self) -> tuple[str, ...]:
        """Extractors that real images pass too."""
        return tuple(name for name in self.extractors if self.reference_layers(name))

    @property
    def networks(self) -> tuple[str, ...]:
        """Roles of the networks that it measures with, each once: "inception", "clip"."""
        return tuple(dict.fromkeys(EXTRACTORS[name].network for name in self.extractors))

    @property
    def prompts(self) -> bool:
        """Whether it needs a prompt for each sample."""
        return any("text" in self.layers(name) for name in self.extractors)

    @property
    def any_sizes(self) -> bool:
        """Whether its preprocessing brings images of different sizes to one."""
        return self.resolution is not None or all(EXTRACTORS[x].crops for x in self.extractors)

    @property
    def paired(self) -> bool:
        """Whether it compares each image with one of the same name."""
        return any(metric.paired for metric in self.classes())

    @property
    def needs_reference(self) -> bool:
        """Whether any metric compares with real images."""
        return any(metric.needs for metric in self.classes())

    def further(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of the named metrics that are not the protocol's own: an artifact for each.

        Raises UserError for a name of no metric, and for a metric that other protocols have.
        """
        others = tuple(name for name in dict.fromkeys(names) if name not in self.metrics)
        for name in others:
            if name not in METRICS.load():
                raise UserError(
                    f"evaluation.metrics = {name!r}: no such metric" + nearest(name, METRICS)
                )
            if METRICS[name].group == "protocol":
                raise UserError(
                    f"evaluation.metrics = {name!r}: not a metric of the protocol {self.name}; "
                    "remove it, or name another evaluation.protocol"
                )
        return others

    def settings(self, device: torch.device, intervals: bool = True) -> Settings:
        """The settings of its metrics."""
        return Settings(
            neighbours=self.neighbours,
            kid_subsets=self.kid_subsets,
            kid_subset_size=self.kid_subset_size,
            score_splits=self.score_splits,
            intervals=intervals,
            device=device,
        )


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="adm_imagenet256_50k",
            n=50_000,
            extractors=("inception_tensorflow",),
            image_size=256,
            score_splits="consecutive_5000",
            metrics=("fid", "sfid", "inception_score", "precision", "recall"),
            quality=("fid", "sfid", "inception_score", "precision", "recall"),
            distance="fid",
            about="ImageNet 256x256, class-conditional: 50,000 samples against ADM's "
            "VIRTUAL_imagenet256_labeled.npz (its statistics for FID and sFID, its 10,000 images "
            "for precision and recall only, k = 3), by torch-fidelity's Inception; inception score "
            "in the order of ids, 5,000 a part, as ADM's evaluator",
        ),
        Protocol(
            name="torch_fidelity",
            extractors=("inception_tensorflow",),
            metrics=(
                *("fid", "kid", "inception_score", "precision", "recall"),
                *("density", "coverage"),
            ),
            quality=("fid", "kid", "inception_score", "precision", "recall"),
            distance="fid",
            about="torch-fidelity's defaults, with Inception for precision, recall, density and "
            "coverage too",
        ),
        Protocol(
            name="clean_fid",
            extractors=("inception_clean",),
            metrics=("fid",),
            quality=("fid",),
            distance="fid",
            about="clean-fid, mode clean: Pillow's bicubic resizing in float, then Inception",
        ),
        Protocol(
            name="fd_dinov2",
            extractors=("dinov2",),
            metrics=("fd_dinov2",),
            quality=("fd_dinov2",),
            distance="fd_dinov2",
            about="FD-DINOv2 as dgm-eval has it (arXiv 2306.04675): Frechet distance on the class "
            "token of DINOv2 ViT-L/14, images resized by Pillow's bicubic to 224 x 224",
        ),
        Protocol(
            name="fdr6",
            n=50_000,
            extractors=FDR6,
            image_size=256,
            metrics=("fdr6", "fdr3", "fdr_{encoder}"),
            quality=("fdr6", "fdr3"),
            distance="fdr3",
            about="FDr6 and FDr3 (arXiv 2604.28190): Frechet distances of six encoders to the "
            "training images of ImageNet 256x256, each over that of the 50,000 validation images, "
            "in float32; FDr3 without the encoders that FD-Loss trains on",
        ),
        Protocol(
            name="mind",
            extractors=("inception_tensorflow",),
            metrics=("mind",),
            quality=("mind",),
            distance="mind",
            about="MIND (arXiv 2605.06797) as torch-fidelity has it: 1,000 projections of "
            "Inception's features, times 3 d",
        ),
        Protocol(
            name="cmmd",
            extractors=("clip_cmmd",),
            metrics=("cmmd",),
            quality=("cmmd",),
            distance="cmmd",
            about="CMMD (arXiv 2401.09603): Gaussian kernel of width 10 on unit vectors of CLIP "
            "ViT-L/14 at 336 pixels, times 1,000",
        ),
        Protocol(
            name="imagenet256_wide",
            n=50_000,
            extractors=(*FDR6, "dinov2", "clip_cmmd"),
            image_size=256,
            score_splits="consecutive_5000",
            metrics=(
                *("fid", "sfid", "inception_score", "precision", "recall"),
                *("mind", "fd_dinov2", "cmmd", "fdr6", "fdr3", "fdr_{encoder}"),
            ),
            quality=("fid", "fd_dinov2", "cmmd", "fdr6", "fdr3", "precision", "recall"),
            distance="fid",
            about="ImageNet 256x256, 50,000 samples: the metrics of adm_imagenet256_50k, mind, "
            "fd_dinov2, cmmd and fdr6 in one pass",
        ),
        Protocol(
            name="mjhq30k",
            n=30_000,
            extractors=("inception_pytorch_fid", "clip"),
            resolution=512,
            metrics=("fid", "fid_{category}", "clip_score"),
            quality=("fid", "clip_score"),
            distance="fid",
            about="MJHQ-30K as SANA's toolkit has it: shorter side to `resolution`, centre crop, "
            f"pytorch-fid; {CLIP_SCORE}",
        ),
        Protocol(
            name="clip_score",
            extractors=("clip",),
            metrics=("clip_score",),
            quality=("clip_score",),
            distance=None,
            about=CLIP_SCORE,
        ),
        Protocol(
            name="pickscore",
            extractors=("pickscore",),
            metrics=("pickscore",),
            quality=("pickscore",),
            distance=None,
            about="PickScore v1 by transformers' CLIP ViT-H/14: exp(logit scale) cos, float32",
        ),
        Protocol(
            name="hpsv2",
            extractors=("hpsv2",),
            metrics=("hpsv2",),
            quality=("hpsv2",),
            distance=None,
            about="HPS v2.1 by open_clip's ViT-H-14: 100 cos, float32; the longer side is resized, "
            "the rest padded",
        ),
        Protocol(
            name="fidelity",
            extractors=("lpips",),
            metrics=("teacher_lpips", "teacher_mse"),
            quality=("teacher_lpips", "teacher_mse"),
            distance=None,
            about="trajectory fidelity: each sample against the reference's image of its name, the "
            "teacher's of the same noise and condition; LPIPS 0.1 by AlexNet, and the mean squared "
            "error of pixels in [0, 1]",
        ),
        Protocol(
            name="classifier",
            metrics=(
                "fd_train",
                "fd_test",
                "precision",
                "recall",
                "density",
                "coverage",
                "accuracy",
                "classifier_score",
                "power_band{n}",
                "clip_score",
                "fd_test_{category}",
                "accuracy_seen",
                "accuracy_held_out",
            ),
            quality=("fd_train", "fd_test", "precision", "recall"),
            distance="fd_test",
            about="the small suites': Frechet distances, precision, recall, density, coverage on "
            "the features of the suite's own classifier, never called FID; accuracy, classifier "
            "score and spectrum",
        ),
    )
}
SUITE_PROTOCOLS = tuple(name for name, protocol in PROTOCOLS.items() if protocol.distance)
BESIDE = {  # metric -> protocol, of those that a suite may measure beside its own
    metric: name
    for name, protocol in PROTOCOLS.items()
    if not protocol.distance
    for metric in protocol.metrics
}


def protocol_named(name: str) -> Protocol:
    """The protocol, or UserError with the nearest name."""
    if name not in PROTOCOLS:
        raise UserError(f"--protocol = {name!r}: unknown protocol" + nearest(name, PROTOCOLS))
    return PROTOCOLS[name]


def label(
    protocol: Protocol,
    weights: dict[str, str],
    reference: str,
    layout: Layout = "library",
    converted: bool = False,
) -> str:
    """The protocol column: name, deviations from the named protocol, the reference's digest.

    `weights` holds the digests of those weights that are not the public ones; `converted` says that
    some samples were not RGB of 8 bits.
    """
    named = PROTOCOLS[protocol.name]
    changed = [
        f"{field}={getattr(protocol, field)}"
        for field in Protocol.model_fields
        if field not in ("n", "metrics", "quality", "distance")
        and getattr(protocol, field) != getattr(named, field)
    ]
    concerned = any(EXTRACTORS[name].layout for name in protocol.extractors)
    changed += [f"layout={layout}"] if concerned and layout != "library" else []
    changed += ["images=converted"] if converted else []
    changed += [f"{role}={digest[:12]}" for role, digest in sorted(weights.items())]
    return ":".join(
        [protocol.name + "".join(f"[{text}]" for text in changed), reference[:16] or "-"]
    )
