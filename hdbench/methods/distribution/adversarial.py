"""The GAN loss alone: the ablation "GAN only" of DMD2 (arXiv 2405.14867, Section 4.3).

direction  g = relative_weight g_gan / RMS(g_gan),  over the global batch
Its size is relative_weight in units of x, at every step.  The head reads features of the fake
network, which flow matching and the head's loss train together, as in DMD2.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from hdbench.methods.distribution.gan import OnFake
from hdbench.methods.distribution.generator import GeneratorObjective
from hdbench.methods.distribution.matching import Matching
from hdbench.methods.distribution.networks import Discriminator


class Adversarial(Matching):
    """A head on the trained fake network, and no direction."""

    name: Literal["adversarial"] = "adversarial"
    title: ClassVar[str] = "GAN"
    directed: ClassVar[bool] = False

    discriminator: Discriminator = "conv"
    gan: OnFake = OnFake()
    fake_steps_per_generator_step: int = Field(default=5, ge=1)

    @model_validator(mode="after")
    def _fake_is_read(self):
        if self.gan.feature_network != "fake":
            raise ValueError(
                "gan.feature_network = teacher: then nothing would read the fake network; "
                "objective ladd is this one with the teacher's features"
            )
        return require_head(self)


def require_head(objective: GeneratorObjective) -> GeneratorObjective:
    """The objective itself; ValueError without a head."""
    if objective.discriminator == "none":
        raise ValueError(
            f"discriminator = none: objective {objective.name} has no other loss than its head's"
        )
    return objective
