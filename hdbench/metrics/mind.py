"""MIND, the Monge Inception distance (arXiv 2605.06797): a sliced Wasserstein distance.

MIND = 3 d mean_u W2^2(u'X, u'Y) over random unit vectors u; of one direction W2^2 is the mean of
(x_(j) - y_(j))^2 over sorted projections.  Its influence on X is Kantorovich's potential,
  IF(x) = phi(x) - mean phi,   phi'(x) = 2 (x - T(x)),   T(x_(j)) = y_(j).
"""

from __future__ import annotations

import torch
from torch import Tensor

from hdbench.metrics.base import Estimate, Metric, MetricInput

PROJECTIONS = 1000
SEED = 2020  # torch-fidelity's default
CHUNK = 100  # projections at once


def mind(
    features: Tensor, reference: Tensor, projections: int = PROJECTIONS, seed: int = SEED
) -> Estimate:
    """MIND of features (N, d) and reference (M, d), float32, N and M over 1.

    The larger set is drawn down to the size of the smaller.  Value, draws and their order are
    torch-fidelity's.  The standard error is over the samples given the reference; the joint one
    counts the reference as a draw too.
    """
    generator = torch.Generator().manual_seed(seed)
    n = min(len(features), len(reference))
    rows = None
    if len(features) > n:
        rows = torch.randperm(len(features), generator=generator)[:n]
        features = features[rows]
    if len(reference) > n:
        reference = reference[torch.randperm(len(reference), generator=generator)[:n]]
    d = features.shape[1]
    directions = torch.randn(projections, d, generator=generator, dtype=torch.float32)
    directions /= directions.norm(dim=1, keepdim=True).clamp_min(1e-12)
    distances = []
    potentials = torch.zeros(2, n, dtype=torch.float64, device=features.device)
    for chunk in directions.to(features.device).split(CHUNK):
        (x, of_x), (y, of_y) = ((z.float() @ chunk.T).sort(dim=0) for z in (features, reference))
        distances.append(((x - y) ** 2).mean(0))
        for total, order, a, b in ((0, of_x, x, y), (1, of_y, y, x)):
            phi = potential(a.double(), b.double())
            potentials[total].index_add_(0, order.flatten(), phi.flatten())
    scale = 3.0 * d
    value = float(scale * torch.cat(distances).mean().item())
    phi = scale * potentials / projections
    influence, of_reference = (phi - phi.mean(1, keepdim=True)).cpu().numpy()
    added = float(of_reference.std(ddof=1) / n**0.5)
    return Estimate(value, influence, added, None if rows is None else rows.numpy())


def potential(x: Tensor, y: Tensor) -> Tensor:
    """Integral of 2 (x - T(x)) up to each x by trapezoids; x, y (n, P) are sorted columns."""
    shift = x - y
    steps = (x[1:] - x[:-1]) * (shift[1:] + shift[:-1])
    return torch.cat([torch.zeros_like(x[:1]), steps.cumsum(0)])


class Mind(Metric, group="protocol"):
    """`mind` of Inception's features."""

    name = "mind"
    title = "MIND"
    better = "lower"
    counted = True
    low = 0.0
    reads = ("inception.2048",)
    needs = "features"

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        return {self.name: mind(*sample.tensors(self.reads[0]))}
