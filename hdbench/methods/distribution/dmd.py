"""Distribution matching distillation, DMD (Yin et al., arXiv 2311.18828), stage 2 of HD.

renoised   z_t = (1 - t) x_hat + t eps'
denoised   x_real = z_t - t v^w_phi(z_t, t, c),   x_fake = z_t - t v_psi(z_t, t, c)
direction  g = (x_fake - x_real) / mean |x_hat - x_real|,  the mean per sample
The direction is that of DMD's pseudocode; its Eqs. 7 and 8 have 1 - t times this.
Critic, generator loss, GAN term and regulariser: hdbench.methods.distribution.generator.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from hdbench.flow.path import Velocity, interpolate
from hdbench.methods.distribution.matching import Matching, denoised, per_sample


class DMD(Matching):
    """The difference of the two scores, normalised per sample."""

    name: Literal["dmd"] = "dmd"
    title: ClassVar[str] = "DMD"
    has_one_point: ClassVar[bool] = True

    def direction(self, networks, x_hat, b):
        t = b["t_match"]
        z = interpolate(x_hat, b["eps_match"], t)
        return dmd_gradient(x_hat, z, t, b["c"], networks.real, networks.fake), {}


@torch.no_grad()
def dmd_gradient(
    x_hat: Tensor, z: Tensor, t: Tensor, c: Tensor, real: Velocity, fake: Velocity
) -> Tensor:
    """(x_fake - x_real) / mean |x_hat - x_real|, (B, C, H, W), to be *subtracted* from x_hat."""
    x_real = denoised(real, z, t, c)
    x_fake = denoised(fake, z, t, c)
    return (x_fake - x_real) / per_sample(x_hat - x_real)
