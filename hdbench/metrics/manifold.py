"""Improved precision and recall (Kynkaanniemi et al., arXiv 1904.06991): balls to the k-th neighbour in feature space."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hdbench.metrics import Estimate, mean


def radii(features: Tensor, neighbours: int) -> Tensor:
    """Distance (N,) of each row of features (N, d) to its k-th nearest other row."""
    return torch.cdist(features.double(), features.double()).kthvalue(neighbours + 1, dim=1).values


def covered(points: Tensor, centres: Tensor, radius: Tensor) -> np.ndarray:
    """(len(points),) bool: whether a point lies in any ball around centres (M, d) of radius (M,)."""
    return (torch.cdist(points.double(), centres.double()) <= radius).any(1).numpy()


def precision_recall(features: Tensor, reference: Tensor, neighbours: int) -> tuple[Estimate, Estimate]:
    """Share of samples in the reference's manifold, share of the reference in the samples' manifold; (N, d), (M, d).

    Standard errors are binomial: precision over the samples given the reference, recall over the reference given the
    samples, so recall's influence belongs to reference rows.
    """
    precision = covered(features, reference, radii(reference, neighbours))
    recall = covered(reference, features, radii(features, neighbours))
    return mean(precision), mean(recall)
