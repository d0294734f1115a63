"""BOOT (Gu et al., arXiv 2306.05544): bootstrapping along the teacher's ODE from noise, no data.

trajectory  z_r = eps - (1 - r) u_theta(eps, r, 1, c),  r from 1 (noise) down to 0
Lagrangian  u = v(z_r, r) + (t - r) d_r u,  from d/dr of z_r = z_t - (t - r) u;  here t = 1
Euler       (1 - q) u(eps, q, 1, c) = (1 - r) u(eps, r, 1, c) + (r - q) v^w(z_r, r, c),  q = r - 1/K
loss        || u_theta(eps, q, 1, c) - sg(u + (r - q) / (1 - q) (v^w(z_r, r, c) - u)) ||^2
with u = u_theta(eps, r, 1, c).  From r = 1 the target is v^w(eps, 1, c), the paper's boundary
condition.  The paper's "signal" (z_r - r eps) / (1 - r) is eps - u, so this is its residual.
Not the paper's: r on a grid of K steps; no weight 1 / step^2; the boundary as a share of the rows.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from hdbench.flow.path import MeanVelocity, Velocity, expand
from hdbench.methods.base import Batch, Passes, Regression


class Boot(Regression):
    """The flow map from noise to every time, in K Euler steps of the teacher."""

    name: Literal["boot"] = "boot"
    title: ClassVar[str] = "BOOT"
    learns_mean_velocity: ClassVar[bool] = True

    intervals: int = Field(
        default=25, ge=1, description="K: equal time steps that the teacher's ODE is cut into"
    )
    boundary_share: float = Field(
        default=0.25, ge=0, le=1, description="share of rows that start from r = 1, pure noise"
    )

    def sampling_steps(self):
        """Only maps from pure noise are trained."""
        return 1

    def teacher_steps(self):
        return self.intervals

    def updates(self, problem):
        def draw(d) -> Batch:
            r = (torch.floor(d.uniform() * self.intervals) + 1) / self.intervals
            r[d.split(d.batch - round(self.boundary_share * d.batch)).at :] = 1.0
            q = (r - 1 / self.intervals).clamp(min=0)
            return {"c": d.label(), "eps": d.noise(), "q": q, "r": r}

        def residual(b: Batch) -> Tensor:
            one = torch.ones_like(b["r"])
            return lagrangian_residual(
                problem.student, problem.teacher_velocity, b["eps"], b["q"], b["r"], one, b["c"]
            )

        return self.regression(problem, draw, residual)

    def passes(self, depth, guided):
        return {
            "teacher": Passes(forward=2 if guided else 1),
            "target": Passes(forward=1),
            "student": Passes(forward=1, backward=2),
        }


def lagrangian_residual(
    u: MeanVelocity, v: Velocity, z: Tensor, q: Tensor, r: Tensor, t: Tensor, c: Tensor
) -> Tensor:
    """u(z_t, q, t, c) minus what an Euler step of v from r to q makes of u(z_t, r, t, c).

    z (B, C, H, W); 0 <= q < r <= t and c (B,).
    """
    with torch.no_grad():
        mean = u(z, r, t, c)
        slope = v(z - expand(t - r) * mean, r, c)
        target = torch.lerp(mean, slope, expand((r - q) / (t - q)).to(mean.dtype))
    return u(z, q, t, c) - target
