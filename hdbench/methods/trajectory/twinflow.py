"""TwinFlow (arXiv 2512.05150) from a teacher: one network is its own fake score, at negative times.

twin       || u(z'_t, -t, -t) - (eps' - x_f) ||^2,  x_f = sg G(eps),  z'_t = (1 - t) x_f + t eps'
base       (t - r) u(z_t, r, t) = h v^w(z_t, t) + P,  P the integral of two own jumps from
           z_t - h v^w at t - h to r:  the semigroup identity with a first step of the teacher
           R = [(t - r) u - P] / h - v^w,  target sg(u - clamp(R, -1, 1))
rectify    D = u(z'_s, -s, -s) - u(z'_s, s, s) at a renoised G(eps),  from the rows r = 0, t = 1:
           target sg(u - clamp(D, -1, 1)):  distribution matching, as G(eps) = eps - u
Rows are a quarter each: twin, r uniform in [0, t], r within 5% of t, and r = 0 at t = 1.  Losses
are pseudo-Huber by the adaptive weight.  Not the paper's: the teacher's v^w in place of eps - x
with self-guidance; the student as its own target in place of an average of its weights; no weight
of times.  Not for networks that predict epsilon, which know no negative time.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from hdbench.flow.path import MeanVelocity, Velocity, expand, generate, interpolate
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


class TwinFlow(Regression):
    """A flow map that matches the distribution of its own samples to its own velocity."""

    name: Literal["twinflow"] = "twinflow"
    title: ClassVar[str] = "TwinFlow"

    step: float = Field(default=0.01, gt=0, lt=1, description="h: the teacher's first step")
    rectify_weight: float = Field(default=0.5, ge=0, description="of distribution matching")
    adaptive_power: AdaptivePower = 0.5
    adaptive_offset: float = Field(default=1e-6, gt=0, description="c of the adaptive weight")

    def updates(self, problem):
        u, v = problem.student, problem.teacher_velocity

        def draw(d) -> Batch:
            x, c = d.data()
            quarter = round(d.batch / 4)
            twin, near, ends = (d.split(k) for k in (quarter, 2 * quarter, d.batch - quarter))
            t, share = d.uniform(), d.uniform()
            r = share * t
            r[near.at :] = (1 - 0.05 * share[near.at :]) * t[near.at :]
            r[: twin.at] = t[: twin.at]
            r[ends.at :] = 0.0
            t[ends.at :] = 1.0
            b = {"x": x, "c": c, "eps": d.noise(), "eps_twin": d.noise(), "r": r, "t": t}
            return b | {"s": d.uniform(), "twin": twin, "ends": ends}

        def loss(b: Batch) -> Loss:
            c, r, t, n = b["c"], b["r"], b["t"], b["twin"].at
            with torch.no_grad():
                samples = before_split(b["twin"], lambda e, c: generate(u, e, c), b["eps"], c)
            x = torch.cat([samples, b["x"][n:]])
            eps = torch.cat([b["eps_twin"][:n], b["eps"][n:]])
            z = interpolate(x, eps, t)
            sign = torch.ones_like(t)
            sign[:n] = -1.0
            value = u(z, sign * r, sign * t, c)
            with torch.no_grad():
                point = value, z, r, t, c
                base = after_split(b["twin"], lambda *a: base_residual(u, v, self.step, *a), *point)
                renoised = interpolate(eps - value, b["eps_twin"], b["s"])
                twin = after_split(b["ends"], lambda *a: difference(u, *a), renoised, b["s"], c)
            delta = torch.cat([value[:n] - (eps - x)[:n], moved(value[n:], base)])
            rectified = moved(value[b["ends"].at :], twin)
            how = self.adaptive_power, self.adaptive_offset
            total = adaptive_mean_square(delta, *how)
            scalars = {"base": total}
            if len(rectified):
                share = len(rectified) / len(value)
                total = total + self.rectify_weight * share * adaptive_mean_square(rectified, *how)
            return total, {"loss": total, "mean_square": delta.square().mean()} | scalars

        return [student_update(problem, draw, loss)]

    def passes(self, depth, guided):
        """Own passes without gradient: samples 1/4, two jumps 3/4, both twins 1/4."""
        return {
            "teacher": Passes(forward=0.75 * (2 if guided else 1)),
            "target": Passes(forward=0.25 + 2 * 0.75 + 2 * 0.25),
            "student": Passes(forward=1, backward=2),
        }


def moved(value: Tensor, residual: Tensor) -> Tensor:
    """value - sg(value - clamp(residual)): the clamped residual, with the gradient of value."""
    return value - (value.detach() - residual.clamp(-1, 1))


def base_residual(
    u: MeanVelocity,
    v: Velocity,
    step: float,
    value: Tensor,
    z: Tensor,
    r: Tensor,
    t: Tensor,
    c: Tensor,
) -> Tensor:
    """R, of value = u(z, r, t, c) like z (B, C, H, W); 0 <= r <= t and c (B,)."""
    h = (t - r).clamp(max=step)
    slope = v(z, t, c)
    place, at = z - expand(h) * slope, t - h
    middle = (at + r) / 2
    first = u(place, middle, at, c)
    second = u(place - expand(at - middle) * first, r, middle, c)
    jumps = expand((at - r) / (2 * h.clamp(min=1e-12))) * (first + second)
    return expand(((t - r) / step).clamp(min=1)) * value - jumps - slope


def difference(u: MeanVelocity, z: Tensor, s: Tensor, c: Tensor) -> Tensor:
    """Velocity of the student's own samples minus its velocity, at z_s (B, C, H, W), s (B,)."""
    return u(z, -s, -s, c) - u(z, s, s, c)
