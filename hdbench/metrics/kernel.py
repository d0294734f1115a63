"""Kernel distances: KID (arXiv 1801.01401) and CMMD (arXiv 2401.09603), by MMD^2.

KID is unbiased, k(x, y) = (x.y / d + 1)^3; CMMD is a thousand times the biased one,
k(x, y) = exp(-|x - y|^2 / (2 10^2)), of unit vectors of CLIP.

MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)
This is a U-statistic, every pair once.  Its jackknife over the samples needs row sums only; the
share of the pairs' own noise that the jackknife counts twice, which matters where samples and
reference are alike, is taken out again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hdbench.metrics.base import MAIN, Estimate, Metric, MetricInput, Settings
from hdbench.metrics.design import INDEPENDENT, Design

CMMD_SIGMA = 10.0
CMMD_SCALE = 1000.0
Kernel = Callable[[Tensor, Tensor], Tensor]


def polynomial(x: Tensor, y: Tensor) -> Tensor:
    """KID's kernel (N, M) float64 of x (N, d) and y (M, d)."""
    return (x.double() @ y.double().T / x.shape[1] + 1) ** 3


def gaussian(x: Tensor, y: Tensor) -> Tensor:
    """CMMD's kernel (N, M) float64 of x (N, d) and y (M, d); 1 on the diagonal."""
    x = x.double()
    y = y.double()
    squares = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T
    return (squares / (-2 * CMMD_SIGMA**2)).exp()


class Sums(NamedTuple):
    """Row sums (N,) and the sum of squares of a set's kernel with itself, off the diagonal."""

    rows: Tensor
    squares: float


def _within(kernel: Kernel, x: Tensor, block: int) -> Sums:
    rows = []
    squares = 0.0
    for start in range(0, len(x), block):
        k = kernel(x[start : start + block], x)
        k[torch.arange(len(k)), torch.arange(start, start + len(k))] = 0
        rows.append(k.sum(1))
        squares += k.square().sum().item()
    return Sums(torch.cat(rows), squares)


def _between(kernel: Kernel, x: Tensor, y: Tensor, block: int) -> tuple[Tensor, Tensor, float]:
    """Sums of k(x_i, y_j) over j (N,) and over i (M,), and the variance of their interaction."""
    rows = []
    columns = torch.zeros(len(y), dtype=torch.float64, device=x.device)
    squares = 0.0
    for samples in x.split(block):
        k = kernel(samples, y)
        rows.append(k.sum(1))
        columns += k.sum(0)
        squares += k.square().sum().item()
    of_x = torch.cat(rows)
    n = len(x)
    m = len(y)
    interaction = (
        squares
        - of_x.square().sum().item() / m
        - columns.square().sum().item() / n
        + of_x.sum().item() ** 2 / (n * m)
    ) / (n * m)
    return of_x, columns, interaction


def _jackknife(
    within: Sums, between: Tensor, others: int, design: Design
) -> tuple[np.ndarray, float]:
    """Influences (n,) of the set with these sums, given the other, and the value's variance."""
    n = len(within.rows)
    left_out = (within.rows.sum() - 2 * within.rows) / ((n - 1) * (n - 2)) - 2 * (
        between.sum() - between
    ) / ((n - 1) * others)
    influence = ((n - 1) * (left_out.mean() - left_out)).cpu().numpy()
    means = within.rows / (n - 1)
    pairs = (
        within.squares / (n * (n - 1)) - 2 * means.square().mean().item() + means.mean().item() ** 2
    )
    jackknife = design.standard_error(influence) ** 2
    return influence, max(jackknife - 2 * max(pairs, 0.0) / (n * (n - 1)), jackknife / 2)


class Mmd(NamedTuple):
    """The unbiased estimate, and the mean kernel of each set with itself, off the diagonal."""

    estimate: Estimate
    of_samples: float
    of_reference: float


def kid(
    features: Tensor, reference: Tensor, design: Design = INDEPENDENT, block: int = 4096
) -> Estimate:
    """KID of features (N, d) and reference (M, d) over all pairs; N and M are over 2."""
    return mmd(polynomial, features, reference, design, block).estimate


def cmmd(
    features: Tensor, reference: Tensor, design: Design = INDEPENDENT, block: int = 4096
) -> Estimate:
    """CMMD of unit features (N, d) and reference (M, d); N and M are over 2."""
    estimate, of_samples, of_reference = mmd(gaussian, features, reference, design, block)
    # pairs of an image with itself, which the biased estimate counts
    bias = (1 - of_samples) / len(features) + (1 - of_reference) / len(reference)
    return estimate._replace(value=estimate.value + bias).scaled(CMMD_SCALE)


def mmd(kernel: Kernel, features: Tensor, reference: Tensor, design: Design, block: int) -> Mmd:
    """Unbiased MMD^2 of features (N, d) and reference (M, d).

    The standard error is over the samples given the reference; the joint one counts the reference
    as a draw too, of independent rows.
    """
    n = len(features)
    m = len(reference)
    xx = _within(kernel, features, block)
    yy = _within(kernel, reference, block)
    rows, columns, interaction = _between(kernel, features, reference, block)
    of_samples = xx.rows.sum().item() / (n * (n - 1))
    of_reference = yy.rows.sum().item() / (m * (m - 1))
    value = of_samples + of_reference - 2 * rows.sum().item() / (n * m)
    influence, variance = _jackknife(xx, rows, m, design)
    # it counts the pairs' interaction again, which `variance` holds already
    _, of_other = _jackknife(yy, columns, n, INDEPENDENT)
    added = max(of_other - 4 * interaction / (n * m), 0.0)
    estimate = Estimate(value, influence, added**0.5, design=design)
    return Mmd(estimate.with_standard_error(variance**0.5), of_samples, of_reference)


def kid_of_subsets(
    features: Tensor,
    reference: Tensor,
    *,
    subsets: int = 100,
    size: int = 1000,
    seed: int = 2020,
    design: Design = INDEPENDENT,
    error: Estimate | None = None,
) -> Estimate:
    """torch-fidelity's value: the mean of MMD^2 over random subsets of this size and seed.

    Its expectation given the data is `kid`'s value, so its variance is that of `kid` (`error`, if
    it is known already) plus the scatter of the subsets over their number.  float32, as
    torch-fidelity computes it.
    """
    from torch_fidelity.metric_kid import kid_features_to_metric  # optional: torch-fidelity

    library = kid_features_to_metric(
        features.cpu(),
        reference.cpu(),
        kid_subsets=subsets,
        kid_subset_size=size,
        rng_seed=seed,
        verbose=False,
    )
    full = error or kid(features, reference, design)
    scatter = library["kernel_inception_distance_std"] ** 2 / subsets
    drawn = full._replace(value=library["kernel_inception_distance_mean"])
    return drawn.with_standard_error(float(np.hypot(full.standard_error, scatter**0.5)))


class KernelDistance(Metric, group="protocol"):
    """`kid_of_subsets` on Inception's features."""

    name = "kid"
    title = "KID"
    better = "lower"
    reads = (MAIN,)
    needs = "features"

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        subsets, size = sample.settings.kid_subsets, sample.settings.kid_subset_size
        return {
            self.name: kid_of_subsets(
                *sample.tensors(), subsets=subsets, size=size, design=sample.design
            )
        }

    @classmethod
    def least(cls, settings: Settings) -> tuple[int, str]:
        return settings.kid_subset_size, "KID's subsets (--kid-subset-size changes them)"


class Cmmd(Metric, group="protocol"):
    """`cmmd` of CLIP's unit vectors."""

    name = "cmmd"
    title = "CMMD"
    better = "lower"
    counted = True
    reads = ("clip_cmmd.image",)
    needs = "features"

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        return {self.name: cmmd(*sample.tensors(self.reads[0]), design=sample.design)}

    @classmethod
    def least(cls, settings: Settings) -> tuple[int, str]:
        return 3, "an interval"
