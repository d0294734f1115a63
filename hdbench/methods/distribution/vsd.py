"""Variational score distillation (arXiv 2305.16213), as in SwiftBrush (arXiv 2312.05239).

prediction  eps = z_t + (1 - t) v(z_t, t, c),   with v^w_phi for eps_real, v_psi for eps_fake
direction   g = omega(t) [eps_real - eps_fake]
              = (1 - t) [v^w_phi(z_t, t, c) - v_psi(z_t, t, c)]   where omega = 1
g is in units of noise and not normalised.
`noise_variance` is omega = sigma^2 = t^2 / ((1 - t)^2 + t^2) of the variance-preserving path, whose
noise predictions are the same: that of the public codes.  Defaults that are ours: omega = 1;
guidance of the teacher alone, where SwiftBrush and SNOOPI's PG-SB (arXiv 2412.02687) guide the fake
as well, by `guidance` and `fake_guidance`; and a full network as the fake, as in the other methods,
where the papers train a LoRA of the teacher, by `trainable`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from hdbench.flow.path import Velocity, expand, interpolate
from hdbench.methods.distribution.matching import Matching


class VSD(Matching):
    """The difference of the two noise predictions."""

    name: Literal["vsd"] = "vsd"
    title: ClassVar[str] = "VSD"
    has_one_point: ClassVar[bool] = True

    fake_steps_per_generator_step: int = Field(default=1, ge=1)
    omega: Literal["one", "noise_variance"] = Field(
        default="one", exclude_if=lambda omega: omega == "one", description="weight of times"
    )

    def direction(self, networks, x_hat, b):
        t = b["t_match"]
        z = interpolate(x_hat, b["eps_match"], t)
        g = vsd_gradient(z, t, b["c"], networks.real, networks.fake)
        if self.omega == "noise_variance":
            g = expand(t**2 / ((1 - t) ** 2 + t**2)) * g
        return g, {}


@torch.no_grad()
def vsd_gradient(z: Tensor, t: Tensor, c: Tensor, real: Velocity, fake: Velocity) -> Tensor:
    """g (B, C, H, W), to be subtracted from x_hat: eps_real - eps_fake."""
    return expand(1 - t) * (real(z, t, c) - fake(z, t, c))
