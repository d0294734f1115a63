"""Decoupled DMD (Liu et al., arXiv 2511.22677): matching and guidance, each with its own noise.

matching      DM = x_fake(z_t) - x_cond(z_t),  t in [t_min, t_max]
augmentation  CA = x^w(z_s) - x_cond(z_s) = -s (v^w - v_cond)(z_s, s, c),  s in [ca_t_min, ca_t_max]
direction     g = DM / n(z_t) - CA / n(z_s),  n(z) = mean |x_hat - x_cond(z)|,  the mean per sample
x_cond is the teacher's without guidance; with z_s = z_t the numerator is DMD's x_fake - x^w.
The paper ties s to the times that the student has still to pass; after one step from noise those
are all, so both ranges start alike here, and what is left is independent noise, which the paper
finds to change little in four steps.  Its Algorithm 1 adds both terms as they are; the norms are
ours, DMD's for each term at its own time.  With the one of z_t for both, which goes to zero with t,
guidance of a late time would have a weight without bound.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from hdbench.flow.path import Velocity, expand, interpolate, velocity
from hdbench.methods.base import Passes
from hdbench.methods.distribution.matching import Matching, denoised, per_sample


class DecoupledDMD(Matching):
    """Matching and guidance at independent times."""

    name: Literal["decoupled_dmd"] = "decoupled_dmd"
    title: ClassVar[str] = "Decoupled DMD"
    version: ClassVar[int] = 2

    ca_t_min: float = Field(
        default=0.02, ge=0, le=1, description="guidance times are uniform in [ca_t_min, ca_t_max]"
    )
    ca_t_max: float = Field(default=0.98, ge=0, le=1)

    @model_validator(mode="after")
    def _guidance_times_in_order(self):
        if self.generator_steps > 1:
            raise ValueError(
                f"generator_steps = {self.generator_steps}: the guidance term's times would have "
                "to follow the step; objective decoupled_dmd has one step"
            )
        if self.ca_t_min >= self.ca_t_max:
            raise ValueError(
                f"ca_t_min = {self.ca_t_min}: must be below ca_t_max = {self.ca_t_max}"
            )
        return self

    def draw_direction(self, d):
        b = super().draw_direction(d)
        return b | {"eps_ca": d.noise(), "t_ca": d.uniform(self.ca_t_min, self.ca_t_max)}

    def direction(self, networks, x_hat, b):
        t = b["t_match"]
        s = b["t_ca"]
        z = interpolate(x_hat, b["eps_match"], t)
        z_s = interpolate(x_hat, b["eps_ca"], s)
        conditional = velocity(networks.teacher)
        g = decoupled_gradient(
            x_hat, z, t, z_s, s, b["c"], networks.real, conditional, networks.fake
        )
        return g, {}

    def extra_passes(self, depth, guided):
        """The teacher's conditional velocity at both times."""
        return {"teacher": Passes(forward=2)}


@torch.no_grad()
def decoupled_gradient(
    x_hat: Tensor,
    z: Tensor,
    t: Tensor,
    z_s: Tensor,
    s: Tensor,
    c: Tensor,
    real: Velocity,
    conditional: Velocity,
    fake: Velocity,
) -> Tensor:
    """DM / n(z_t) - CA / n(z_s), (B, C, H, W), to be subtracted from x_hat."""
    v_cond = conditional(z_s, s, c)
    x_cond = denoised(conditional, z, t, c)
    matching = (denoised(fake, z, t, c) - x_cond) / per_sample(x_hat - x_cond)
    augmentation = -expand(s) * (real(z_s, s, c) - v_cond)
    return matching - augmentation / per_sample(x_hat - z_s + expand(s) * v_cond)
