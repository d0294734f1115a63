"""Frechet distances by their terms, and after the images' gain is set right.

x_g = clip(b + g (x - b))        b: the data set's background, black; not rounded
g*  = argmin_g D(g),             D(g): d^2 of x_g to train, E(g): to test; g in [2/3, 3/2]

With l = log g, by the implicit function theorem and, at the minimum, the envelope theorem
IF[l*] = -IF[D]' / D'',   IF[D(l*)] = IF[D],   IF[E(l*)] = IF[E] + E' IF[l*],
where ' is d/dl at l*, by central differences; l* is the vertex of a parabola through them.
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
LEAST = 100  # samples; the minimum is sought on the first quarter, or on so many
NEWTON = 4  # steps at most from there, on all samples


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
        reference = sample.once(frechet.of_set, split)
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

    @property
    def to_minimum(self) -> float:
        """Newton's step."""
        return -self.slope.value / self.curvature if self.curvature > 0 else math.inf

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
    references = {split: sample.once(frechet.of_set, split) for split in splits(sample)}

    def features(log_gain: float, count: int | None = None) -> np.ndarray:
        shown = with_gain(sample.images[:count], sample.data.background, math.exp(log_gain))
        return sample.network(shown)[0]

    def around(log_gain: float) -> dict[str, Near]:
        seen = [features(log_gain + step) for step in (-STEP, 0, STEP)]
        return {
            split: Near.of(*(frechet.estimate(x, reference) for x in seen))
            for split, reference in references.items()
        }

    few = max(sample.size // 4, min(sample.size, LEAST))
    best = minimize_scalar(
        lambda log_gain: frechet.distance(features(log_gain, few), references["train"]),
        bounds=(-BOUND, BOUND),
        method="bounded",
        options={"xatol": STEP / 4},
    ).x
    near = around(best)
    for _ in range(NEWTON):
        by = near["train"].to_minimum
        if abs(best) == BOUND or not STEP / 2 < abs(by) < BOUND:
            break
        best = min(max(best + by, -BOUND), BOUND)
        near = around(best)
    return at_minimum(best, near)


def at_minimum(best: float, near: dict[str, Near]) -> Calibrated:
    """The gain and the distances at the minimum of that to train, from those near l = `best`.

    On a bound, and where no minimum is near, the influence of the gain is unknown.
    """
    train = near["train"]
    by = train.to_minimum
    if BOUND - abs(best) < STEP or abs(by) > STEP:
        unknown = np.full(len(train.at.influence), np.nan)
        distances = {split: distance.at for split, distance in near.items()}
        return Calibrated(Estimate(math.exp(best), unknown), distances)
    gain = math.exp(best + by)
    gain_influence = -train.slope.influence / train.curvature
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
