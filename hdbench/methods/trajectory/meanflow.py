"""MeanFlow distillation from a teacher (Geng et al., arXiv 2505.13447), stage 1 of HD.

Mean velocity      u(z_t, r, t) = 1/(t - r) int_r^t v(z_s, s) ds
MeanFlow identity  u = v - (t - r) du/dt,   du/dt = v . grad_z u + d_t u            (Eqs. 6 and 8)
loss               || u_theta(z_t, r, t, c) - sg(v^w - (t - r) du_theta/dt) ||^2    (Eq. 9)
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from hdbench.core.config import Fraction
from hdbench.core.seeds import Draws, Split
from hdbench.flow.jvp import jvp
from hdbench.flow.path import MeanVelocity, expand, interpolate, velocity
from hdbench.methods.base import (
    AdaptivePower,
    Batch,
    LogitNormal,
    Passes,
    Regression,
    after_split,
    before_split,
    times_of,
)


class MeanFlow(Regression):
    """The mean velocity by the MeanFlow identity, with the teacher's velocity."""

    name: Literal["meanflow"] = "meanflow"
    title: ClassVar[str] = "MeanFlow"
    learns_mean_velocity: ClassVar[bool] = True

    prob_r_equals_t: float = Field(
        default=0.25, ge=0, le=1, description="share of rows with r = t: plain velocity regression"
    )
    prob_t_equals_1: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="share of rows with t = 1, where one-step samples start",
    )
    adaptive_power: AdaptivePower = 1.0
    logit_normal: LogitNormal = None
    unguided: Fraction = Field(
        default=0.0,
        exclude_if=lambda share: share == 0,
        description="share of the steps, the first ones, that take the teacher without guidance",
    )

    @model_validator(mode="after")
    def _shares_fit(self):
        if self.prob_r_equals_t + self.prob_t_equals_1 > 1:
            raise ValueError("prob_r_equals_t and prob_t_equals_1 add up to more than 1")
        return self

    def draw_times(self, d: Draws) -> tuple[Tensor, Tensor, Split]:
        """r <= t (B,), in exact shares r = t first and t = 1 last; and where r < t begins."""
        a = times_of(d.uniform(), self.logit_normal)
        b = times_of(d.uniform(), self.logit_normal)
        r = torch.minimum(a, b)
        t = torch.maximum(a, b)
        moving = d.split(round(self.prob_r_equals_t * d.batch))
        ones = d.split(d.batch - round(self.prob_t_equals_1 * d.batch))
        t[ones.at :] = 1.0
        r[: moving.at] = t[: moving.at]
        return r, t, moving

    def residual(
        self, u: MeanVelocity, v: Tensor, z: Tensor, r: Tensor, t: Tensor, c: Tensor, moving: Split
    ) -> Tensor:
        """What is regressed to zero, (B, C, H, W)."""
        return meanflow_residual(u, v, z, r, t, c, moving)

    def updates(self, problem):
        teacher_velocity = problem.teacher_velocity

        def on_step(step: int, steps: int) -> None:
            nonlocal teacher_velocity
            is_guided = step >= self.unguided * steps
            teacher_velocity = problem.teacher_velocity if is_guided else velocity(problem.teacher)

        def draw(d) -> Batch:
            x, c = d.data()
            eps = d.noise()
            r, t, moving = self.draw_times(d)
            return {"x": x, "c": c, "eps": eps, "r": r, "t": t, "moving": moving}

        def residual(b: Batch) -> Tensor:
            z = interpolate(b["x"], b["eps"], b["t"])
            with torch.no_grad():
                v = teacher_velocity(z, b["t"], b["c"])
            return self.residual(problem.student, v, z, b["r"], b["t"], b["c"], b["moving"])

        return self.regression(problem, draw, residual, on_step=on_step)

    def passes(self, depth, guided):
        return {
            "teacher": Passes(forward=2 - self.unguided if guided else 1),
            "student": Passes(forward=1, backward=2, tangent=1 - self.prob_r_equals_t),
        }


ALL_MOVING = Split(at=0, before=False, after=True)


def meanflow_residual(
    u: MeanVelocity,
    v: Tensor,
    z: Tensor,
    r: Tensor,
    t: Tensor,
    c: Tensor,
    moving: Split = ALL_MOVING,
) -> Tensor:
    """u_theta - sg(v - (t - r) du_theta/dt), v and z (B, C, H, W); r <= t and c (B,).

    The JVP, with tangents (v, 0, 1) for (z, r, t), runs on the rows from `moving` on alone: before,
    r = t and t - r multiplies it by 0.
    """

    def regressed(v: Tensor, z: Tensor, r: Tensor, t: Tensor, c: Tensor) -> Tensor:
        return u(z, r, t, c) - v

    def along_the_flow(v: Tensor, z: Tensor, r: Tensor, t: Tensor, c: Tensor) -> Tensor:
        tangents = v, torch.zeros_like(r), torch.ones_like(t)
        value, du_dt = jvp(lambda z, r, t: u(z, r, t, c), (z, r, t), tangents)
        return value - (v - expand(t - r) * du_dt)

    rows = v.detach(), z, r, t, c
    before = before_split(moving, regressed, *rows)
    return torch.cat([before, after_split(moving, along_the_flow, *rows)])
