"""Stochastic consistency distillation, SCott (Liu et al., arXiv 2403.01505), on the flow path.

sub-step  z_b = (1 - b) x_hat + sqrt(b^2 - q^2) e_hat + q n,  n ~ N(0, I),  b < a
          x_hat = z_a - a v^w(z_a, a, c),  e_hat = z_a + (1 - a) v^w(z_a, a, c)
          q = eta b sqrt(1 - [b (1 - a) / (a (1 - b))]^2),  DDIM's eta: 1 is ancestral sampling
target    z_s after `substeps` equal sub-steps from z_t,  s = t - 1/K
loss      || f_theta(z_t, t, c) - sg f_theta(z_s, s, c) ||^2
Without noise, eta = 0, and one sub-step it is consistency distillation.  With noise the optimum is
f(z_t, t) = E[f(z_s, s) | z_t], which shrinks towards E[x | z_t], the more the larger K: by itself
the loss loses variance, which the paper's GAN loss is to restore (the recipe `scott`).
Not the paper's: the student as its own target instead of its moving average.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from hdbench.flow.path import Velocity, expand
from hdbench.methods.base import Passes
from hdbench.methods.trajectory.consistency import Consistency, consistency


class StochasticConsistency(Consistency):
    """Consistency distillation along stochastic steps of the teacher."""

    name: Literal["stochastic_consistency"] = "stochastic_consistency"
    title: ClassVar[str] = "SCott"
    learns_mean_velocity: ClassVar[bool] = False

    eta: float = Field(default=0.3, ge=0, le=1, description="share of fresh noise in a sub-step")
    substeps: int = Field(default=3, ge=1, description="teacher steps in each of the K intervals")

    def teacher_steps(self):
        return None if self.eta else self.intervals * self.substeps

    def draw_further(self, d):
        return {f"noise_{number}": d.noise() for number in range(self.substeps)}

    def residual(self, u, v, z, b) -> Tensor:
        s, t, c = b["s"], b["t"], b["c"]
        noises = [b[f"noise_{number}"] for number in range(self.substeps)]
        with torch.no_grad():
            target = consistency(u, stochastic_steps(v, z, s, t, c, noises, self.eta), s, c)
        return consistency(u, z, t, c) - target

    def passes(self, depth, guided):
        teacher = Passes(forward=self.substeps * (2 if guided else 1))
        return super().passes(depth, guided) | {"teacher": teacher}


def stochastic_steps(
    v: Velocity, z: Tensor, s: Tensor, t: Tensor, c: Tensor, noises: list[Tensor], eta: float
) -> Tensor:
    """z_s (B, C, H, W) after len(noises) equal steps from z_t; 0 <= s < t and c (B,)."""
    count = len(noises)
    for number, n in enumerate(noises):
        a = torch.lerp(t, s, number / count)
        b = torch.lerp(t, s, (number + 1) / count)
        slope = v(z, a, c)
        x_hat = z - expand(a) * slope
        e_hat = z + expand(1 - a) * slope
        q = eta * b * (1 - (b * (1 - a) / (a * (1 - b))) ** 2).clamp(min=0).sqrt()
        z = expand(1 - b) * x_hat + expand((b**2 - q**2).sqrt()) * e_hat + expand(q) * n
    return z
