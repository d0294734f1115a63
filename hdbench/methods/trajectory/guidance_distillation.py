"""Guidance distillation: the guided teacher's velocity in one evaluation (AGD, arXiv 2503.07274).

trajectory  z_{k+1} = z_k - v^w(z_k, t_k, c) / N,  t_k = 1 - k / N,  z_0 = eps,  of the teacher
loss        || u_theta(z_k, t_k, t_k, c) - v^w(z_k, t_k, c) ||^2,  mean over k = 0 .. N - 1
The states are where the guided teacher's sampler goes, as in AGD, and not noised data, whose law is
another.  A simulated step is a target too, so no evaluation of the teacher is wasted: a row of the
batch is a whole trajectory.  Not AGD's: w is the suite's and no input of the network; the whole
student is trained, where a suite does not say otherwise, in place of adapters.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from hdbench.flow.path import Velocity
from hdbench.methods.base import Batch, Passes, Regression


class GuidanceDistillation(Regression):
    """A student that needs one evaluation a step where guidance takes two."""

    name: Literal["guidance_distillation"] = "guidance_distillation"
    title: ClassVar[str] = "Guidance distillation"

    trajectory_steps: int = Field(
        default=25, ge=1, description="N: Euler steps of the guided teacher, each a target"
    )

    def sampler(self):
        return "ode"

    def updates(self, problem):
        def draw(d) -> Batch:
            return {"eps": d.noise(), "c": d.label()}

        def residual(b: Batch) -> Tensor:
            n = self.trajectory_steps
            z, t, v = trajectory(problem.teacher_velocity, b["eps"], b["c"], n)
            return problem.student(z, t, t, b["c"].repeat(n)) - v

        return self.regression(problem, draw, residual)

    def passes(self, depth, guided):
        """Of a row, which is a trajectory."""
        n = self.trajectory_steps
        teacher = Passes(forward=n * (2 if guided else 1))
        return {"teacher": teacher, "student": Passes(forward=n, backward=2 * n)}


def trajectory(v: Velocity, eps: Tensor, c: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """States z_k (N B, C, H, W), their times (N B,) and velocities, k outermost, without gradient;
    eps (B, C, H, W), c (B,).
    """
    states, times, velocities = [], [], []
    z = eps
    with torch.no_grad():
        for k in range(steps):
            t = torch.full((len(eps),), 1 - k / steps, dtype=eps.dtype, device=eps.device)
            states.append(z)
            times.append(t)
            velocities.append(v(z, t, c))
            z = z - velocities[-1] / steps
    return torch.cat(states), torch.cat(times), torch.cat(velocities)
