"""Improved precision and recall (Kynkaanniemi et al., arXiv 1904.06991): balls to the k-th neighbour in feature space.

Precision is the share of samples in the reference's manifold: given the reference, a mean of independent samples.  Recall
is the share of the reference in the samples' manifold: what is random there is the manifold, which a binomial error over
the reference leaves out.  `estimates` measures that part by manifolds of disjoint groups of the samples.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hdbench.metrics import Estimate, mean

BLOCK = 10_000  # rows and columns of a block of distances; torch-fidelity's, so that float32 rounds as it does there
GROUPS, PARTITIONS = 2, 12  # halves, since smaller groups see less of the tails and understate the variance
# The variance between manifolds is itself known from few halves, as if from 16 degrees of freedom: (t(16) / 1.96)^2.
INFLATION = (2.120 / 1.960) ** 2


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


def estimates(features: Tensor, reference: Tensor, neighbours: int) -> tuple[Estimate, Estimate]:
    """Precision and recall of features (N, d) against reference (M, d), both with influences of the N samples.

    Distances are taken in the features' own dtype: in float32 the values are bit-identical with torch-fidelity's.
    Standard errors are over the samples given the reference, NaN for recall of fewer than GROUPS (k + 2) samples; `both`
    counts the reference as a draw too.
    """
    n, m, device = len(features), len(reference), features.device
    radius, reference_radius = _radii(features, neighbours), _radii(reference, neighbours)
    in_reference = torch.zeros(n, dtype=torch.bool, device=device)
    alone, in_samples = torch.zeros(n, dtype=torch.float64, device=device), []
    for rows, limit in zip(reference.split(BLOCK), reference_radius.split(BLOCK)):
        cross = _distances(rows, features)
        in_reference |= (cross <= limit[:, None]).any(0)
        inside = cross <= radius
        count = inside.sum(1)
        in_samples.append(count > 0)
        alone += inside[count == 1].sum(0)  # what a sample's ball covers alone: what the value would lose without it
    precision, recall = mean(in_reference.cpu().numpy()), mean(torch.cat(in_samples).cpu().numpy())
    if min(n, m) < GROUPS * (neighbours + 2):
        return precision, Estimate(recall.value, np.full(n, np.nan))
    samples_within, samples_between = _manifold_variance(reference, features, neighbours)
    _, reference_between = _manifold_variance(features, reference, neighbours)
    influence = ((alone - alone.mean()) * n / m).cpu().numpy()
    return (precision._replace(both=(precision.standard_error**2 + reference_between) ** 0.5),
            Estimate(recall.value, influence, (recall.standard_error**2 + samples_between) ** 0.5
                     ).with_standard_error((samples_within + samples_between) ** 0.5))


def _distances(points: Tensor, centres: Tensor) -> Tensor:
    return torch.cat([torch.cdist(points, part) for part in centres.split(BLOCK)], dim=1)


def _radii(features: Tensor, neighbours: int) -> Tensor:
    return torch.cat([_distances(part, features).kthvalue(neighbours + 1).values for part in features.split(BLOCK)])


def _manifold_variance(points: Tensor, centres: Tensor, neighbours: int) -> tuple[float, float]:
    """Variance of the share of points (P, d) inside the manifold of random centres (C, d): within and between points.

    The share is a mean of indicators, so its variance given the points is the mean of their own variances over P (within)
    plus their mean covariance (between).  Both are measured over the manifolds of disjoint groups of the centres.  Whether
    a point is covered depends on the centres nearby only, and balls to the k-th neighbour scale with their density: so
    `within` is the same at any number of centres, and `between` falls with it.  The mean of several random partitions.
    """
    generator, within, between = torch.Generator().manual_seed(0), [], []
    for _ in range(PARTITIONS):
        order = torch.randperm(len(centres), generator=generator).to(centres.device)
        inside = torch.stack([_any_inside(points, group, _radii(group, neighbours))
                              for group in (centres[rows] for rows in order.tensor_split(GROUPS))]).double()
        within.append(inside.var(0).mean().item() / len(points))
        between.append((inside.mean(1).var().item() - within[-1]) / GROUPS)
    return float(np.mean(within)), INFLATION * max(float(np.mean(between)), 0.0)


def _any_inside(points: Tensor, centres: Tensor, radius: Tensor) -> Tensor:
    return torch.cat([(_distances(part, centres) <= radius).any(1) for part in points.split(BLOCK)])
