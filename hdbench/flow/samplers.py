"""Samplers: Euler steps of the ODE, steps of a flow map, consistency sampling, and a mix of both.

From noise eps (B, C, H, W) and labels c (B,) to x (B, C, H, W).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from hdbench.flow.path import MeanVelocity, Velocity, expand, generate, interpolate


def sample_ode(v: Velocity, eps: Tensor, c: Tensor, steps: int) -> Tensor:
    """Euler steps of dz/dt = v from t = 1 to 0 on a uniform grid."""
    return sample_flow_map(lambda z, r, t, c: v(z, t, c), eps, c, steps)


def sample_flow_map(u: MeanVelocity, eps: Tensor, c: Tensor, steps: int) -> Tensor:
    """z_r = z_t - (t - r) u(z_t, r, t, c) on a uniform grid from t = 1 to 0."""
    grid = torch.linspace(1, 0, steps + 1).tolist()
    z = eps
    full = partial(torch.full, (len(eps),), device=eps.device)
    for t, r in zip(grid[:-1], grid[1:], strict=True):
        z = z - (t - r) * u(z, full(r), full(t), c)
    return z


def sample_consistency(
    u: MeanVelocity, noises: Tensor, c: Tensor, times: Sequence[float] | None = None
) -> Tensor:
    """Multi-step consistency sampling (arXiv 2303.01469, Algorithm 1): jump, noise again, jump.

    noises (steps, B, C, H, W): the first is the start, each further one renoises the prediction, at
    `times` (steps - 1 of them), by default on a uniform grid in (0, 1).
    """
    steps = len(noises)
    if times is None:
        times = [1 - number / steps for number in range(1, steps)]
    return renoised(u, generate(u, noises[0], c), noises[1:], c, times)


def sample_mix(u: MeanVelocity, noises: Tensor, c: Tensor) -> Tensor:
    """The first of 1 + len(noises) steps by the flow map, the others by consistency sampling.

    DE-CM's sampler (arXiv 2602.10764): z_s = eps - (1 - s) u(eps, s, 1, c), a jump from there to
    data, and noise again.  noises (steps - 1, B, C, H, W), times on a uniform grid in (0, 1).
    """
    steps = 1 + len(noises)
    full = partial(torch.full, (noises.shape[1],), device=noises.device)
    first, *times = [1 - number / steps for number in range(1, steps)]
    z = noises[0] - (1 - first) * u(noises[0], full(first), full(1.0), c)
    x = z - first * u(z, full(0.0), full(first), c)
    return renoised(u, x, noises[1:], c, times)


def renoised(
    u: MeanVelocity, x: Tensor, noises: Tensor, c: Tensor, times: Sequence[float]
) -> Tensor:
    """x (B, C, H, W) after a jump to data from each of `times`, noised to it by its own noise."""
    full = partial(torch.full, (len(x),), device=x.device)
    for eps, t in zip(noises, map(full, times), strict=True):
        z = interpolate(x, eps, t)
        x = z - expand(t) * u(z, torch.zeros_like(t), t, c)
    return x
