"""Consistency distillation (Song et al., arXiv 2303.01469, Algorithm 2), on the flow path.

Consistency function  f(z_t, t, c) = z_t - t u_theta(z_t, 0, t, c), so f(z, 0) = z holds by construction
teacher step          z_s = z_t - (t - s) v^w(z_t, t, c),  s = t - 1/K
loss                  || f_theta(z_t, t, c) - sg f_theta(z_s, s, c) ||^2                           (Eq. 7)
The target network is the student itself, as arXiv 2310.14189 (Section 3.2) advises for training without a teacher; this
paper finds a moving average better.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from hdbench.core.config import Config
from hdbench.flow.path import MeanVelocity, expand, interpolate
from hdbench.methods.base import Setting, Update, regression

SAMPLER = "consistency"  # how a network of this objective samples, see hdbench.flow.samplers


class Configuration(Config):
    name: Literal["consistency"] = "consistency"
    intervals: int = Field(
        40, ge=1, description="K, the number of equal time steps that the teacher's ODE is cut into"
    )
    adaptive_power: float = Field(
        1.0, ge=0, description="p of the adaptive weight 1 / (d + c)^p, d a mean of squares"
    )
    adaptive_offset: float = Field(1e-3, gt=0, description="c of the adaptive weight")


def consistency(u: MeanVelocity, z: Tensor, t: Tensor, c: Tensor) -> Tensor:
    """f(z_t, t, c) = z_t - t u(z_t, 0, t, c)."""
    return z - expand(t) * u(z, torch.zeros_like(t), t, c)


def consistency_residual(
    u: MeanVelocity, v: Tensor, z: Tensor, s: Tensor, t: Tensor, c: Tensor
) -> Tensor:
    """f(z_t, t) - sg f(z_s, s) over the step, in units of x; v and z (B, C, H, W), 0 <= s < t (B,), c (B,)."""
    with torch.no_grad():
        target = consistency(u, z - expand(t - s) * v, s, c)
    return consistency(u, z, t, c) - target


def updates(configuration: Configuration, setting: Setting) -> list[Update]:
    k = configuration.intervals

    def draw(d):
        x, c = d.data()
        t = (torch.floor(d.uniform() * k) + 1) / k
        return x, c, d.noise(), (t - 1 / k).clamp(min=0), t

    def residual(x, c, eps, s, t):
        z = interpolate(x, eps, t)
        with torch.no_grad():
            v = setting.teacher_velocity(z, t, c)
        return consistency_residual(setting.student, v, z, s, t, c)

    return regression(configuration, setting, draw, residual)


def forward_equivalents(configuration: Configuration, depth: int, guided: bool) -> dict[str, float]:
    """Per sample and training step, in forwards of the network; a backward is two."""
    return {
        "teacher forward": 2 if guided else 1,
        "target forward": 1,
        "student forward": 1,
        "student backward": 2,
    }
