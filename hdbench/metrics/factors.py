"""Planted factors against the laws that the data set says: who loses structure, who detail?

An image has K values of a factor (K places); a sample's influence is the mean of its places'.
"""

from __future__ import annotations

import numpy as np

from hdbench.datasets.factors import Factor
from hdbench.metrics.base import Estimate, Metric, MetricInput, Share, mean


def accuracy(values: np.ndarray, labels: np.ndarray) -> Estimate:
    """Share of the places whose value (N, K) is the label (N,)."""
    return mean((values == labels[:, None]).mean(1))


def coverage(values: np.ndarray, law: tuple[float, ...]) -> Estimate:
    """exp(-KL(p, law)), p the frequencies of values (N, K) int64; 1 only where they are the law's.

    Under a uniform law of V values exp(entropy of p) / V: the share of the values that is used.
    IF_i = -coverage (mean_k log(p / law)(value_ik) - KL).  Where p is the law the influence is 0
    and what is left is of second order: the mean is 1 - (V - 1) / 2 N K, and the standard error
    is sqrt(2) times too large.
    """
    frequency = np.bincount(values.ravel(), minlength=len(law)) / values.size
    seen = frequency > 0
    surprise = np.zeros(len(law))
    surprise[seen] = np.log(frequency[seen] / np.asarray(law)[seen])
    divergence = mean(surprise[values].mean(1))
    value = min(1.0, float(np.exp(-divergence.value)))  # rounding
    return Estimate(value, -value * divergence.influence)


def distance(values: np.ndarray, amount: float) -> Estimate:
    """Wasserstein-2 distance of values (N, K) to what all should be: root mean square / amount."""
    square = mean(np.square(values / amount - 1).mean(1))
    root = square.value**0.5
    return Estimate(root, square.influence / (2 * root) if root else square.influence)


def values_of(sample: MetricInput) -> list[tuple[Factor, np.ndarray]]:
    """The data set's factors with their values (N, K) in the sample."""
    if sample.data is None or sample.images is None:
        return []
    values = sample.data.read_factors(sample.images)
    return [(factor, values[factor.name]) for factor in sample.data.factors()]


class FactorAccuracy(Share, group="factors"):
    """`accuracy` of each factor that labels say."""

    name = "factor_accuracy_{factor}"
    title = "Accuracy of {factor}"

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        if sample.wanted is None:
            return {}
        wanted = sample.wanted.reshape(len(sample.wanted), -1)
        return {
            f"factor_accuracy_{factor.name}": accuracy(values, wanted[:, factor.attribute])
            for factor, values in sample.once(values_of)
            if factor.attribute is not None
        }


class FactorCoverage(Share, group="factors"):
    """`coverage` of each factor that has a law."""

    name = "factor_coverage_{factor}"
    title = "Coverage of {factor}"

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        return {
            f"factor_coverage_{factor.name}": coverage(values, factor.law)
            for factor, values in sample.once(values_of)
            if factor.law
        }


class FactorMean(Metric, group="factors"):
    """Mean of each factor without a law over the amount that is planted; 1 is right."""

    name = "factor_mean_{factor}"
    title = "Mean {factor}"
    low = 0.0

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        return {
            f"factor_mean_{factor.name}": mean(values.mean(1) / factor.amount)
            for factor, values in sample.once(values_of)
            if not factor.law
        }


class FactorDistance(Metric, group="factors"):
    """`distance` of each factor without a law."""

    name = "factor_distance_{factor}"
    title = "Distance of {factor}"
    better = "lower"
    low = 0.0

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        return {
            f"factor_distance_{factor.name}": distance(values, factor.amount)
            for factor, values in sample.once(values_of)
            if not factor.law
        }
