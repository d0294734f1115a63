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
from hdbench.metrics import METRICS, Metric, Settings

Preprocessing = Literal["tensorflow", "clean", "pytorch_fid"]
Layout = Literal["library", "channels-last"]
DIMENSIONS = {"2048": 2048, "spatial": 7 * 17 * 17}  # of an image's features, by Inception's layer
CLIP_SCORE = (
    "CLIP score by OpenAI's ViT-L/14 (quickgelu), 100 cos, neither clamped nor with a prefix"
)


class Protocol(Config):
    """One protocol; `about` is printed with its numbers, and changed fields are named."""

    name: str
    about: str
    metrics: tuple[str, ...]  # in the order of results; families by their pattern
    quality: tuple[str, ...]  # those of them that a table of results shows
    distance: str | None  # the one by which arms are compared; None: not a protocol of suites
    n: int | None = None  # images that the protocol asks for; None: any number
    inception: Preprocessing | None = None  # how images reach Inception
    resolution: int | None = None  # side to which pytorch_fid resizes (shorter side) and crops
    image_size: int | None = None  # side that images should have; others are reported
    neighbours: int = 3
    score_splits: Literal["shuffled_10", "consecutive_5000"] = "shuffled_10"
    kid_subsets: int = 100
    kid_subset_size: int = 1000
    prompts: bool = False  # needs a prompt for each sample, and CLIP
    clip_architecture: str = "ViT-L-14-quickgelu"

    def classes(self) -> list[type[Metric]]:
        """The metrics' classes."""
        return [METRICS[name] for name in self.metrics]

    @property
    def categories(self) -> bool:
        """Whether it needs a category for each sample and each image of the reference."""
        return "fid_{category}" in self.metrics

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers of Inception that the metrics need."""
        if self.inception is None:
            return ()
        needed = {metric.layer for metric in self.classes()}
        return tuple(layer for layer in DIMENSIONS if layer in needed)

    @property
    def networks(self) -> tuple[str, ...]:
        """Roles of the networks that it measures with: "inception", "clip"."""
        used = {"inception": self.inception, "clip": self.prompts}
        return tuple(role for role, is_used in used.items() if is_used)

    @property
    def needs_reference(self) -> bool:
        """Whether any metric compares with real images."""
        return any(metric.needs for metric in self.classes())

    @property
    def reference_layers(self) -> tuple[str, ...]:
        """Layers whose features, not only their statistics, the reference must have."""
        return ("2048",) if any(m.needs == "features" for m in self.classes()) else ()

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
            inception="tensorflow",
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
            inception="tensorflow",
            metrics=("fid", "kid", "inception_score", "precision", "recall"),
            quality=("fid", "kid", "inception_score", "precision", "recall"),
            distance="fid",
            about="torch-fidelity's defaults, with Inception for precision and recall too",
        ),
        Protocol(
            name="clean_fid",
            inception="clean",
            metrics=("fid",),
            quality=("fid",),
            distance="fid",
            about="clean-fid, mode clean: Pillow's bicubic resizing in float, then Inception",
        ),
        Protocol(
            name="mjhq30k",
            n=30_000,
            inception="pytorch_fid",
            resolution=512,
            prompts=True,
            metrics=("fid", "fid_{category}", "clip_score"),
            quality=("fid", "clip_score"),
            distance="fid",
            about="MJHQ-30K as SANA's toolkit has it: shorter side to `resolution`, centre crop, "
            f"pytorch-fid; {CLIP_SCORE}",
        ),
        Protocol(
            name="clip_score",
            prompts=True,
            metrics=("clip_score",),
            quality=("clip_score",),
            distance=None,
            about=CLIP_SCORE,
        ),
        Protocol(
            name="classifier",
            metrics=(
                "fd_train",
                "fd_test",
                "precision",
                "recall",
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
            about="the small suites': Frechet distances, precision and recall on the features of "
            "the suite's own classifier, never called FID; accuracy, classifier score and spectrum",
        ),
    )
}
SUITE_PROTOCOLS = tuple(name for name, protocol in PROTOCOLS.items() if protocol.distance)


def protocol_named(name: str) -> Protocol:
    """The protocol, or UserError with the nearest name."""
    if name not in PROTOCOLS:
        raise UserError(f"--protocol = {name!r}: unknown protocol" + nearest(name, PROTOCOLS))
    return PROTOCOLS[name]


def label(
    protocol: Protocol, weights: dict[str, str], reference: str, layout: Layout = "library"
) -> str:
    """The protocol column: name, deviations from the named protocol, the reference's digest.

    `weights` holds the digests of those weights that are not the public ones.
    """
    named = PROTOCOLS[protocol.name]
    changed = [
        f"{field}={getattr(protocol, field)}"
        for field in Protocol.model_fields
        if field not in ("n", "metrics", "quality", "distance")
        and getattr(protocol, field) != getattr(named, field)
    ]
    changed += [f"layout={layout}"] if protocol.inception and layout != "library" else []
    changed += [f"{role}={digest[:12]}" for role, digest in sorted(weights.items())]
    return ":".join(
        [protocol.name + "".join(f"[{text}]" for text in changed), reference[:16] or "-"]
    )
