"""Inception score (arXiv 1606.03498): exp(mean_i KL(p_i || mean p)), a mean over splits."""

from __future__ import annotations

import numpy as np

from hdbench.metrics.base import Estimate, Metric, MetricInput, Settings


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Rows of logits (N, classes) as log probabilities, float64."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def shuffled_splits(n: int, splits: int = 10, seed: int = 2020) -> list[np.ndarray]:
    """torch-fidelity's default: rows in a seeded permutation's order, in nearly equal parts."""
    order = np.random.RandomState(seed).permutation(n)
    return [order[i * n // splits : (i + 1) * n // splits] for i in range(splits)]


def consecutive_splits(n: int, size: int = 5000) -> list[np.ndarray]:
    """The ADM evaluator's: rows in order, cut into parts of this size, the last one shorter."""
    return [np.arange(start, min(start + size, n)) for start in range(0, n, size)]


def inception_score(logits: np.ndarray, splits: list[np.ndarray]) -> Estimate:
    """Of logits (N, classes), any float, over parts that together are every row once.

    The marginal's own sampling error is of second order, since sum_i p_i / mean p is constant in a
    part, so a sample of part s of size n_s has IF_i = N / (parts n_s) score_s (KL_i - mean KL).
    """
    log_p = log_softmax(logits)
    influence = np.empty(len(logits))
    scores = []
    for rows in splits:
        log_q = log_p[rows]
        p = np.exp(log_q)
        kl = (p * (log_q - np.log(p.mean(0)))).sum(1)
        scores.append(np.exp(kl.mean()))
        influence[rows] = len(logits) / (len(splits) * len(rows)) * scores[-1] * (kl - kl.mean())
    return Estimate(float(np.mean(scores)), influence)


class InceptionScore(Metric, group="protocol"):
    """`inception_score` over the parts that the protocol has."""

    name = "inception_score"
    title = "IS"
    better = "higher"
    low = 0.0
    reads = ("inception.2048",)

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        n = len(sample.logits)
        shuffled = sample.settings.score_splits == "shuffled_10"
        splits = shuffled_splits(n) if shuffled else consecutive_splits(n)
        return {self.name: inception_score(sample.logits, splits)}

    @classmethod
    def least(cls, settings: Settings) -> tuple[int, str]:
        if settings.score_splits == "shuffled_10":
            return 10, "the 10 parts of the inception score"
        return super().least(settings)
