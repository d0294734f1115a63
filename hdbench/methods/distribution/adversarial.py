"""The GAN loss alone, without a matching term: the ablation "GAN only" of DMD2 (arXiv 2405.14867, Section 4.3).

The head reads features of the fake network, which flow matching and the head's loss train together, as in DMD2.
g = relative_weight * g_gan / RMS(g_gan), over the global batch: its size is relative_weight in units of x, at every step.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from hdbench.methods.base import Setting, Update
from hdbench.methods.distribution import matching
from hdbench.methods.distribution.gan import OnFake
from hdbench.methods.distribution.matching import Matching

SAMPLER, sampler = matching.SAMPLER, matching.sampler


class Configuration(matching.Configuration):
    name: Literal["adversarial"] = "adversarial"
    discriminator: matching.Discriminator = "conv"
    gan: OnFake = OnFake()
    fake_steps_per_generator_step: int = Field(5, ge=1)

    @model_validator(mode="after")
    def _fake_is_read(self):
        if self.gan.feature_network != "fake":
            raise ValueError(
                "gan.feature_network = teacher: then nothing would read the fake network; objective ladd is "
                "this one with the teacher's features"
            )
        return require_head(self)


def require_head(configuration: matching.Shared) -> matching.Shared:
    if configuration.discriminator == "none":
        raise ValueError(
            f"discriminator = none: objective {configuration.name} has no other loss than its head's"
        )
    return configuration


class Adversarial(Matching):
    own = 0

    def draw_own(self, d):
        return ()


def updates(configuration: Configuration, setting: Setting) -> list[Update]:
    return Adversarial(configuration, setting).updates()


def forward_equivalents(configuration: Configuration, depth: int, guided: bool) -> dict[str, float]:
    """Per sample and training step; no network gives a direction."""
    return matching.forward_equivalents(configuration, depth, guided, Adversarial)
