"""Continuous-time consistency, sCM (Lu & Song, arXiv 2410.11081, Algorithm 1), on the linear path.

Consistency function  f(z_t, t, c) = z_t - t u,   u = u_theta(z_t, 0, t, c)
along the teacher     df/dt = v - u - t du/dt,   du/dt = v . grad_z u + d_t u,   v = v^w(z_t, t, c)
tangent               g = (v - u) - w t du/dt,   w rising from 0 to 1 over the first steps (warm-up)
normalised            g' = g / (||g|| + c),      ||g|| the root mean square over C, H, W
loss                  || u - sg(u + g') ||^2     (mean)
With w = 1 and without the normalisation it is MeanFlow at r = 0.  The paper writes ||g|| and no
more; public codes take a root mean square or a root of the sum, which differ by sqrt(C H W).  Not
the paper's: its trigonometric path; its factor cos t, here (1 - t) sqrt(t^2 + (1 - t)^2), which
takes the tangent to zero at pure noise, where the normalisation keeps ours; the learned weight of
times; and its log-normal proposal of noise levels, for which t is uniform here.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from hdbench.flow.jvp import jvp
from hdbench.flow.path import MeanVelocity, expand, interpolate
from hdbench.methods.base import Batch, Loss, Objective, Passes, student_update


class SCM(Objective):
    """Continuous-time consistency with a normalised tangent."""

    name: Literal["scm"] = "scm"
    title: ClassVar[str] = "sCM"
    learns_mean_velocity: ClassVar[bool] = True

    prob_t_equals_1: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="share of rows with t = 1, where one-step samples start",
    )
    normalisation_offset: float = Field(
        default=0.1, gt=0, description="c of the normalised tangent"
    )
    warmup_share: float = Field(
        default=0.2, ge=0, le=1, description="share of the steps over which w rises from 0 to 1"
    )

    def sampler(self):
        return "consistency"

    def updates(self, problem):
        w = 1.0

        def on_step(step: int, steps: int) -> None:
            nonlocal w
            w = warmup(step, steps, self.warmup_share)

        def draw(d) -> Batch:
            x, c = d.data()
            t = d.uniform()
            ones = d.split(d.batch - round(self.prob_t_equals_1 * d.batch))
            t[ones.at :] = 1.0
            return {"x": x, "c": c, "eps": d.noise(), "t": t}

        def loss(b: Batch) -> Loss:
            z = interpolate(b["x"], b["eps"], b["t"])
            with torch.no_grad():
                v = problem.teacher_velocity(z, b["t"], b["c"])
            u, g = tangent(problem.student, v, z, b["t"], b["c"], w)
            target = u.detach() + normalised(g, self.normalisation_offset)
            value = (u - target).square().mean()
            return value, {"loss": value, "mean_square": g.square().mean()}

        return [student_update(problem, draw, loss, on_step=on_step)]

    def passes(self, depth, guided):
        return {
            "teacher": Passes(forward=2 if guided else 1),
            "student": Passes(forward=1, backward=2, tangent=1),
        }


def tangent(
    u: MeanVelocity, v: Tensor, z: Tensor, t: Tensor, c: Tensor, w: float
) -> tuple[Tensor, Tensor]:
    """u with its graph and g without, (B, C, H, W) as v and z; t and c (B,), w in [0, 1]."""
    value, du_dt = jvp(
        lambda z, t: u(z, torch.zeros_like(t), t, c), (z, t), (v, torch.ones_like(t))
    )
    return value, v - value.detach() - w * expand(t) * du_dt


def normalised(g: Tensor, offset: float) -> Tensor:
    """g / (||g|| + offset), the norm a root mean square over C, H, W."""
    return g / (expand(g.square().flatten(1).mean(1).sqrt()) + offset)


def warmup(step: int, steps: int, share: float) -> float:
    """w at `step` of `steps`: min(1, step / (share steps))."""
    return min(1.0, step / (share * steps)) if share else 1.0
