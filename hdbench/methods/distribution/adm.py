"""Adversarial distribution matching (Lu et al., arXiv 2507.18569): a head tells a step by the real score from one by the fake.

z_t = (1 - t) x_hat + t eps',  s = t - delta
z_s^real = z_t - (t - s) v^w_phi(z_t, t, c),  z_s^fake = z_t - (t - s) v_psi(z_t, t, c)
The critic raises D(z_s^real, s, c) and lowers D(z_s^fake, s, c), the generator raises D(z_s^fake, s, c) through the fake
velocity and z_t; hinge loss, tokens of several blocks of the frozen teacher, g as in hdbench.methods.distribution.adversarial.
The critic sees no data, and there is no DMD term.  t is uniform in [gan.t_min, gan.t_max];
delta = 1/64 is the paper's; head, blocks and update ratio are ours.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from hdbench.flow.path import Velocity, interpolate
from hdbench.methods.base import Setting, Update
from hdbench.methods.distribution import matching
from hdbench.methods.distribution.adversarial import Adversarial, require_head
from hdbench.methods.distribution.gan import HingeOnTeacher

SAMPLER, sampler = matching.SAMPLER, matching.sampler


class Gan(HingeOnTeacher):
    t_max: float = Field(0.98, ge=0, le=1)


class Configuration(matching.Configuration):
    name: Literal["adm"] = "adm"
    discriminator: matching.Discriminator = "conv"
    gan: Gan = Gan()
    delta: float = Field(
        1 / 64, gt=0, lt=1, description="t - s: length of the Euler step, in units of time"
    )

    @model_validator(mode="after")
    def _step_fits(self):
        if self.gan.feature_network != "teacher":
            raise ValueError(
                "gan.feature_network = fake: the head of objective adm reads the frozen teacher; use teacher"
            )
        if self.delta > self.gan.t_min:
            raise ValueError(
                f"delta = {self.delta}: must not exceed gan.t_min = {self.gan.t_min}, or the step would pass "
                "the data"
            )
        return require_head(self)


def euler_step(
    v: Velocity, z: Tensor, t: Tensor, c: Tensor, delta: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(z_s, s, c) with s = t - delta and z_s = z - delta v(z, t, c); z (B, C, H, W), t (B,)."""
    return z - delta * v(z, t, c), t - delta, c


class ADM(Adversarial):
    def noised(self, x, eps, t, c):
        return euler_step(self.fake, interpolate(x, eps, t), t, c, self.configuration.delta)

    @torch.no_grad()
    def contrast(self, x, c_real, eps, eps_r1, t, x_hat, c, eps_fake):
        k, z = self.configuration, interpolate(x_hat, eps_fake, t)
        real, fake = (euler_step(v, z, t, c, k.delta) for v in (self.real, self.fake))
        return [real, fake, (real[0] + k.gan.r1_sigma * eps_r1, *real[1:])]


def updates(configuration: Configuration, setting: Setting) -> list[Update]:
    return ADM(configuration, setting).updates()


def forward_equivalents(configuration: Configuration, depth: int, guided: bool) -> dict[str, float]:
    """Besides, both steps in each critic update, and the fake's with its backward to the image in the generator's."""
    n = configuration.critic_steps
    extra = {"fake forward": n + 1, "fake backward": 1, "teacher forward": n * (2 if guided else 1)}
    return matching.forward_equivalents(configuration, depth, guided, ADM, extra)
