"""CLIP score: 100 cos(image, text), not clamped, without a prefix, as in SANA's toolkit."""

from __future__ import annotations

import numpy as np

from hdbench.metrics.base import Estimate, Metric, MetricInput, mean


def clip_score(images: np.ndarray, texts: np.ndarray) -> Estimate:
    """Mean of 100 cos of image features (N, d) and their own prompts' (N, d), any float."""
    a, b = (
        x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
        for x in (images, texts)
    )
    return mean(100 * (a * b).sum(1))


class ClipScore(Metric, group="protocol"):
    """`clip_score` of images and the prompts that they were made from."""

    name = "clip_score"
    title = "CLIP score"
    better = "higher"
    low = -100.0
    high = 100.0
    reads = ("clip.image", "clip.text")

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        return {} if sample.clip is None else {self.name: clip_score(*sample.clip)}
