"""Backward simulation (DMD2, arXiv 2405.14867, Section 4.5): the student's own inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from hdbench.flow.path import MeanVelocity, expand, interpolate
from hdbench.methods.trajectory.consistency import consistency


@torch.no_grad()
def simulate(
    u: MeanVelocity, c: Tensor, eps: Tensor, step: Tensor | None, noises: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """z_k (B, C, H, W) and t_k (B,) of each row's `step` k = 0, 1, ... of consistency sampling.

    The noises (B, C, H, W) are those of steps 1, 2, ...; all rows go through all steps, so that
    ranks call u equally often.
    """
    z = eps
    t = torch.ones(len(eps), device=eps.device)
    start = z
    times = t
    for number, noise in enumerate(noises, start=1):
        x = consistency(u, z, t, c)
        t = torch.full_like(t, 1 - number / (len(noises) + 1))
        z = interpolate(x, noise, t)
        start = torch.where(expand(step == number), z, start)
        times = torch.where(step == number, t, times)
    return start, times
