"""Dual-End Consistency Model, DE-CM (arXiv 2602.10764): one flow map held at both ends.

flow matching    || u(z_t, t, t) - v^w ||^2 + 1 - cos(u(z_t, t, t), v^w)
to data          || u(z_t, 0, t) - sg(v^w - t [v^w . grad_z u + d_t u]) ||^2      (Eulerian, r = 0)
noise to noisy   || u(z_T, R, T) - sg(u*) ||^2,  T near 1,  z_R = z_T - (T - R) u(z_T, R, T)
                 u* = [a v^w(z_T, T) + b v^w(z_R, R) - (T - R) D] / (a + b)
                 D = a v^w(z_T, T) . grad_z u + a d_T u - b d_R u,  one JVP
Each is a share of the rows.  u* is a times the Eulerian identity and b times the Lagrangian,
    u = v(z_T, T) - (T - R) [v . grad_z u + d_T u],   u = v(z_R, R) + (T - R) d_R u,
so the true mean velocity makes all three zero for any a and b (lambda and gamma in the paper).
`decay`: T = 1 - decay (1 - step / (decay_share steps)) at first and exactly 1, pure noise, after.
Not the paper's: guidance without its bound on the norm; shares of a batch for its terms.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from hdbench.flow.jvp import jvp
from hdbench.flow.path import MeanVelocity, Velocity, expand, interpolate
from hdbench.methods.base import (
    AdaptivePower,
    Batch,
    Loss,
    Passes,
    Regression,
    adaptive_mean_square,
    after_split,
    before_split,
    student_update,
)
from hdbench.methods.trajectory.meanflow import meanflow_residual


class DualEnd(Regression):
    """Flow matching, consistency to data and consistency from noise."""

    name: Literal["dual_end"] = "dual_end"
    title: ClassVar[str] = "DE-CM"
    learns_mean_velocity: ClassVar[bool] = True

    flow_share: float = Field(default=0.25, ge=0, le=1, description="share of rows with r = t")
    noise_share: float = Field(
        default=0.25, ge=0, le=1, description="share of rows that map noise to noisy images"
    )
    eulerian: float = Field(default=0.5, ge=0, description="a, of the Eulerian identity")
    lagrangian: float = Field(default=1.0, gt=0, description="b, of the Lagrangian identity")
    decay: float = Field(default=0.1, ge=0, lt=1, description="by how much T is below 1 at first")
    decay_share: float = Field(
        default=0.2, gt=0, le=1, description="share of the steps over which T rises to 1"
    )
    adaptive_power: AdaptivePower = 1.0

    @model_validator(mode="after")
    def _shares_fit(self):
        if self.flow_share + self.noise_share > 1:
            raise ValueError("flow_share and noise_share add up to more than 1")
        return self

    def sampler(self):
        return "mix"

    def updates(self, problem):
        start = 1.0

        def on_step(step: int, steps: int) -> None:
            nonlocal start
            start = 1 - self.decay * max(0.0, 1 - step / (self.decay_share * steps))

        def draw(d) -> Batch:
            x, c = d.data()
            a = d.uniform()
            moving = d.split(round(self.flow_share * d.batch))
            noisy = d.split(d.batch - round(self.noise_share * d.batch))
            r = torch.zeros_like(a)
            t = a.clone()
            r[: moving.at] = t[: moving.at]
            t[noisy.at :] = start
            r[noisy.at :] = start * a[noisy.at :]
            b = {"x": x, "c": c, "eps": d.noise(), "r": r, "t": t}
            return b | {"moving": moving, "noisy": noisy}

        def loss(b: Batch) -> Loss:
            z = interpolate(b["x"], b["eps"], b["t"])
            r, t, c = b["r"], b["t"], b["c"]
            u, teacher = problem.student, problem.teacher_velocity
            with torch.no_grad():
                v = teacher(z, t, c)

            def to_data(*rows: Tensor) -> Tensor:
                return meanflow_residual(u, *rows, moving=b["moving"])

            def to_noisy(*rows: Tensor) -> Tensor:
                return noise_residual(
                    u, teacher, *rows, eulerian=self.eulerian, lagrangian=self.lagrangian
                )

            rows = v, z, r, t, c
            before = before_split(b["noisy"], to_data, *rows)
            delta = torch.cat([before, after_split(b["noisy"], to_noisy, *rows)])
            value = adaptive_mean_square(delta, self.adaptive_power, self.adaptive_offset)
            still = b["moving"].at
            cosine = F.cosine_similarity((delta + v)[:still].flatten(1), v[:still].flatten(1))
            angle = (1 - cosine).sum() / len(z)
            scalars = {"mean_square": delta.square().mean(), "angle": angle}
            return value + angle, {"loss": value + angle} | scalars

        return [student_update(problem, draw, loss, on_step=on_step)]

    def passes(self, depth, guided):
        teacher = (2 if guided else 1) * (1 + self.noise_share)
        return {
            "teacher": Passes(forward=teacher),
            "student": Passes(forward=1, backward=2, tangent=1 - self.flow_share),
        }


def noise_residual(
    u: MeanVelocity,
    teacher: Velocity,
    v: Tensor,
    z: Tensor,
    r: Tensor,
    t: Tensor,
    c: Tensor,
    eulerian: float,
    lagrangian: float,
) -> Tensor:
    """u - sg(u*), (B, C, H, W) like z and v = teacher(z, t, c); 0 <= r <= t and c (B,)."""
    tangents = (eulerian * v, torch.full_like(r, -lagrangian), torch.full_like(t, eulerian))
    value, derivative = jvp(lambda z, r, t: u(z, r, t, c), (z, r, t), tangents)
    with torch.no_grad():
        end = teacher(z - expand(t - r) * value, r, c)
        target = eulerian * v + lagrangian * end - expand(t - r) * derivative
    return value - target / (eulerian + lagrangian)
