"""GAN distillation of innate one-step generators, GDD (Zheng & Yang, arXiv 2405.20750).

critic     raises D(x, c) of the data and lowers D(x_hat, c)
generator  raises D(x_hat, c),  x_hat = G(eps, c) from the teacher's weights
The non-saturating GAN loss alone, on images as they are: no teacher, no fake score, no renoising.
D is Projected GAN's: small heads on fixed random projections of a frozen classifier's feature maps
(hdbench.networks.projected).  The classifier is trained in the DAG for this alone, from another
seed than the one that measures: a generator that was trained to please a metric's own network is
not measured by it.  GDD-I is the same with `trainable: {student: {freeze: [...]}}`.
The papers' classifiers are of ImageNet, at 224 pixels; their R1 (1e-4, every 16th step) is left
out here.  An evaluation of the classifier counts as one of the network; its training is not
counted, as that of the papers' is not.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from hdbench.methods.base import Passes
from hdbench.methods.distribution.gan import GanSettings
from hdbench.methods.distribution.ladd import LADD
from hdbench.methods.distribution.networks import Point
from hdbench.networks.projected import SCALES


class OnClassifier(GanSettings):
    """The head reads a frozen classifier."""

    feature_network: Literal["classifier"] = "classifier"
    blocks: tuple[int, ...] = Field(default=(1, 2), min_length=1, description="scales, 1 = finest")


class GDD(LADD):
    """A head on a frozen classifier's features of clean images, and nothing else."""

    name: Literal["gdd"] = "gdd"
    title: ClassVar[str] = "GDD"
    reads_classifier: ClassVar[bool] = True

    gan: OnClassifier = OnClassifier()

    @model_validator(mode="after")
    def _scales_exist(self):
        if not 1 <= min(self.gan.blocks) <= max(self.gan.blocks) <= SCALES:
            raise ValueError(
                f"gan.blocks = {list(self.gan.blocks)}: the classifier has scales 1 to {SCALES}"
            )
        return self

    def unread_of_head(self):
        return (*super().unread_of_head(), "t_min", "t_max")

    def networks(self, problem):
        return replace(super().networks(problem), features=problem.classifier)

    def draw_critic(self, d, problem):
        b = self.draw_start(d, problem)
        x, c_real = d.rows(*problem.pairs[1:]) if self.contrast else d.data()
        return b | {"x": x, "c_real": c_real, "eps_r1": d.noise()}

    def draw_judgement(self, d):
        return {}

    def perturb(self, networks, x, b):
        return clean(x, b["c"])

    def discriminator_inputs(self, networks, x_hat, b):
        perturbed = b["x"] + self.gan.r1_sigma * b["eps_r1"]
        return clean(b["x"], b["c_real"]), clean(x_hat, b["c"]), clean(perturbed, b["c_real"])

    def passes(self, depth, guided):
        passes = super().passes(depth, guided)
        n = self.critic_steps() * self.gan.judgements
        passes["classifier"] = Passes(forward=n + 1, backward=1)
        del passes["feature"]
        return passes


def clean(x: Tensor, c: Tensor) -> Point:
    """(x, 0, c): images as they are."""
    return x, torch.zeros(len(x), device=x.device), c
