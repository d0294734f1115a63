"""Metrics on a classifier's probabilities: accuracy, and the analogue of the Inception score."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from hdbench.metrics.base import MAIN, Estimate, Metric, MetricInput, Share, mean


def accuracy(
    probabilities: np.ndarray, labels: np.ndarray, attributes: tuple[int, ...] = ()
) -> Estimate:
    """Share of samples whose likeliest class is the label; probabilities (N, classes), labels (N,).

    With several `attributes`, numbers of classes whose probabilities are side by side, and labels
    (N, A) the share with all of them right.
    """
    groups = np.split(probabilities, np.cumsum(attributes, dtype=int)[:-1], axis=1)
    likeliest = np.stack([group.argmax(1) for group in groups], axis=1)
    return mean((likeliest == labels.reshape(len(likeliest), -1)).all(1))


def classifier_score(probabilities: np.ndarray) -> Estimate:
    """exp(mean_i KL(p_i || mean p)): the Inception score's formula (arXiv 1606.03498), one split.

    The marginal's own sampling error is of second order, since sum_i p_i / mean p is constant, so
    IF_i = score (KL_i - mean KL).
    """
    p = probabilities.astype(np.float64).clip(min=1e-12)
    kl = (p * (np.log(p) - np.log(p.mean(0)))).sum(1)
    score = float(np.exp(kl.mean()))
    return Estimate(score, score * (kl - kl.mean()))


class Accuracy(Share, group="protocol"):
    """Share of samples that the classifier takes for what they should show."""

    name = "accuracy"
    title = "Accuracy"
    reads = (MAIN,)

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        return {self.name: accuracy(sample.probabilities, sample.wanted, sample.attributes)}


class AccuracySeen(Accuracy, group="protocol"):
    """Accuracy on the captions whose combinations are in the training data."""

    name = "accuracy_seen"
    title = "Accuracy, seen"
    held_out: ClassVar[bool] = False

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        rows, _ = sample.rows_of("held_out", self.held_out)
        if len(rows) < 2:
            return {}
        estimate = accuracy(sample.probabilities[rows], sample.wanted[rows], sample.attributes)
        return {self.name: estimate._replace(rows=rows)}


class AccuracyHeldOut(AccuracySeen, group="protocol"):
    """Accuracy on the captions whose combinations the training data do not have."""

    name = "accuracy_held_out"
    title = "Accuracy, held out"
    held_out: ClassVar[bool] = True


class ClassifierScore(Metric, group="protocol"):
    """`classifier_score` of the first attribute, or of the label."""

    name = "classifier_score"
    title = "Classifier score"
    better = "higher"
    low = 0.0
    reads = (MAIN,)

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        first = sample.attributes[0] if sample.attributes else None
        return {self.name: classifier_score(sample.probabilities[:, :first])}
