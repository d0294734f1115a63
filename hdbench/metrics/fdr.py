"""FDr: Frechet distances of six encoders, each divided by that of ImageNet's validation images.

FDr6 = mean_k FD_k(samples, train) / FD_k(validation, train), 1 for real images (arXiv 2604.28190).
FDr3 leaves out Inception, MAE and SigLIP 2, on which FD-Loss, AdvFD, AMFD and MGFlow train.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hdbench.metrics.base import Estimate, Metric, MetricInput
from hdbench.metrics.frechet import of_view

# FD of 50,000 validation images of 256 pixels to all of train, by view: the paper's released script
VALIDATION = {
    "inception_tensorflow.2048": 1.68,
    "fdr_convnextv2.token": 56.87,
    "fdr_dinov2.token": 14.19,
    "fdr_mae.token": 0.04,
    "fdr_siglip2.token": 0.60,
    "fdr_clip.token": 5.60,
}
HELD_OUT = ("fdr_convnextv2.token", "fdr_dinov2.token", "fdr_clip.token")


def ratios(sample: MetricInput) -> dict[str, Estimate]:
    """FD_k over that of the validation images, by view."""
    return {
        view: sample.once(of_view, view).scaled(1 / distance)
        for view, distance in VALIDATION.items()
    }


def average(estimates: Sequence[Estimate]) -> Estimate:
    """Mean of estimates of the same samples, which are correlated: influences are averaged too."""
    value = float(np.mean([estimate.value for estimate in estimates]))
    return Estimate(value, np.mean([estimate.influence for estimate in estimates], axis=0))


class Fdr6(Metric, group="protocol"):
    """Mean of the six ratios."""

    name = "fdr6"
    title = "FDr6"
    better = "lower"
    counted = True
    reads = tuple(VALIDATION)
    needs = "statistics"

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        of_views = sample.once(ratios)
        return {self.name: average([of_views[view] for view in self.reads])}


class Fdr3(Fdr6, group="protocol"):
    """Mean of the ratios of the encoders that no method of the FD-Loss family trains on."""

    name = "fdr3"
    title = "FDr3"
    reads = HELD_OUT


class FdrOfEncoder(Metric, group="protocol"):
    """The ratio of each encoder, so that any subset of them can be averaged."""

    name = "fdr_{encoder}"
    title = "FDr, {encoder}"
    better = "lower"
    reads = tuple(VALIDATION)
    needs = "statistics"

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        return {
            f"fdr_{view.partition('.')[0].removeprefix('fdr_').partition('_')[0]}": estimate
            for view, estimate in sample.once(ratios).items()
        }
