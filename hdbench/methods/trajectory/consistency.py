"""Consistency distillation (Song et al., arXiv 2303.01469, Algorithm 2), on the flow path.

Consistency function  f_theta(z_t, t, c) = z_t - t u_theta(z_t, 0, t, c),  so f_theta(z, 0, c) = z
teacher step          z_s = z_t - (t - s) v^w(z_t, t, c),  s = t - 1/K
loss                  || f_theta(z_t, t, c) - sg f_theta(z_s, s, c) ||^2    (Eq. 7)
The target network is the student itself, as arXiv 2310.14189 (Section 3.2) advises for training
without a teacher; this paper finds a moving average better.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from hdbench.core.seeds import Draws
from hdbench.flow.path import MeanVelocity, Velocity, expand, interpolate
from hdbench.methods.base import AdaptivePower, Batch, Passes, Regression


class Consistency(Regression):
    """Consistency distillation with K equal time steps."""

    name: Literal["consistency"] = "consistency"
    title: ClassVar[str] = "Consistency"
    learns_mean_velocity: ClassVar[bool] = True

    intervals: int = Field(
        default=40, ge=1, description="K: equal time steps that the teacher's ODE is cut into"
    )
    adaptive_power: AdaptivePower = 1.0

    def sampler(self):
        return "consistency"

    def teacher_steps(self):
        return self.intervals

    def updates(self, problem):
        def draw(d) -> Batch:
            x, c = d.data()
            t = (torch.floor(d.uniform() * self.intervals) + 1) / self.intervals
            s = (t - 1 / self.intervals).clamp(min=0)
            return {"x": x, "c": c, "eps": d.noise(), "s": s, "t": t}

        def residual(b: Batch) -> Tensor:
            z = interpolate(b["x"], b["eps"], b["t"])
            return self.residual(problem.student, problem.teacher_velocity, z, b)

        return self.regression(problem, lambda d: draw(d) | self.draw_further(d), residual)

    def draw_further(self, d: Draws) -> Batch:
        """What `residual` needs beside data, noise and times."""
        return {}

    def residual(self, u: MeanVelocity, v: Velocity, z: Tensor, b: Batch) -> Tensor:
        """What is regressed to zero at z_t, (B, C, H, W)."""
        with torch.no_grad():
            slope = v(z, b["t"], b["c"])
        return consistency_residual(u, slope, z, b["s"], b["t"], b["c"])

    def passes(self, depth, guided):
        return {
            "teacher": Passes(forward=2 if guided else 1),
            "target": Passes(forward=1),
            "student": Passes(forward=1, backward=2),
        }


def consistency(u: MeanVelocity, z: Tensor, t: Tensor, c: Tensor) -> Tensor:
    """f(z_t, t, c) = z_t - t u(z_t, 0, t, c)."""
    return z - expand(t) * u(z, torch.zeros_like(t), t, c)


def consistency_residual(
    u: MeanVelocity, v: Tensor, z: Tensor, s: Tensor, t: Tensor, c: Tensor
) -> Tensor:
    """f(z_t, t, c) - sg f(z_s, s, c) in units of x; v and z (B, C, H, W), 0 <= s < t and c (B,)."""
    with torch.no_grad():
        target = consistency(u, z - expand(t - s) * v, s, c)
    return consistency(u, z, t, c) - target
