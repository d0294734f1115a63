"""Trajectory fidelity: samples against the teacher's of the same noises and labels, pair by pair.

The teacher's own flow map has distance 0; an independent draw of the teacher has twice the variance
of its samples.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from hdbench.metrics.base import MAIN, Estimate, Metric, MetricInput, mean


def mean_squared_error(images: Tensor, teacher: Tensor) -> Estimate:
    """Mean over pairs, pixels and channels of (a - b)^2; images (N, C, H, W) uint8 in [0, 1]."""
    squares = [
        ((a.double() - b.double()) / 255).square().flatten(1).mean(1)
        for a, b in zip(images.split(500), teacher.split(500), strict=True)
    ]
    return mean(np.concatenate([batch.numpy() for batch in squares]))


def feature_distance(features: np.ndarray, teacher: np.ndarray) -> Estimate:
    """Mean over pairs of |f - g|^2 of features (N, d), any float, summed over dimensions.

    The pairs are one coupling of the two sets, so it bounds their Frechet distance from above.
    """
    return mean(((features.astype(np.float64) - teacher) ** 2).sum(1))


class TeacherMse(Metric, group="fidelity"):
    """`mean_squared_error` to the teacher's samples."""

    name = "teacher_mse"
    title = "MSE to teacher"
    better = "lower"
    low = 0.0
    high = 1.0
    paired = True
    reads = ("lpips.pixels",)

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        if view := sample.views.get(self.reads[0]):
            return {self.name: mean(view.features[:, 0])}
        if sample.teacher is None:
            return {}
        return {self.name: mean_squared_error(sample.images, sample.teacher[0])}


class TeacherLpips(Metric, group="protocol"):
    """Mean LPIPS (AlexNet, version 0.1) of a sample and the teacher's, at their own size."""

    name = "teacher_lpips"
    title = "LPIPS to teacher"
    better = "lower"
    low = 0.0
    paired = True
    reads = ("lpips.alexnet",)

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        view = sample.views.get(self.reads[0])
        return {} if view is None else {self.name: mean(view.features[:, 0])}


class TeacherFeatures(Metric, group="fidelity"):
    """`feature_distance` to the teacher's samples, in the units of the Frechet distance."""

    name = "teacher_features"
    title = "Feature distance to teacher"
    better = "lower"
    low = 0.0
    reads = (MAIN,)
    paired = True

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        if sample.teacher is None:
            return {}
        return {self.name: feature_distance(sample.features, sample.teacher[1])}
