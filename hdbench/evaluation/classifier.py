"""The `classifier` protocol of the small suites: features of the suite's own classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from hdbench.core.pixels import to_float
from hdbench.datasets.base import Dataset
from hdbench.evaluation.protocols import PROTOCOLS
from hdbench.metrics import (
    INDEPENDENT,
    Design,
    Estimate,
    MetricInput,
    Settings,
    measure_metrics,
    spectrum,
)


def reference_arrays(
    sets: Mapping[str, tuple[Tensor, np.ndarray]], bands: int
) -> dict[str, np.ndarray]:
    """Arrays of reference.npz from images (N, C, H, W) uint8 and features (N, d) of each set."""
    arrays = {}
    for name, (images, features) in sets.items():
        rings = spectrum.radial_power(to_float(images))
        arrays |= {
            f"{name}_features": features,
            f"{name}_bands": spectrum.band_power(rings, bands),
            f"{name}_rings": rings.mean(0),
        }
    return arrays


def metric_input(
    images: Tensor,
    wanted: np.ndarray,
    features: np.ndarray,
    probabilities: np.ndarray,
    real: Mapping[str, np.ndarray],
    *,
    neighbours: int,
    real_split: str | None = None,
    attributes: tuple[int, ...] = (),
    captions: Sequence[Mapping[str, Any]] = (),
    real_captions: Sequence[Mapping[str, Any]] = (),
    clip: tuple[np.ndarray, np.ndarray] | None = None,
    teacher: tuple[Tensor, np.ndarray] | None = None,
    design: Design = INDEPENDENT,
    data: Dataset | None = None,
    network: Callable[[Tensor], tuple[np.ndarray, np.ndarray]] | None = None,
) -> MetricInput:
    """What the metrics of the protocol, and those of other packages, may use of N samples.

    `images` (N, C, H, W) uint8, `wanted` classes (N,) or (N, A) int64, `features` (N, d) and
    `probabilities` (N, classes) of the classifier, `real` what `reference_arrays` made.
    `real_split` names the real set that the images are, if any; `design` says how they were drawn.
    `clip` are CLIP's features (N, d) of the images and of their captions, `teacher` the images and
    features of the teacher's samples from the same noises.  `network` is the classifier: float
    images to features, probabilities.
    """
    return MetricInput(
        features=features.astype(np.float64),
        reference=real["train_features"].astype(np.float64),
        images=images,
        wanted=wanted,
        probabilities=probabilities,
        attributes=attributes,
        real=real,
        real_split=real_split,
        captions=captions,
        real_captions=real_captions,
        clip=clip,
        teacher=teacher,
        data=data,
        network=network,
        settings=Settings(neighbours=neighbours),
        design=design,
    )


def estimates(sample: MetricInput) -> dict[str, Estimate]:
    """Every metric of the protocol that has a meaning for the sample, in the protocol's order."""
    return measure_metrics(PROTOCOLS["classifier"].metrics, sample)
