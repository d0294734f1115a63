"""Reflow, the second rectified flow (Liu et al., arXiv 2209.03003): velocity regression on the teacher's own couples.

Pairs (eps, x) with x the teacher's sample from the noise eps;  z_t = (1 - t) x + t eps
loss  || u_theta(z_t, r, t, c) - (eps - x) ||^2,  0 <= r <= t                               (Eq. 1, on the couples (eps, x))
The paper's network is a velocity of t alone.  Where the flow is straight its velocity is constant along a trajectory, so its
mean over any [r, t] is that velocity: r is drawn too, and the target is the same for all.  Rows with r = 0 and t = 1, where
one-step samples start, are knowledge distillation: u_theta(eps, 0, 1, c) - (eps - x) = x - G_theta(eps, c).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from hdbench.core.config import Config
from hdbench.flow.path import interpolate
from hdbench.methods.base import Pairs, Setting, Update, regression

SAMPLER = "flow_map"  # how a network of this objective samples, see hdbench.flow.samplers


class Configuration(Config):
    name: Literal["reflow"] = "reflow"
    pairs: Pairs = Pairs()
    prob_t_equals_1: float = Field(
        0.25, ge=0, le=1, description="share of rows with r = 0 and t = 1"
    )
    adaptive_power: float = Field(
        0.0, ge=0, description="p of the adaptive weight 1 / (d + c)^p, d a mean of squares"
    )
    adaptive_offset: float = Field(1e-3, gt=0, description="c of the adaptive weight")


def draw_times(share: Tensor, t: Tensor, configuration: Configuration) -> tuple[Tensor, Tensor]:
    """Uniform numbers (B,) to t and r = share t; the last rows get r = 0 and t = 1, in an exact share of the batch."""
    r, first = share * t, len(t) - round(configuration.prob_t_equals_1 * len(t))
    r[first:], t[first:] = 0.0, 1.0
    return r, t


def updates(configuration: Configuration, setting: Setting) -> list[Update]:
    def draw(d):
        return *d.rows(*setting.pairs), *draw_times(d.uniform(), d.uniform(), configuration)

    def residual(eps, x, c, r, t):
        return setting.student(interpolate(x, eps, t), r, t, c) - (eps - x)

    return regression(configuration, setting, draw, residual)


def forward_equivalents(configuration: Configuration, depth: int, guided: bool) -> dict[str, float]:
    """Per sample and training step, in forwards of the network; a backward is two.  The pairs are a stage of their own."""
    return {"student forward": 1, "student backward": 2}
