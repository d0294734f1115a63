"""Improved MeanFlow distillation from a teacher (Geng et al., arXiv 2512.02012): MeanFlow as a loss on the velocity.

compound velocity  V = u_theta(z_t, r, t, c) + (t - r) sg(du_theta/dt)
du/dt              v_theta . grad_z u + d_t u along the student's own velocity v_theta = u_theta(z_t, t, t, c)
loss               || V - v^w(z_t, t, c) ||^2, a plain velocity regression where r = t
MeanFlow takes v^w in the derivative too.  The paper, which has no teacher, regresses V on eps - x; its auxiliary velocity head
and its guidance as a condition are left out.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from hdbench.flow.path import MeanVelocity
from hdbench.methods.base import Setting, Update, on_rows
from hdbench.methods.trajectory import meanflow

SAMPLER = "flow_map"  # how a network of this objective samples, see hdbench.flow.samplers


class Configuration(meanflow.Configuration):
    name: Literal["improved_meanflow"] = "improved_meanflow"


def velocity_residual(
    u: MeanVelocity, v: Tensor, z: Tensor, r: Tensor, t: Tensor, c: Tensor
) -> Tensor:
    """V - v, rows with r = t first, then r < t; v and z (B, C, H, W), r <= t (B,), c (B,).

    MeanFlow's residual with v_theta for v is V - v_theta.
    """
    own, moving = v.clone(), r < t
    own[moving] = on_rows(moving, u, z, t, t, c)
    order = torch.argsort(moving.int(), stable=True)
    return meanflow.meanflow_residual(u, own, z, r, t, c) + (own - v)[order]


def updates(configuration: Configuration, setting: Setting) -> list[Update]:
    return meanflow.updates(configuration, setting, velocity_residual)


def forward_equivalents(configuration: Configuration, depth: int, guided: bool) -> dict[str, float]:
    """MeanFlow's, and the student's own velocity on the rows with r < t."""
    cost = meanflow.forward_equivalents(configuration, depth, guided)
    return cost | {"target forward": 1 - configuration.prob_r_equals_t}
