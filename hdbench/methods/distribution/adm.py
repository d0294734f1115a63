"""Adversarial distribution matching, ADM (Lu et al., arXiv 2507.18569).

renoised   z_t = (1 - t) x_hat + t eps',   s = t - delta
steps      z_s^real = z_t - (t - s) v^w_phi(z_t, t, c),   z_s^fake = z_t - (t - s) v_psi(z_t, t, c)
critic     raises D(z_s^real, s, c) and lowers D(z_s^fake, s, c)
generator  raises D(z_s^fake, s, c),  through v_psi and z_t
Hinge loss, on tokens of several blocks of the frozen teacher; g is that of
hdbench.methods.distribution.adversarial.
The critic sees no data, and there is no DMD term.  t is uniform in [gan.t_min, gan.t_max];
delta = 1/64 is the paper's; head, blocks and update ratio are ours.  Of a component of variance
s^2 in x_hat the discriminated variance has the share (1 - t)^2 s^2 / ((1 - t)^2 s^2 + t^2),
whatever delta is: only small t show high frequencies.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from hdbench.flow.path import Velocity, interpolate
from hdbench.methods.base import Passes
from hdbench.methods.distribution.adversarial import require_head
from hdbench.methods.distribution.gan import HingeOnTeacher
from hdbench.methods.distribution.matching import Matching
from hdbench.methods.distribution.networks import Discriminator, Point


class Gan(HingeOnTeacher):
    """Times up to those of the matching methods."""

    t_max: float = Field(default=0.98, ge=0, le=1)


class ADM(Matching):
    """A head that tells the teacher's step from the fake score's."""

    name: Literal["adm"] = "adm"
    title: ClassVar[str] = "ADM"
    directed: ClassVar[bool] = False

    discriminator: Discriminator = "conv"
    gan: Gan = Gan()
    delta: float = Field(
        default=1 / 64, gt=0, lt=1, description="t - s: length of the Euler step, in units of time"
    )

    @model_validator(mode="after")
    def _step_fits(self):
        if self.gan.feature_network != "teacher":
            raise ValueError(
                "gan.feature_network = fake: the head of objective adm reads the frozen teacher; "
                "use teacher"
            )
        if self.contrast:
            raise ValueError("contrast: the head of objective adm sees no real samples; remove it")
        if self.delta > self.gan.t_min:
            raise ValueError(
                f"delta = {self.delta}: must not exceed gan.t_min = {self.gan.t_min}, or the step "
                "would pass the data"
            )
        return require_head(self)

    def draw_discriminator(self, d, problem):
        return {"eps_r1": d.noise(), "t_gan": d.uniform(self.gan.t_min, self.gan.t_max)}

    def perturb(self, networks, x, b):
        t = b["t_gan"]
        return euler_step(networks.fake, interpolate(x, b["eps_gan"], t), t, b["c"], self.delta)

    @torch.no_grad()
    def discriminator_inputs(self, networks, x_hat, b):
        t = b["t_gan"]
        c = b["c"]
        z = interpolate(x_hat, b["eps_fake"], t)
        real = euler_step(networks.real, z, t, c, self.delta)
        fake = euler_step(networks.fake, z, t, c, self.delta)
        return real, fake, (real[0] + self.gan.r1_sigma * b["eps_r1"], *real[1:])

    def extra_passes(self, depth, guided):
        """Both steps for the critic; the fake's and its backward to the image for the generator."""
        n = self.critic_steps()
        return {
            "fake": Passes(forward=n + 1, backward=1),
            "teacher": Passes(forward=n * (2 if guided else 1)),
        }


def euler_step(v: Velocity, z: Tensor, t: Tensor, c: Tensor, delta: float) -> Point:
    """(z_s, s, c) with s = t - delta and z_s = z - delta v(z, t, c); z (B, C, H, W), t (B,)."""
    return z - delta * v(z, t, c), t - delta, c
