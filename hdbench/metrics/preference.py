"""Scores of preference models: of each image and its own prompt."""

from __future__ import annotations

import numpy as np

from hdbench.metrics.base import Estimate, Metric, MetricInput, mean
from hdbench.metrics.clip_score import clip_score


class PickScore(Metric, group="protocol"):
    """Mean of exp(logit scale) cos, as its authors' example has it; about 20 for good images."""

    name = "pickscore"
    title = "PickScore"
    better = "higher"
    reads = ("pickscore.image", "pickscore.text")

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        images, prompts = (sample.views[name].features.astype(np.float64) for name in self.reads)
        return {self.name: mean((images * prompts).sum(1))}


class HpsV2(Metric, group="protocol"):
    """Mean of 100 cos, as its authors print it."""

    name = "hpsv2"
    title = "HPSv2.1"
    better = "higher"
    low = -100.0
    high = 100.0
    reads = ("hpsv2.image", "hpsv2.text")

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        images, prompts = (sample.views[name].features for name in self.reads)
        return {self.name: clip_score(images, prompts)}
