"""Flash-DMD, stage 1 (arXiv 2511.20549): matching where noise is high, a GAN where it is low.

steps   rows that start at t_k > split have DMD's direction alone, the others the GAN's alone
fake    psi <- pull psi + (1 - pull) theta after the critic's updates of every step
The GAN tells the data from the student's last, finest jumps; the fake score trains by flow matching
alone.  The pull keeps few fake updates enough; it is biased where theta at r = t is not the score
of its own samples.
Ours: the frozen teacher's features (the paper's are SAM's), the split, and pull: 0.97 is that of
SenseFlow's likewise term (arXiv 2506.00523), the paper's is not known to us.  Left out: stage 2,
preferences by a reward.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from hdbench.core.errors import UserError
from hdbench.core.sharding import to_local
from hdbench.flow.path import expand
from hdbench.methods.distribution.adversarial import require_head
from hdbench.methods.distribution.dmd import DMD
from hdbench.methods.distribution.networks import Discriminator


class FlashDMD(DMD):
    """DMD on the first steps of several, a GAN on the last."""

    name: Literal["flash_dmd"] = "flash_dmd"
    title: ClassVar[str] = "Flash-DMD"

    discriminator: Discriminator = "conv"
    generator_steps: int = Field(default=4, ge=1, description="S: steps that it is trained for")
    fake_steps_per_generator_step: int = Field(default=2, ge=1)
    split: float = Field(
        default=0.6, ge=0, le=1, description="t above which a step has the matching term alone"
    )
    pull: float = Field(
        default=0.97, gt=0, le=1, description="share of the fake that it keeps in a step; 1: all"
    )

    @model_validator(mode="after")
    def _head_for_low_noise(self):
        return require_head(self)

    def combined(self, g, g_gan, t):
        return torch.where(expand(t > self.split), g, g_gan)

    def updates(self, problem):
        critic, generator = super().updates(problem)
        fake = critic.modules["fake"]
        on_step = generator.on_step

        def pulled(step: int, steps: int):
            pull_towards(fake, problem.student, self.pull)
            return on_step(step, steps)

        return [critic, replace(generator, on_step=pulled)]


@torch.no_grad()
def pull_towards(fake: nn.Module, student: nn.Module, share: float) -> None:
    """psi <- share psi + (1 - share) theta, for the parameters of the fake's names."""
    theta = dict(student.named_parameters())
    for name, parameter in fake.named_parameters():
        if name not in theta:
            raise UserError(
                f"training.trainable: the fake's {name} has no counterpart in the student, to "
                "which Flash-DMD pulls it; train both alike"
            )
        to_local(parameter).lerp_(to_local(theta[name]), 1 - share)
