"""Adversarial self-distillation of step counts, ASD (arXiv 2511.01419, found for video), with DMD.

chain  x_k = z_k - t_k u_theta(z_k, 0, t_k, c),  t_k = 1 - k / S,  z_{k+1} = x_k noised to t_{k+1}
head   fake: x_k of a row's random k;  real: sg x_{k+1} of the same chain, one step more
DMD's direction and the GAN's are added by the rule of all heads.  The head is not told k, so it
compares two mixtures whose common members cancel: it is at rest when x_0 and x_{S-1} have one law,
whatever law that is.  Alone it cannot tell that the law is the teacher's, which is DMD's part.
Rows of the last step are their own real samples and teach the head nothing.
Ours: a student of n steps is the first n of S, the paper's has a grid of its own; the suite's GAN
loss and no R1 or R2 in place of the paper's relativistic loss with both.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from hdbench.flow.path import MeanVelocity, interpolate
from hdbench.methods.base import Passes
from hdbench.methods.distribution.adversarial import require_head
from hdbench.methods.distribution.dmd2 import DMD2
from hdbench.methods.trajectory.consistency import consistency


class ASD(DMD2):
    """DMD with a head that tells a sample from the student's own of one step more."""

    name: Literal["asd"] = "asd"
    title: ClassVar[str] = "ASD"

    generator_steps: int = Field(default=2, ge=2, description="S: steps that it is trained for")

    @model_validator(mode="after")
    def _real_samples_are_its_own(self):
        if self.contrast:
            raise ValueError(
                "contrast: the head's real samples are the student's own; leave it out"
            )
        return require_head(self)

    def draw_discriminator(self, d, problem):
        b = {"eps_next": d.noise(), "eps_gan": d.noise(), "eps_r1": d.noise()}
        return b | {"t_gan": d.uniform(self.gan.t_min, self.gan.t_max)}

    def discriminator_inputs(self, networks, x_hat, b):
        t = 1 - (b["step"] + 1) / self.generator_steps
        x = one_step_more(networks.student, x_hat, b["eps_next"], t, b["c"])
        return super().discriminator_inputs(networks, x_hat, b | {"x": x, "c_real": b["c"]})

    def extra_passes(self, depth, guided):
        """One step more in each critic update."""
        return {"generator": Passes(forward=self.critic_steps())}


@torch.no_grad()
def one_step_more(u: MeanVelocity, x: Tensor, eps: Tensor, t: Tensor, c: Tensor) -> Tensor:
    """x (B, C, H, W) noised by eps to t (B,) in [0, 1), and the student's jump to data from there.

    At t = 0 that is x itself.
    """
    return consistency(u, interpolate(x, eps, t), t, c)
