"""Shortcut models (Frans et al., arXiv 2410.12557) from a teacher: one step equals two half steps.

sizes             d in {2/F, 4/F, ..., 1}, equally likely;  t in {d, 2d, ..., 1}
a step            r = t - d,  m = t - d/2,  z'_m = z_t - d/2 u_theta(z_t, m, t, c)
two half steps    u'(z_t, r, t, c) = [u_theta(z_t, m, t, c) + u_theta(z'_m, r, m, c)] / 2
self-consistency  || u_theta(z_t, r, t, c) - sg u'(z_t, r, t, c) ||^2    (Eqs. 4 and 5)
other rows        || u_theta(z_t, t, t, c) - v^w(z_t, t, c) ||^2
The halves of the smallest step, of size 1/F, are Euler's: there, as in the paper, u_theta is asked
at r = t.
A share of the batch, prob_t_equals_1, may have d = t = 1 besides, the step that one-step samples
take; of sizes equally likely that is one in log2 F of the self-consistency rows alone.
Not the paper's: such a share, the teacher's v^w in place of eps - x, t uniform in [0, 1) for
r = t and not on the grid of 1/F, and targets by the student itself and not its moving average.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from hdbench.core.seeds import Draws, Split
from hdbench.flow.path import MeanVelocity, Velocity, interpolate
from hdbench.methods.base import Batch, Passes, Regression, after_split, before_split
from hdbench.methods.trajectory.progressive import two_halves


class Shortcut(Regression):
    """Self-consistency of step sizes, anchored at the teacher's velocity."""

    name: Literal["shortcut"] = "shortcut"
    title: ClassVar[str] = "Shortcut"
    learns_mean_velocity: ClassVar[bool] = True

    finest: int = Field(
        default=128, ge=2, description="F, a power of two: smallest steps from noise to data"
    )
    consistency_share: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="share of rows with a self-consistency target of a size drawn",
    )
    prob_t_equals_1: float = Field(
        default=0.0,
        ge=0,
        le=1,
        exclude_if=lambda share: share == 0,
        description="share of rows, besides, with that of the one step from noise to data",
    )

    @model_validator(mode="after")
    def _halves_meet_the_finest(self):
        if self.finest & (self.finest - 1):
            raise ValueError(f"finest = {self.finest}: must be a power of two")
        return self

    @model_validator(mode="after")
    def _shares_fit(self):
        if self.consistency_share + self.prob_t_equals_1 > 1:
            raise ValueError("consistency_share and prob_t_equals_1 add up to more than 1")
        return self

    def teacher_steps(self):
        return self.finest

    def draw_times(self, d: Draws) -> tuple[Tensor, Tensor, Split]:
        """r, t (B,): r = t uniform, then steps, last r = 0, t = 1; and the first step's row."""
        one_step = round(self.prob_t_equals_1 * d.batch)
        ones = d.split(d.batch - one_step)
        moving = d.split(max(0, d.batch - one_step - round(self.consistency_share * d.batch)))
        levels = self.finest.bit_length() - 1
        level = d.uniform()[moving.at :]
        place = d.uniform()
        n = 2.0 ** torch.floor(level * levels).clamp(max=levels - 1)
        i = torch.floor(place[moving.at :] * n).clamp(max=n - 1)
        still = place[: moving.at]
        r, t = torch.cat([still, i / n]), torch.cat([still, (i + 1) / n])
        r[ones.at :] = 0.0
        t[ones.at :] = 1.0
        return r, t, moving

    def updates(self, problem):
        def draw(d) -> Batch:
            x, c = d.data()
            eps = d.noise()
            r, t, moving = self.draw_times(d)
            return {"x": x, "c": c, "eps": eps, "r": r, "t": t, "moving": moving}

        def residual(b: Batch) -> Tensor:
            z = interpolate(b["x"], b["eps"], b["t"])
            r, t, c = b["r"], b["t"], b["c"]
            target = shortcut_target(
                problem.student, problem.teacher_velocity, z, r, t, c, self.finest, b["moving"]
            )
            return problem.student(z, r, t, c) - target

        return self.regression(problem, draw, residual)

    def passes(self, depth, guided):
        share = self.consistency_share + self.prob_t_equals_1
        return {
            "teacher": Passes(forward=(2 if guided else 1) * (1 - share)),
            "target": Passes(forward=2 * share),
            "student": Passes(forward=1, backward=2),
        }


@torch.no_grad()
def shortcut_target(
    u: MeanVelocity,
    v: Velocity,
    z: Tensor,
    r: Tensor,
    t: Tensor,
    c: Tensor,
    finest: int,
    moving: Split,
) -> Tensor:
    """v before `moving`, the mean slope of two steps of u after; z (B, C, H, W), r and t (B,)."""

    def half(z, r, t, c):
        return u(z, torch.where(t - r > 1.5 / finest, r, t), t, c)

    velocity = before_split(moving, v, z, t, c)
    slope = after_split(moving, lambda *a: two_halves(half, *a), z, r, t, c)
    return torch.cat([velocity, slope])
