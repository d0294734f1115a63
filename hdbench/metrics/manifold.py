"""Improved precision and recall (arXiv 1904.06991), density and coverage (arXiv 2002.09797).

All are of balls to the k-th neighbour of features.  Precision is the share of samples in a ball of
the reference, density their mean number of such balls over k: given the reference, means of
independent samples.  Recall is the share of the reference in a ball of the samples, coverage that
of the reference's balls with a sample in them: what is random there is where samples are, which a
binomial error over the reference leaves out.  It is measured by disjoint subsets of the samples.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hdbench.metrics.base import MAIN, Estimate, MetricInput, Settings, Share, mean
from hdbench.metrics.design import INDEPENDENT, Design

BLOCK = 10_000  # side of a block of distances; torch-fidelity's, so that float32 rounds alike
PARTITIONS = 16  # random ones in halves, and as many in quarters


class Manifold(NamedTuple):
    """What balls to the k-th neighbour say of samples and reference."""

    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate


def manifold_metrics(
    features: Tensor, reference: Tensor, neighbours: int, design: Design = INDEPENDENT
) -> Manifold:
    """All of features (N, d) against reference (M, d); influences (N,).

    Distances are taken in the features' own dtype: in float32 precision and recall are
    bit-identical with torch-fidelity's; density and coverage are of open balls, as prdc's.
    Standard errors are over the samples, drawn by the design, given the reference; those of
    precision and recall are known with a random reference too, except at 0 and 1.  That, and any
    error of recall and coverage, takes 2 (k + 2) rows on either side; without them it is unknown.

    Simulated 95% intervals (k = 3; N, M of 60 to 400; d = 2; independent samples, or with fixed
    labels) of all four cover 93 to 98% where values lie within .3 to .95, and 95 to 100% nearer to
    0 and 1.  Recall's error there is meant to be large rather than small, since its variance then
    comes from samples with large balls and falls more slowly than 1 / N.  Where a few such outliers
    or a rare mode decide it, one of them missing cannot be seen from the samples: recall of .05
    from outliers beside the reference is covered in 70%.  Of rectified features (N, M of 250; d of
    6 and 16) recall of .92 and .96 is covered in 96 and 98%, density of .48, skewed in 16
    dimensions, in 91%.
    """
    n = len(features)
    m = len(reference)
    seen = _compare(features, reference, neighbours, design)
    precision = mean(seen.in_reference.cpu().numpy())._replace(design=design)
    of_reference = mean(seen.in_samples.cpu().numpy())
    unknown = np.full(n, np.nan)
    recall = Estimate(of_reference.value, unknown, design=design)
    density = mean(seen.balls.cpu().numpy() / neighbours)
    coverage = Estimate(seen.covered.double().mean().item(), unknown, design=design)
    if min(n, m) < 2 * (neighbours + 2):
        return Manifold(precision, recall, density, coverage)
    units = len(design.units(n)[1])
    if 0 < precision.value < 1:
        _, between, _ = _effects(seen.in_reference_subsets, m)
        precision = precision._replace(reference_error=(_binomial(precision) * between) ** 0.5)
    within, between, slow = _effects(seen.in_subsets, units)
    recall = _drawn(recall, max(within + between, slow), seen.alone, seen.points)
    if 0 < recall.value < 1:
        # the points' own draw has the binomial variance, of which `within` is there given them
        added = max(of_reference.standard_error**2 - _binomial(recall) * within, 0)
        recall = recall._replace(reference_error=added**0.5)
    within, between, _ = _effects(seen.covered_by_subsets, units)
    coverage = _drawn(coverage, within + between, seen.only, seen.balls)
    return Manifold(precision, recall, density, coverage)


def _binomial(share: Estimate) -> float:
    return share.value * (1 - share.value)


def _drawn(share: Estimate, effect: float, lost: Tensor, touched: Tensor) -> Estimate:
    """A share of variance `effect` v (1 - v), with influences (N,): what is lost without a sample.

    Where no sample alone covers anything it is what the sample covers with others, `touched`.
    """
    moves = (lost if lost.any() else touched).cpu().numpy()
    share = share._replace(influence=moves - moves.mean(), units=1 / effect)
    return share.with_standard_error((effect * _binomial(share)) ** 0.5)


class _Seen(NamedTuple):
    """Which of N samples and M points of the reference are in whose balls."""

    in_reference: Tensor  # (N,) bool: a sample in any of the reference's
    in_reference_subsets: Tensor  # (2 PARTITIONS, 4, N) bool: in any of that subset's
    in_samples: Tensor  # (M,) bool: a point in any of the samples'
    in_subsets: Tensor  # (2 PARTITIONS, 4, M) bool
    points: Tensor  # (N,): how many points are in a sample's ball
    alone: Tensor  # (N,): how many of these are in no other's, so lost without it
    balls: Tensor  # (N,): how many of the reference's balls a sample is in
    only: Tensor  # (N,): in how many of these it is alone
    covered: Tensor  # (M,) bool: a point's ball with a sample in it
    covered_by_subsets: Tensor  # (2 PARTITIONS, 4, M) bool: of that subset of the samples


def _compare(features: Tensor, reference: Tensor, neighbours: int, design: Design) -> _Seen:
    radius, *subsets = _balls(features, neighbours, design)
    reference_radius, *reference_subsets = _balls(reference, neighbours)
    n, device = len(features), features.device
    in_reference, points, alone, balls, only = torch.zeros(5, n, dtype=torch.float64, device=device)
    in_reference_subsets = torch.zeros(2 * PARTITIONS, 4, n, dtype=torch.bool, device=device)
    of_points = []
    of_subsets = []
    for rows in torch.arange(len(reference), device=device).split(BLOCK):
        cross = _distances(reference[rows], features)
        places, radii = (of[:, rows] for of in reference_subsets)
        in_reference += (cross <= reference_radius[rows, None]).sum(0)
        in_reference_subsets |= _inside_subsets(cross.T, places, radii)
        inside = cross <= radius
        count = inside.sum(1)
        points += inside.sum(0)
        alone += inside[count == 1].sum(0)
        ball = cross < reference_radius[rows, None]
        filled = ball.sum(1)
        balls += ball.sum(0)
        only += ball[filled == 1].sum(0)
        of_points.append(torch.stack([count > 0, filled > 0]))
        by_subsets = _inside_subsets(cross, subsets[0], radii, of_points=True)
        of_subsets.append(torch.stack([_inside_subsets(cross, *subsets), by_subsets]))
    in_samples, covered = torch.cat(of_points, dim=1)
    in_subsets, covered_by_subsets = torch.cat(of_subsets, dim=3)
    return _Seen(
        in_reference > 0,
        in_reference_subsets,
        in_samples,
        in_subsets,
        points,
        alone,
        balls,
        only,
        covered,
        covered_by_subsets,
    )


def _distances(points: Tensor, centres: Tensor) -> Tensor:
    return torch.cat([torch.cdist(points, block) for block in centres.split(BLOCK)], dim=1)


def _balls(
    features: Tensor, neighbours: int, design: Design = INDEPENDENT
) -> tuple[Tensor, Tensor, Tensor]:
    """Radius (N,) of each row's ball; its subset, and its radius there, in each partition.

    Both are (2 PARTITIONS, N): halves 0, 1 and then quarters 0, 1, 2, 3.  A subset has its part of
    each stratum of the design, and whole clusters.
    """
    n = len(features)
    k = neighbours + 1  # each row is its own nearest
    nearest = [
        _distances(rows, features).topk(min(n, 16 * k), largest=False)
        for rows in features.split(BLOCK)
    ]
    distance, index = (torch.cat(blocks) for blocks in zip(*nearest, strict=True))
    unit, stratum = map(torch.from_numpy, design.units(n))
    drawn = torch.rand(PARTITIONS, len(stratum), generator=torch.Generator().manual_seed(0))
    by_stratum = stratum * len(stratum) + drawn.argsort(1)
    order = by_stratum.argsort(1).argsort(1)[:, unit].to(features.device)
    subset = torch.cat([order % 2, order % 4])
    place = [
        ((p[index] == p[:, None]).cumsum(1) < k).sum(1).clamp(max=distance.shape[1] - 1)
        for p in subset
    ]
    radius = torch.stack([distance.gather(1, at[:, None])[:, 0] for at in place])
    return distance[:, neighbours], subset, radius


def _inside_subsets(
    cross: Tensor, subset: Tensor, radius: Tensor, of_points: bool = False
) -> Tensor:
    """(2 PARTITIONS, 4, P) bool: is a point in that subset's manifold? `cross` (P, C).

    Balls are the centres', or with `of_points` the points' own, in which a centre is to be.
    """
    largest = radius.amax(0)
    limit = largest[:, None] if of_points else largest
    point, centre = (cross <= limit).nonzero(as_tuple=True)  # few of all pairs
    ball = point if of_points else centre
    near = cross[point, centre]
    inside = torch.zeros(len(subset), 4, len(cross), dtype=torch.bool, device=cross.device)
    for to, p, r in zip(inside, subset, radius, strict=True):
        hit = (near <= r[ball]).nonzero()[:, 0]
        to[p[centre[hit]], point[hit]] = True
    return inside


def _effects(inside: Tensor, units: int) -> tuple[float, float, float]:
    """Variance of the share v of points in the manifold of random centres, over v (1 - v).

    `inside` (2 PARTITIONS, 4, P) bool is what `_inside_subsets` says of P points; in halves the
    last two subsets are empty.  `units` of the centres are independent.

    The share is a mean of indicators, so its variance given the points is the mean of their own
    variances over P (within) plus their mean covariance (between).  Both are measured over the
    manifolds of disjoint subsets of the centres.  Whether a point is covered depends on the centres
    nearby only, and balls to the k-th neighbour scale with their density: so `within` is about the
    same at any number of centres, and `between` falls with it.  What quarters and halves say of
    `within` is continued to all centres; of `between`, which is noisier, the larger is taken.  The
    third is half of what quarters have together: variance that falls as N^-1/2, between the two.

    Each is over v (1 - v) of the subsets that it is of, which varies less than itself where v is
    near 0 or 1: a sample in which all or nothing is covered has an error too.  One unit of all,
    with the variance of independent ones, v (1 - v) / units, is counted in addition.
    """
    effects = []
    for subsets in (inside[:PARTITIONS, :2].double(), inside[PARTITIONS:].double()):
        share = subsets.mean(2)
        scale = (share * (1 - share)).mean().item() + 1 / units
        within = subsets.var(1).mean().item() / subsets.shape[2]
        between = max(share.var(1).mean().item() - within, 0.0) / subsets.shape[1]
        effects.append((within / scale, between / scale, units**-2 / scale))
    (within, between, one), (within_quarter, between_quarter, one_quarter) = effects
    return (
        max(2 * within - within_quarter, 0.0) + one,
        max(between, between_quarter),
        within_quarter / 2 + 2 * between_quarter + one_quarter,
    )


def manifold_of(sample: MetricInput) -> Manifold:
    """`manifold_metrics` of a sample and its reference."""
    return manifold_metrics(*sample.tensors(), sample.settings.neighbours, sample.design)


class OfManifold(Share):
    """One of the four, by its name."""

    reads = (MAIN,)
    needs = "features"

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        return {self.name: getattr(sample.once(manifold_of), self.name)}

    @classmethod
    def least(cls, settings: Settings) -> tuple[int, str]:
        return settings.neighbours + 2, f"{settings.neighbours} neighbours"


class Precision(OfManifold, group="protocol"):
    """Share of the samples that lie in the reference's manifold."""

    name = "precision"
    title = "Precision"


class Recall(OfManifold, group="protocol"):
    """Share of the reference that lies in the samples' manifold."""

    name = "recall"
    title = "Recall"
    version = 3  # in the second, its error was too small where it is near 0 or 1


class Density(OfManifold, group="protocol"):
    """Mean number of the reference's balls that a sample is in, over k; 1 for the reference's law.

    It counts real images nearby, so that outliers with large balls weigh less than in precision.
    """

    name = "density"
    title = "Density"
    high = math.inf


class Coverage(OfManifold, group="protocol"):
    """Share of the reference's balls with a sample in them; 1 - (1 + N / M)^-k for the same law."""

    name = "coverage"
    title = "Coverage"
