"""What the methods with a fake score share: its training, its times, and guidance of both scores.

critic     || v_psi(z_t, t, c) - (eps' - x_hat) ||^2,  c the null label with prob. label_dropout
direction  a method's, of v^w_phi of the teacher and v^kappa_psi of the fake at one z_t, w and kappa
           numbers or drawn for each row
With exact scores the direction of the KL family descends, at each t,
  E_c KL[ p_g(z|c) : p(z|c)^w p(z)^(1-w) ] - (1 - kappa) I_g(z; c):
w > 1 with kappa = 1 has the sharpened density as its optimum; w = kappa the unguided p(z|c),
whatever kappa is (SNOOPI, arXiv 2412.02687; SwiftBrush, arXiv 2312.05239); w = 1 with kappa = 0
(Zero-CFG) or below (Anti-CFG, arXiv 2505.12674) adds mutual information of sample and label.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from hdbench.flow.path import Velocity, expand, guided_by
from hdbench.methods.distribution.generator import GeneratorObjective


class Matching(GeneratorObjective):
    """A method with a fake score."""

    has_fake: ClassVar[bool] = True

    fake_steps_per_generator_step: int = Field(default=3, ge=1)
    fake_learning_rate: float = Field(default=4e-4, gt=0)
    t_min: float = Field(
        default=0.02, ge=0, le=1, description="renoising times are uniform in [t_min, t_max]"
    )
    t_max: float = Field(default=0.98, ge=0, le=1)
    guidance: tuple[float, float] | None = Field(
        default=None,
        strict=False,
        exclude_if=lambda ends: ends is None,
        description="the teacher's w in the direction, at all times, drawn for each row uniformly "
        "between these; by default the suite's guidance",
    )
    fake_guidance: float | Literal["teacher"] = Field(
        default=1.0,
        exclude_if=lambda kappa: kappa == 1.0,
        description="kappa of the fake score in the direction: 1 none, 0 its null label, teacher: "
        "the row's w of `guidance`",
    )
    label_dropout: float = Field(
        default=0.0,
        ge=0,
        le=1,
        exclude_if=lambda share: share == 0,
        description="share of labels made the null label while the fake score learns",
    )

    @model_validator(mode="after")
    def _times_in_order(self):
        if self.t_min >= self.t_max:
            raise ValueError(f"t_min = {self.t_min}: must be below t_max = {self.t_max}")
        return self

    @model_validator(mode="after")
    def _guidance_fits(self):
        if self.guidance and self.guidance[0] > self.guidance[1]:
            raise ValueError(
                f"guidance = {list(self.guidance)}: the first must not be above the second"
            )
        if not self.directed and (self.guidance or self.fake_guidance != 1.0):
            raise ValueError(
                f"guidance, fake_guidance: objective {self.name} has no direction that they change"
            )
        if self.fake_guidance == "teacher" and self.guidance is None:
            raise ValueError(
                "fake_guidance = teacher: give guidance = [low, high], which both then have"
            )
        if self.fake_guidance != 1.0 and self.label_dropout == 0:
            raise ValueError(
                f"fake_guidance = {self.fake_guidance}: the fake score learns no null label; give "
                "label_dropout"
            )
        return self

    def critic_steps(self):
        return self.fake_steps_per_generator_step

    def draw_direction(self, d):
        b = {"eps_match": d.noise(), "t_match": d.uniform(self.t_min, self.t_max)}
        if self.guidance and self.guidance[0] < self.guidance[1]:
            b["guidance"] = d.uniform(*self.guidance)
        return b

    def draw_critic(self, d, problem):
        b = super().draw_critic(d, problem)
        return b | {"null": d.uniform() < self.label_dropout} if self.label_dropout else b

    def fake_loss(self, networks, x_hat, b):
        if self.label_dropout:
            null_label: Any = networks.fake_network.null_label
            b = b | {"c": torch.where(b["null"], null_label, b["c"])}
        return super().fake_loss(networks, x_hat, b)

    def at_guidance(self, networks, b):
        if self.guidance is None:
            return replace(networks, fake_guidance=self.fake_guidance)
        low, high = self.guidance
        w = b["guidance"] if low < high else low
        kappa = w if self.fake_guidance == "teacher" else self.fake_guidance
        return replace(networks, real=guided_by(networks.teacher, w), fake_guidance=kappa)

    def at_null_label(self, network):
        if network == "fake":
            return self.fake_guidance == 0 or self.label_dropout > 0
        return self.guidance == (0, 0)

    def evaluations(self, guided):
        def of(low: float, high: float) -> int:
            return 1 if low == high and low in (0, 1) else 2

        teacher = of(*self.guidance) if self.guidance else 2 if guided else 1
        if self.fake_guidance == "teacher":
            return teacher, teacher
        return teacher, of(self.fake_guidance, self.fake_guidance)


def denoised(v: Velocity, z: Tensor, t: Tensor, c: Tensor) -> Tensor:
    """x = z_t - t v(z_t, t, c)."""
    return z - expand(t) * v(z, t, c)


def per_sample(x: Tensor) -> Tensor:
    """max(mean |x|, 1e-6) of each sample, (B, 1, 1, 1): what directions are normalised by."""
    return expand(x.abs().flatten(1).mean(1).clamp(min=1e-6))
