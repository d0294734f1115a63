"""Improved MeanFlow from a teacher (Geng et al., arXiv 2512.02012): a loss on the velocity.

own velocity       v_theta = u_theta(z_t, t, t, c)
along it           du/dt = v_theta . grad_z u + d_t u
compound velocity  V = u_theta(z_t, r, t, c) + (t - r) sg(du_theta/dt)
loss               || V - v^w(z_t, t, c) ||^2,  a plain velocity regression where r = t
MeanFlow takes v^w in the derivative too.  The paper, which has no teacher, regresses V on eps - x;
its auxiliary velocity head and its guidance as a condition are left out.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from hdbench.core.seeds import Split
from hdbench.flow.path import MeanVelocity
from hdbench.methods.base import Passes, after_split
from hdbench.methods.trajectory.meanflow import ALL_MOVING, MeanFlow, meanflow_residual


class ImprovedMeanFlow(MeanFlow):
    """MeanFlow with the student's own velocity in the derivative."""

    name: Literal["improved_meanflow"] = "improved_meanflow"
    title: ClassVar[str] = "Improved MeanFlow"

    def residual(self, u, v, z, r, t, c, moving):
        return velocity_residual(u, v, z, r, t, c, moving)

    def passes(self, depth, guided):
        """MeanFlow's, and the student's own velocity on the rows with r < t."""
        target = Passes(forward=1 - self.prob_r_equals_t)
        return super().passes(depth, guided) | {"target": target}


def velocity_residual(
    u: MeanVelocity,
    v: Tensor,
    z: Tensor,
    r: Tensor,
    t: Tensor,
    c: Tensor,
    moving: Split = ALL_MOVING,
) -> Tensor:
    """V - v, (B, C, H, W); v and z (B, C, H, W), r <= t (B,), c (B,), r = t before `moving`.

    MeanFlow's residual with v_theta for v is V - v_theta.
    """
    with torch.no_grad():
        student_velocity = after_split(moving, u, z, t, t, c)
    along = torch.cat([v[: moving.at], student_velocity])
    return meanflow_residual(u, along, z, r, t, c, moving) + (along - v)
