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
    precision and recall are known with a random reference too.  That, and any error of recall and
    coverage, takes 2 (k + 2) rows on either side; without them it is unknown.
    Simulated 95% intervals (k = 3; N, M of 250 to 1,000; d of 4 to 64) cover 93 to 97.8% where
    values lie within .3 to .95.  Recall of .96 is covered in 87 to 92% where features are rectified
    (d = 6, 16), since its variance then comes from rare samples with large balls and falls more
    slowly than 1 / N.
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
    _, reference_between = _variance(seen.in_reference_subsets)
    within, between = _variance(seen.in_subsets)
    # the points' own draw has the whole binomial variance, of which `within` is there given them
    binomial = of_reference.standard_error**2
    within = min(within, binomial)
    alone, only = (((lost - lost.mean()) * n / m).cpu().numpy() for lost in (seen.alone, seen.only))
    recall = recall._replace(influence=alone, reference_error=(binomial - within) ** 0.5)
    variance = sum(_variance(seen.covered_by_subsets))
    return Manifold(
        precision._replace(reference_error=reference_between**0.5),
        recall.with_standard_error((within + between) ** 0.5),
        density,
        coverage._replace(influence=only).with_standard_error(variance**0.5),
    )


class _Seen(NamedTuple):
    """Which of N samples and M points of the reference are in whose balls."""

    in_reference: Tensor  # (N,) bool: a sample in any of the reference's
    in_reference_subsets: Tensor  # (2 PARTITIONS, 4, N) bool: in any of that subset's
    in_samples: Tensor  # (M,) bool: a point in any of the samples'
    in_subsets: Tensor  # (2 PARTITIONS, 4, M) bool
    alone: Tensor  # (N,): how many points are in a sample's ball alone, so lost without it
    balls: Tensor  # (N,): how many of the reference's balls a sample is in
    only: Tensor  # (N,): in how many of these it is alone
    covered: Tensor  # (M,) bool: a point's ball with a sample in it
    covered_by_subsets: Tensor  # (2 PARTITIONS, 4, M) bool: of that subset of the samples


def _compare(features: Tensor, reference: Tensor, neighbours: int, design: Design) -> _Seen:
    radius, *subsets = _balls(features, neighbours, design)
    reference_radius, *reference_subsets = _balls(reference, neighbours)
    sums = torch.zeros(4, len(features), dtype=torch.float64, device=features.device)
    in_reference, alone, balls, only = sums
    in_reference_subsets = torch.zeros(2 * PARTITIONS, 4, len(features), dtype=torch.bool).to(
        sums.device
    )
    of_points = []
    of_subsets = []
    for rows in torch.arange(len(reference), device=features.device).split(BLOCK):
        cross = _distances(reference[rows], features)
        places, radii = (of[:, rows] for of in reference_subsets)
        in_reference += (cross <= reference_radius[rows, None]).sum(0)
        in_reference_subsets |= _inside_subsets(cross.T, places, radii)
        inside = cross <= radius
        count = inside.sum(1)
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


def _variance(inside: Tensor) -> tuple[float, float]:
    """Variance of the share of points in the manifold of random centres: within, between points.

    `inside` (2 PARTITIONS, 4, P) bool is what `_inside_subsets` says of P points; in halves the
    last two subsets are empty.

    The share is a mean of indicators, so its variance given the points is the mean of their own
    variances over P (within) plus their mean covariance (between).  Both are measured over the
    manifolds of disjoint subsets of the centres.  Whether a point is covered depends on the centres
    nearby only, and balls to the k-th neighbour scale with their density: so `within` is about the
    same at any number of centres, and `between` falls with it.  What quarters and halves say of
    `within` is continued to all centres; of `between`, which is noisier, the larger is taken.
    """
    within = []
    between = []
    for subsets in (inside[:PARTITIONS, :2].double(), inside[PARTITIONS:].double()):
        within.append(subsets.var(1).mean().item() / subsets.shape[2])
        between.append((subsets.mean(2).var(1).mean().item() - within[-1]) / subsets.shape[1])
    return max(2 * within[0] - within[1], 0.0), max(*between, 0.0)


def manifold_of(sample: MetricInput) -> Manifold:
    """`manifold_metrics` of a sample and its reference."""
    return manifold_metrics(*sample.tensors(), sample.settings.neighbours, sample.design)


class Precision(Share, group="protocol"):
    """Share of the samples that lie in the reference's manifold."""

    name = "precision"
    title = "Precision"
    reads = (MAIN,)
    needs = "features"

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        return {self.name: sample.once(manifold_of).precision}

    @classmethod
    def least(cls, settings: Settings) -> tuple[int, str]:
        return settings.neighbours + 2, f"{settings.neighbours} neighbours"


class Recall(Share, group="protocol"):
    """Share of the reference that lies in the samples' manifold."""

    name = "recall"
    title = "Recall"
    version = 2  # in the first, its error was binomial over the reference
    reads = (MAIN,)
    needs = "features"

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        return {self.name: sample.once(manifold_of).recall}

    @classmethod
    def least(cls, settings: Settings) -> tuple[int, str]:
        return Precision.least(settings)


class Density(Share, group="protocol"):
    """Mean number of the reference's balls that a sample is in, over k; 1 for the reference's law.

    It counts real images nearby, so that outliers with large balls weigh less than in precision.
    """

    name = "density"
    title = "Density"
    high = math.inf
    reads = (MAIN,)
    needs = "features"

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        return {self.name: sample.once(manifold_of).density}

    @classmethod
    def least(cls, settings: Settings) -> tuple[int, str]:
        return Precision.least(settings)


class Coverage(Share, group="protocol"):
    """Share of the reference's balls with a sample in them; 1 - (1 + N / M)^-k for the same law."""

    name = "coverage"
    title = "Coverage"
    reads = (MAIN,)
    needs = "features"

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        return {self.name: sample.once(manifold_of).coverage}

    @classmethod
    def least(cls, settings: Settings) -> tuple[int, str]:
        return Precision.least(settings)
