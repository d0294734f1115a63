"""Latent adversarial diffusion distillation, LADD (Sauer et al., arXiv 2403.12015).

The GAN loss alone, hinge, on tokens of several blocks of the frozen teacher.  There is no fake
network: the critic update trains the head.  g is that of hdbench.methods.distribution.adversarial.
Real samples are the data's, where the paper takes the teacher's; times are uniform in [gan.t_min,
gan.t_max], where it takes a logit-normal distribution; R1 may be added in its approximate form.
One head reads all blocks, of the size of all heads.  Features of a frozen network cost the critic
a forward alone, so that several head steps a generator step are cheap, and a head that has not
learnt tells the generator nothing, whatever size its gradient is brought to.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from hdbench.methods.distribution.adversarial import require_head
from hdbench.methods.distribution.gan import HingeOnTeacher
from hdbench.methods.distribution.generator import GeneratorObjective
from hdbench.methods.distribution.networks import Discriminator


class LADD(GeneratorObjective):
    """A head on the frozen teacher, and nothing else."""

    name: Literal["ladd"] = "ladd"
    title: ClassVar[str] = "LADD"
    directed: ClassVar[bool] = False

    discriminator: Discriminator = "conv"
    gan: HingeOnTeacher = HingeOnTeacher()
    head_steps_per_generator_step: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _head_on_the_teacher(self):
        if self.gan.feature_network == "fake":
            raise ValueError(
                f"gan.feature_network = fake: objective {self.name} has no fake network; "
                "use teacher"
            )
        return require_head(self)

    def critic_steps(self):
        return self.head_steps_per_generator_step
