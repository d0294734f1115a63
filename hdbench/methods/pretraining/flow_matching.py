"""Flow matching (Lipman et al., arXiv 2210.02747; SiT, arXiv 2401.08740, Eq. 6).

loss  || v_theta(z_t, t, c) - (eps - x) ||^2 (mean),   z_t = (1 - t) x + t eps
t     uniform, or logit t ~ N(m, s^2) (Stable Diffusion 3, arXiv 2403.03206, Sec. 3.1)
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from hdbench.flow.path import Velocity, interpolate, velocity
from hdbench.methods.base import (
    Batch,
    LogitNormal,
    Loss,
    Objective,
    Passes,
    student_update,
    times_of,
)


class FlowMatching(Objective):
    """The teacher's training."""

    name: Literal["flow_matching"] = "flow_matching"
    title: ClassVar[str] = "Flow matching"
    role: ClassVar = "teacher"

    label_dropout: float = Field(
        default=0.1, ge=0, le=1, description="share of labels made the null label, for guidance"
    )

    logit_normal: LogitNormal = None

    def sampler(self):
        return "ode"

    def updates(self, problem):
        def draw(d) -> Batch:
            x, c = d.data()
            null_label: Any = problem.student.null_label
            c = torch.where(d.uniform() < self.label_dropout, null_label, c)
            return {"x": x, "eps": d.noise(), "t": times_of(d.uniform(), self.logit_normal), "c": c}

        v = velocity(problem.student)
        return [student_update(problem, draw, lambda b: flow_matching_loss(v, **b))]

    def passes(self, depth, guided):
        return {"student": Passes(forward=1, backward=2)}


def flow_matching_loss(v: Velocity, x: Tensor, eps: Tensor, t: Tensor, c: Tensor) -> Loss:
    """Mean over B, C, H, W of (v(z_t, t, c) - (eps - x))^2; x, eps (B, C, H, W), t, c (B,)."""
    loss = (v(interpolate(x, eps, t), t, c) - (eps - x)).square().mean()
    return loss, {"loss": loss}
