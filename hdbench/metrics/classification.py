"""Metrics on a classifier's probabilities: accuracy on the wanted class, and the analogue of the Inception score."""

from __future__ import annotations

import numpy as np

from hdbench.metrics import Estimate, mean


def accuracy(
    probabilities: np.ndarray, labels: np.ndarray, attributes: tuple[int, ...] | None = None
) -> Estimate:
    """Share of samples whose likeliest class is the label; probabilities (N, classes), labels (N,).

    With several `attributes` (numbers of classes, whose probabilities stand side by side) and labels (N, A): of all of them.
    """
    groups = (
        np.split(probabilities, np.cumsum(attributes)[:-1], axis=1)
        if attributes
        else [probabilities]
    )
    found = np.stack([group.argmax(1) for group in groups], axis=1)
    return mean((found == labels.reshape(len(found), -1)).all(1))


def classifier_score(probabilities: np.ndarray) -> Estimate:
    """exp(mean_i KL(p_i || mean p)), the Inception score's formula (arXiv 1606.03498) with our classifier, one split.

    The marginal's own sampling error is of second order, since sum_i p_i / mean p is constant, so
    IF_i = score (KL_i - mean KL).
    """
    p = probabilities.astype(np.float64).clip(min=1e-12)
    kl = (p * (np.log(p) - np.log(p.mean(0)))).sum(1)
    score = float(np.exp(kl.mean()))
    return Estimate(score, score * (kl - kl.mean()))
