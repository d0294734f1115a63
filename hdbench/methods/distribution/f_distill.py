"""f-divergence matching (Xu et al., arXiv 2502.15681, Theorem 1): DMD's direction, weighted.

divergence  D_f(p_real,t || p_fake,t) = int p_fake,t f(r),   r = p_real,t / p_fake,t at z_t
gradient    E[h(r) (s_fake - s_real) dz/dtheta],   h(r) = r^2 f''(r)
h           `rkl` reverse KL 1 (DMD);  `js` Jensen-Shannon r / (1 + r);  `fkl` forward KL r
direction   g = h(r) / mean h(r) times that of DMD
log r is the logit of a non-saturating head at z_t, clamped to +- log_ratio_limit; the head's real
samples are the data's, so with guidance r is not the ratio of the distribution whose score is
matched.
h is divided by its mean over the global batch, so that the step does not depend on the divergence,
and r is bounded: both as in public code (FastGen), which also normalises r in bins of t. The other
defaults are those of DMD2, on which the paper builds; the head is `pooled`, with the times of the
matching term.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from hdbench.core.distributed import global_mean
from hdbench.flow.path import expand, interpolate
from hdbench.methods.base import Passes
from hdbench.methods.distribution.dmd import dmd_gradient
from hdbench.methods.distribution.gan import OnFake
from hdbench.methods.distribution.matching import Matching
from hdbench.methods.distribution.networks import Discriminator


class Gan(OnFake):
    """The head's times are those of the matching term."""

    t_max: float = Field(default=0.98, ge=0, le=1)


class FDistill(Matching):
    """DMD's direction weighted by a function of the density ratio."""

    name: Literal["f_distill"] = "f_distill"
    title: ClassVar[str] = "f-distill"
    has_one_point: ClassVar[bool] = True

    divergence: Literal["rkl", "js", "fkl"] = "js"
    log_ratio_limit: float = Field(
        default=3.0, gt=0, description="largest absolute log density ratio, in nats"
    )
    discriminator: Discriminator = "pooled"
    gan: Gan = Gan()
    fake_steps_per_generator_step: int = Field(default=5, ge=1)

    @model_validator(mode="after")
    def _head_gives_the_ratio(self):
        if self.divergence == "rkl":
            return self
        if self.discriminator == "none":
            raise ValueError(
                f"discriminator = none: divergence {self.divergence} needs a head, "
                "whose logit is the log density ratio"
            )
        if self.gan.loss != "non_saturating":
            raise ValueError(
                f"gan.loss = {self.gan.loss}: "
                "only the logit of a non_saturating head is a log density ratio"
            )
        for end in ("t_min", "t_max"):
            if getattr(self.gan, end) != getattr(self, end):
                raise ValueError(
                    f"gan.{end} = {getattr(self.gan, end)}: must be {end} = {getattr(self, end)}, "
                    "since the head gives the density ratio at the times of the matching term"
                )
        return self

    def direction(self, networks, x_hat, b):
        t = b["t_match"]
        c = b["c"]
        z = interpolate(x_hat, b["eps_match"], t)
        g = dmd_gradient(x_hat, z, t, c, networks.real, networks.fake)
        if self.divergence == "rkl":
            return g, {}
        with torch.no_grad():
            output = networks.judge((z, t, c), self.gan.blocks)
            log_ratio = (output.weights * output.logits).sum(1)
            log_ratio = log_ratio.clamp(-self.log_ratio_limit, self.log_ratio_limit)
            h = weight(log_ratio, self.divergence)
            h = h / global_mean(h)
        scalars = {"log_ratio": log_ratio.mean(), "ratio_weight_square": h.square().mean()}
        return expand(h) * g, scalars

    def extra_passes(self, depth, guided):
        """The features of z_t for the ratio."""
        if self.divergence == "rkl":
            return {}
        return {"feature": Passes(forward=max(self.gan.blocks) / depth)}


def weight(log_ratio: Tensor, divergence: str) -> Tensor:
    """h(r) of log r = log p_real - log p_fake, any shape."""
    return {"rkl": torch.ones_like, "js": torch.sigmoid, "fkl": torch.exp}[divergence](log_ratio)
