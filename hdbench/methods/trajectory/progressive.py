"""Progressive distillation (Salimans & Ho, arXiv 2202.00512, Algorithm 2): each round halves the number of steps.

Round with N student steps, t in {1/N, ..., 1}, r = t - 1/N, m = (r + t)/2; u' is the student at the end of the last round
two steps  z'_m = z_t - (t - m) u'(z_t, m, t, c),   z'_r = z'_m - (m - r) u'(z'_m, r, m, c)
loss       || u_theta(z_t, r, t, c) - (z_t - z'_r) / (t - r) ||^2
In the first round u' is the teacher's velocity v^w, so that its two steps are Euler's, which on this path are DDIM's.
Rounds share the steps of the stage evenly, and in each the average of weights begins anew; the weights themselves, not that
average, start and teach the next.  Here the learning rate follows the stage's one schedule and squares of velocities weigh
alike; in the paper it falls in each round, and squares of x weigh max(SNR, 1).
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from hdbench.core.config import Config
from hdbench.core.errors import UserError
from hdbench.core.sharding import own_part
from hdbench.flow.path import MeanVelocity, expand, interpolate
from hdbench.methods.base import Setting, Update, regression

SAMPLER = "flow_map"  # how a network of this objective samples, see hdbench.flow.samplers


class Configuration(Config):
    name: Literal["progressive"] = "progressive"
    start_steps: int = Field(
        16, ge=1, description="N of the first round; the teacher takes twice as many steps"
    )
    final_steps: int = Field(1, ge=1, description="N of the last round")
    adaptive_power: float = Field(
        0.0, ge=0, description="p of the adaptive weight 1 / (d + c)^p, d a mean of squares"
    )
    adaptive_offset: float = Field(1e-3, gt=0, description="c of the adaptive weight")

    @model_validator(mode="after")
    def _halves_meet_the_end(self):
        if self.final_steps << (self.rounds - 1) != self.start_steps:
            raise ValueError(
                f"start_steps = {self.start_steps}: must be a power of two times final_steps, {self.final_steps}"
            )
        return self

    @property
    def rounds(self) -> int:
        return max(1, (self.start_steps // self.final_steps).bit_length())


def two_halves(u: MeanVelocity, z: Tensor, r: Tensor, t: Tensor, c: Tensor) -> Tensor:
    """(z_t - z'_r) / (t - r) of two equal steps with u, that is the mean of their slopes; z (B, C, H, W), r < t (B,)."""
    with torch.no_grad():
        m = (r + t) / 2
        first = u(z, m, t, c)
        return (first + u(z - expand(t - m) * first, r, m, c)) / 2


def updates(configuration: Configuration, setting: Setting) -> list[Update]:
    """The state beside the student is u' alone: its weights, not their average, teach the next round."""
    rounds, number = configuration.rounds, 0
    previous = copy.deepcopy(setting.student).requires_grad_(False)

    def begin(step, steps):
        nonlocal number
        if steps < rounds:
            raise UserError(
                f"steps = {steps}: progressive distillation has {rounds} rounds; give it at least a step each"
            )
        number = step * rounds // steps
        if step and number > (step - 1) * rounds // steps:
            for old, new in zip(
                previous.state_dict().values(), setting.student.state_dict().values(), strict=True
            ):
                own_part(old).copy_(own_part(new))
        return -(-number * steps // rounds)

    def draw(d):
        x, c = d.data()
        n = configuration.start_steps >> number
        i = torch.floor(d.uniform() * n).clamp(max=n - 1)
        return x, c, d.noise(), i / n, (i + 1) / n

    def residual(x, c, eps, r, t):
        z = interpolate(x, eps, t)
        teach = previous if number else lambda z, r, t, c: setting.teacher_velocity(z, t, c)
        return setting.student(z, r, t, c) - two_halves(teach, z, r, t, c)

    return regression(
        configuration, setting, draw, residual, frozen={"previous": previous}, begin=begin
    )


def forward_equivalents(configuration: Configuration, depth: int, guided: bool) -> dict[str, float]:
    """Per sample and training step, in forwards of the network, the mean over the rounds; a backward is two.

    Rounds differ in length by one step at most, which is not counted.
    """
    rounds = configuration.rounds
    return {
        "teacher forward": (4 if guided else 2) / rounds,
        "target forward": 2 - 2 / rounds,
        "student forward": 1,
        "student backward": 2,
    }
