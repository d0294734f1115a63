"""DMD without a fake score, FSF-DMD (arXiv 2605.19256): a **reconstruction**.

pseudo-velocity  V(z, t) = u + t du/dt,  u = u_theta(z, 0, t),  du/dt along (u_theta(z, t, t), 1)
direction        g = t (v^w_phi - V) / mean |x_hat - x_real|,  at (1 - t) x_hat + t eps', as DMD's
loss             1/2 || x_hat - sg(x_hat - g) ||^2 + weight * MeanFlow's loss on data   (means)
Where u is the flow map of the law that it samples, V is that law's exact velocity, so that g is
DMD's with the exact fake score; the flow-map loss, trained with it, is what keeps u near one.  The
abstract has the idea, the generator's own "endpoint pseudo-velocity" in place of a fake score; that
this is MeanFlow's identity at r = 0, and the weight, are ours.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from hdbench.flow.jvp import jvp
from hdbench.flow.path import MeanVelocity, Velocity, expand, interpolate
from hdbench.methods.base import Batch, Loss, Objective, Passes, Problem, student_update
from hdbench.methods.batches import prefixed, under
from hdbench.methods.distribution.matching import denoised, per_sample
from hdbench.methods.distribution.surrogate import generator_surrogate
from hdbench.methods.trajectory.consistency import consistency
from hdbench.methods.trajectory.meanflow import MeanFlow


class FakeScoreFree(Objective):
    """Distribution matching against the student's own velocity, with a flow-map loss."""

    name: Literal["fake_score_free"] = "fake_score_free"
    title: ClassVar[str] = "FSF-DMD"

    t_min: float = Field(
        default=0.02, ge=0, le=1, description="renoising times are uniform in [t_min, t_max]"
    )
    t_max: float = Field(default=0.98, ge=0, le=1)
    flow_map: MeanFlow = MeanFlow()
    flow_map_weight: float = Field(default=0.5, gt=0)

    @model_validator(mode="after")
    def _times_in_order(self):
        if self.t_min >= self.t_max:
            raise ValueError(f"t_min = {self.t_min}: must be below t_max = {self.t_max}")
        return self

    def sampler(self):
        return "flow_map"

    def updates(self, problem: Problem):
        (flow_map,) = self.flow_map.updates(problem)

        def draw(d) -> Batch:
            b = {"c": d.label(), "eps": d.noise(), "eps_match": d.noise()}
            b["t_match"] = d.uniform(self.t_min, self.t_max)
            return b | prefixed("flow_map", flow_map.draw(d))

        def loss(b: Batch) -> Loss:
            t = b["t_match"]
            x_hat = consistency(problem.student, b["eps"], torch.ones_like(t), b["c"])
            z = interpolate(x_hat.detach(), b["eps_match"], t)
            g = self_gradient(
                x_hat.detach(), z, t, b["c"], problem.teacher_velocity, problem.student
            )
            of_flow_map, _ = flow_map.loss(under("flow_map", b))
            value = generator_surrogate(x_hat, g) + self.flow_map_weight * of_flow_map
            return value, {"loss": value, "flow_map_loss": of_flow_map}

        return [student_update(problem, draw, loss)]

    def passes(self, depth, guided):
        of_flow_map = self.flow_map.passes(depth, guided)
        return {
            "teacher": of_flow_map["teacher"].plus(Passes(forward=2 if guided else 1)),
            "student": of_flow_map["student"].plus(Passes(forward=3, backward=2, tangent=1)),
        }


@torch.no_grad()
def pseudo_velocity(u: MeanVelocity, z: Tensor, t: Tensor, c: Tensor) -> Tensor:
    """V (B, C, H, W) at z, t (B,) and c (B,)."""
    value, du_dt = jvp(
        lambda z, t: u(z, torch.zeros_like(t), t, c), (z, t), (u(z, t, t, c), torch.ones_like(t))
    )
    return value + expand(t) * du_dt


@torch.no_grad()
def self_gradient(
    x_hat: Tensor, z: Tensor, t: Tensor, c: Tensor, real: Velocity, student: MeanVelocity
) -> Tensor:
    """(x_fake - x_real) / mean |x_hat - x_real|, (B, C, H, W), to be *subtracted* from x_hat."""
    x_real = denoised(real, z, t, c)
    x_fake = z - expand(t) * pseudo_velocity(student, z, t, c)
    return (x_fake - x_real) / per_sample(x_hat - x_real)
