"""Frechet distances by their terms, and after the images' gain is set right.

x_g = clip(b + g (x - b))        b: the data set's background, black; not rounded
g*  = argmin_g D(g),             D(g): d^2 of x_g to train, E(g): to test; g in [2/3, 3/2]

With l = log g, by the implicit function theorem and, at the minimum, the envelope theorem
IF[l*] = -IF[D]' / D'',   IF[D(l*)] = IF[D],   IF[E(l*)] = IF[E] + E' IF[l*],
where ' is d/dl at l*, by central differences; a parabola through them says l* exactly.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from torch import Tensor

from hdbench.core.pixels import to_float
from hdbench.metrics import frechet
from hdbench.metrics.base import MAIN, Estimate, Metric, MetricInput

BOUND = math.log(1.5)  # of |l|
STEP = 0.01  # of the central differences


class Calibrated(NamedTuple):
    """The gain g*, and by split the distance of x_g*."""

    gain: Estimate
    distances: dict[str, Estimate]


def with_gain(images: Tensor, background: int, gain: float) -> Tensor:
    """x_g of images (N, C, H, W) uint8, float32 in [-1, 1]."""
    level = background / 127.5 - 1
    return (level + gain * (to_float(images) - level)).clamp(-1, 1)


def splits(sample: MetricInput) -> tuple[str, ...]:
    """The real sets to which a sample has a distance: test has none to itself."""
    return ("train",) if sample.real_split == "test" else ("train", "test")


def terms(sample: MetricInput) -> dict[str, tuple[Estimate, Estimate]]:
    """Mean and covariance term of the distance by split; their sum is the distance."""
    both = {}
    for split in splits(sample):
        reference = frechet.of_set(sample, split)
        whole = frechet.estimate(sample.features, reference)
        mean = frechet.mean_term(sample.features, reference)
        rest = Estimate(whole.value - mean.value, whole.influence - mean.influence)
        both[split] = mean, rest
    return both


class Near(NamedTuple):
    """A distance in l near some l, to second order; of influences to first."""

    at: Estimate
    slope: Estimate
    curvature: float

    @classmethod
    def of(cls, below: Estimate, at: Estimate, above: Estimate) -> Near:
        """From three gains whose l are STEP apart."""
        slope = Estimate(
            (above.value - below.value) / (2 * STEP),
            (above.influence - below.influence) / (2 * STEP),
        )
        return cls(at, slope, (above.value - 2 * at.value + below.value) / STEP**2)

    def moved(self, by: float) -> Estimate:
        """The distance at l + by."""
        value = self.at.value + by * self.slope.value + by**2 / 2 * self.curvature
        return Estimate(value, self.at.influence + by * self.slope.influence)


def calibrated(sample: MetricInput) -> Calibrated | None:
    """None for images that have no background or no classifier.

    A gain on its bound does not move with the samples: distances have no part by it, and its own
    influence, and so its error, is NaN.
    """
    if sample.network is None or sample.data is None or sample.data.background is None:
        return None
    references = {split: frechet.of_set(sample, split) for split in splits(sample)}

    def features(log_gain: float) -> np.ndarray:
        gain = math.exp(log_gain)
        return sample.network(with_gain(sample.images, sample.data.background, gain))[0]

    best = minimize_scalar(
        lambda log_gain: frechet.distance(features(log_gain), references["train"]),
        bounds=(-BOUND, BOUND),
        method="bounded",
        options={"xatol": STEP / 4},
    ).x
    seen = [features(log_gain) for log_gain in (best - STEP, best, best + STEP)]
    near = {
        split: Near.of(*(frechet.estimate(x, reference) for x in seen))
        for split, reference in references.items()
    }
    train = near["train"]
    if BOUND - abs(best) < STEP or train.curvature <= 0:
        unknown = np.full(sample.size, np.nan)
        distances = {split: distance.at for split, distance in near.items()}
        return Calibrated(Estimate(math.exp(best), unknown), distances)
    by = -train.slope.value / train.curvature
    gain_influence = -train.slope.influence / train.curvature
    gain = math.exp(best + by)
    distances = {"train": train.moved(by)}
    if test := near.get("test"):
        value, influence, *_ = test.moved(by)
        slope = test.slope.value + by * test.curvature
        distances["test"] = Estimate(value, influence + slope * gain_influence)
    return Calibrated(Estimate(gain, gain * gain_influence), distances)


class MeanTerm(Metric, group="factors"):
    """Mean term of the Frechet distance to images of train and of test."""

    name = "fd_mean_{split}"
    reads = (MAIN,)
    title = "FD {split}, mean term"
    better = "lower"
    low = 0.0

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        return {f"fd_mean_{split}": mean for split, (mean, _) in sample.once(terms).items()}


class CovarianceTerm(Metric, group="factors"):
    """Covariance term of the Frechet distance to images of train and of test."""

    name = "fd_covariance_{split}"
    reads = (MAIN,)
    title = "FD {split}, covariance term"
    better = "lower"

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        return {f"fd_covariance_{split}": rest for split, (_, rest) in sample.once(terms).items()}


class Gain(Metric, group="factors"):
    """The gain g* that the images need; 1 is right, over 1 they are too dark."""

    name = "gain"
    reads = (MAIN,)
    title = "Gain needed"
    low = 0.0

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        result = sample.once(calibrated)
        return {} if result is None else {self.name: result.gain}


class CalibratedDistance(Metric, group="factors"):
    """Frechet distance of the images at that gain; that to train is what the gain minimises."""

    name = "fd_calibrated_{split}"
    reads = (MAIN,)
    title = "FD {split} at the gain needed"
    better = "lower"
    low = 0.0

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        result = sample.once(calibrated)
        if result is None:
            return {}
        return {f"fd_calibrated_{split}": e for split, e in result.distances.items()}
