"""MeanFlow distillation from a teacher (Geng et al., arXiv 2505.13447), stage 1 of HD.

Mean velocity      u(z_t, r, t) = 1/(t - r) int_r^t v(z_s, s) ds
MeanFlow identity  u = v - (t - r) du/dt,   du/dt = v . grad_z u + d_t u          (Eqs. 6 and 8)
loss               || u_theta(z_t, r, t, c) - sg(v^w - (t - r) du_theta/dt) ||^2    (Eq. 9, with the teacher's v^w)
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from hdbench.core.distributed import any_of
from hdbench.flow.jvp import jvp
from hdbench.flow.path import MeanVelocity, expand, interpolate
from hdbench.methods.base import Batch, Passes, Regression


class MeanFlow(Regression):
    """The mean velocity by the MeanFlow identity, with the teacher's velocity."""

    name: Literal["meanflow"] = "meanflow"
    title: ClassVar[str] = "MeanFlow"

    prob_r_equals_t: float = Field(
        0.25, ge=0, le=1, description="share of rows with r = t: plain velocity regression"
    )
    prob_t_equals_1: float = Field(
        0.25, ge=0, le=1, description="share of rows with t = 1, where one-step samples start"
    )
    adaptive_power: float = Field(
        1.0, ge=0, description="p of the adaptive weight 1 / (d + c)^p, d a mean of squares"
    )

    @model_validator(mode="after")
    def _shares_fit(self):
        if self.prob_r_equals_t + self.prob_t_equals_1 > 1:
            raise ValueError("prob_r_equals_t and prob_t_equals_1 add up to more than 1")
        return self

    def draw_times(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Uniform pairs (B,) to r <= t: the first rows get r = t, the last ones t = 1, in exact shares."""
        r, t = torch.minimum(s, t), torch.maximum(s, t)
        equal = round(self.prob_r_equals_t * len(t))
        ones = round(self.prob_t_equals_1 * len(t))
        t[len(t) - ones :] = 1.0
        r[:equal] = t[:equal]
        return r, t

    def residual(
        self, u: MeanVelocity, v: Tensor, z: Tensor, r: Tensor, t: Tensor, c: Tensor
    ) -> Tensor:
        """What is regressed to zero, (B, C, H, W)."""
        return meanflow_residual(u, v, z, r, t, c)

    def updates(self, problem):
        def draw(d) -> Batch:
            x, c = d.data()
            eps = d.noise()
            r, t = self.draw_times(d.uniform(), d.uniform())
            return {"x": x, "c": c, "eps": eps, "r": r, "t": t}

        def residual(b: Batch) -> Tensor:
            z = interpolate(b["x"], b["eps"], b["t"])
            with torch.no_grad():
                v = problem.teacher_velocity(z, b["t"], b["c"])
            return self.residual(problem.student, v, z, b["r"], b["t"], b["c"])

        return self.regression(problem, draw, residual)

    def passes(self, depth, guided):
        return {
            "teacher": Passes(forward=2 if guided else 1),
            "student": Passes(forward=1, backward=2, tangent=1 - self.prob_r_equals_t),
        }


def meanflow_residual(
    u: MeanVelocity, v: Tensor, z: Tensor, r: Tensor, t: Tensor, c: Tensor
) -> Tensor:
    """u_theta - sg(v - (t - r) du_theta/dt), rows with r = t first, then r < t.

    v and z (B, C, H, W), r <= t (B,), c (B,).  The JVP, with tangents (v, 0, 1) for (z, r, t), runs
    on the rows with r < t alone: elsewhere t - r multiplies it by 0.  Ranks call u equally often,
    since its parameters may be sharded over them: one without such rows takes any and keeps none.
    """
    still, moving, v = r >= t, r < t, v.detach()
    any_still, any_moving = any_of(bool(still.any()), bool(moving.any()))
    residuals = []
    if any_still:
        rows = still if still.any() else slice(0, 1)
        residuals.append((u(z[rows], r[rows], t[rows], c[rows]) - v[rows])[: still.sum()])
    if any_moving:
        rows = moving if moving.any() else slice(0, 1)
        z, r, t, c, v = z[rows], r[rows], t[rows], c[rows], v[rows]
        value, du_dt = jvp(
            lambda z, r, t: u(z, r, t, c), (z, r, t), (v, torch.zeros_like(r), torch.ones_like(t))
        )
        residuals.append((value - (v - expand(t - r) * du_dt))[: moving.sum()])
    return torch.cat(residuals)
