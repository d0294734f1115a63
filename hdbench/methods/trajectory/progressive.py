"""Progressive distillation (Salimans & Ho, arXiv 2202.00512, Algorithm 2): rounds halve the steps.

N steps    t in {1/N, ..., 1},   r = t - 1/N,   m = (r + t)/2
two steps  z'_m = z_t - (t - m) u'(z_t, m, t, c),   z'_r = z'_m - (m - r) u'(z'_m, r, m, c)
loss       || u_theta(z_t, r, t, c) - (z_t - z'_r) / (t - r) ||^2
u' is the student at the end of the last round; in the first round it is the teacher's v^w, whose
two steps are Euler's, and on this path DDIM's.
Rounds share the steps of the stage evenly, and in each the schedule of learning rates and the
average of weights begin anew; the weights themselves, not that average, start and teach the next.
Here squares of velocities weigh alike; in the paper squares of x weigh max(SNR, 1).
"""

from __future__ import annotations

import copy
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from hdbench.core.errors import UserError
from hdbench.core.sharding import to_local
from hdbench.flow.path import MeanVelocity, expand, interpolate
from hdbench.methods.base import Batch, Passes, Regression


class Progressive(Regression):
    """Rounds from `start_steps` to `final_steps`, each with half the steps of the one before."""

    name: Literal["progressive"] = "progressive"
    title: ClassVar[str] = "Progressive distillation"
    version: ClassVar[int] = 2
    learns_mean_velocity: ClassVar[bool] = True

    start_steps: int = Field(
        default=16, ge=1, description="N of the first round; the teacher takes twice as many steps"
    )
    final_steps: int = Field(default=1, ge=1, description="N of the last round")

    @model_validator(mode="after")
    def _halves_meet_the_end(self):
        if self.final_steps << (self.rounds() - 1) != self.start_steps:
            raise ValueError(
                f"start_steps = {self.start_steps}: must be a power of two times final_steps, "
                f"{self.final_steps}"
            )
        return self

    def rounds(self):
        return max(1, (self.start_steps // self.final_steps).bit_length())

    def teacher_steps(self):
        return 2 * self.start_steps

    def round_at(self, step: int, steps: int) -> int:
        """The round of a step, both counted from 0."""
        return step * self.rounds() // steps

    def updates(self, problem):
        """The state beside the student is u', the weights that teach the round."""
        number = 0
        previous = copy.deepcopy(problem.student).requires_grad_(False)

        def on_step(step: int, steps: int) -> None:
            nonlocal number
            if steps < self.rounds():
                raise UserError(
                    f"steps = {steps}: progressive distillation has {self.rounds()} rounds; "
                    "give it at least a step each"
                )
            number = self.round_at(step, steps)
            if step and number > self.round_at(step - 1, steps):
                states = previous.state_dict().values(), problem.student.state_dict().values()
                for old, new in zip(*states, strict=True):
                    to_local(old).copy_(to_local(new))

        def round_of(step: int, steps: int) -> range:
            first = self.round_at(step, steps)
            return range(*(-(-i * steps // self.rounds()) for i in (first, first + 1)))

        def draw(d) -> Batch:
            x, c = d.data()
            n = self.start_steps >> number
            i = torch.floor(d.uniform() * n).clamp(max=n - 1)
            return {"x": x, "c": c, "eps": d.noise(), "r": i / n, "t": (i + 1) / n}

        def residual(b: Batch) -> Tensor:
            z = interpolate(b["x"], b["eps"], b["t"])
            teach = previous if number else lambda z, r, t, c: problem.teacher_velocity(z, t, c)
            target = two_halves(teach, z, b["r"], b["t"], b["c"])
            return problem.student(z, b["r"], b["t"], b["c"]) - target

        return self.regression(
            problem,
            draw,
            residual,
            frozen={"previous": previous},
            on_step=on_step,
            round_of=round_of,
        )

    def passes(self, depth, guided):
        """The mean over rounds, taken as equally long; they differ by one step at most."""
        rounds = self.rounds()
        return {
            "teacher": Passes(forward=(4 if guided else 2) / rounds),
            "target": Passes(forward=2 - 2 / rounds),
            "student": Passes(forward=1, backward=2),
        }


def two_halves(u: MeanVelocity, z: Tensor, r: Tensor, t: Tensor, c: Tensor) -> Tensor:
    """(z_t - z'_r) / (t - r) of two equal steps, their mean slope; z (B, C, H, W), r < t (B,)."""
    with torch.no_grad():
        m = (r + t) / 2
        first = u(z, m, t, c)
        return (first + u(z - expand(t - m) * first, r, m, c)) / 2
