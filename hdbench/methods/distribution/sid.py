"""Score identity distillation (Zhou et al., arXiv 2404.04057, Eq. 23), by x-predictions.

difference  d = x_real - x_fake at z_t = (1 - t) x_hat + t eps'
loss        [(1 - alpha) ||d||^2 + <d, x_fake - x_hat>] / sg(mean |x_hat - x_real|)   per sample
direction   g, the gradient of the loss in x_hat, also through z_t into both networks

With an exact fake, E[x_hat | z_t] = x_fake and so E<d, x_fake - x_hat> = 0: the score identity.
Without the normaliser the gradient at alpha = 1/2 is exactly half that of E||d||^2, a Fisher
divergence, in which the fake follows the generator: there the derivative through the fake
vanishes.  The normaliser is that of the authors' code; uniform times are ours.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from hdbench.flow.path import Velocity, interpolate
from hdbench.methods.base import Passes
from hdbench.methods.distribution.matching import Matching, denoised, per_sample


class SiD(Matching):
    """The gradient of the score identity's loss."""

    name: Literal["sid"] = "sid"
    title: ClassVar[str] = "SiD"

    alpha: float = Field(
        default=1.0,
        ge=0,
        description="share of ||x_real - x_fake||^2 that is taken off; the paper has 1.0 and 1.2",
    )
    fake_steps_per_generator_step: int = Field(default=1, ge=1)

    def direction(self, networks, x_hat, b):
        eps = b["eps_match"]
        t = b["t_match"]
        c = b["c"]
        return sid_gradient(x_hat, eps, t, c, networks.real, networks.fake, self.alpha), {}

    def extra_passes(self, depth, guided):
        """A backward to the input through each evaluation of fake and teacher."""
        teacher, fake = self.evaluations(guided)
        return {"fake": Passes(backward=fake), "teacher": Passes(backward=teacher)}


def sid_loss(
    x_hat: Tensor, z: Tensor, t: Tensor, c: Tensor, real: Velocity, fake: Velocity, alpha: float
) -> Tensor:
    """(B,): sums over C, H, W, divided by the sample's mean |x_hat - x_real|, held fixed."""
    x_real = denoised(real, z, t, c)
    x_fake = denoised(fake, z, t, c)
    d = x_real - x_fake
    loss = ((1 - alpha) * d + x_fake - x_hat) * d / per_sample(x_hat - x_real).detach()
    return loss.flatten(1).sum(1)


def sid_gradient(
    x_hat: Tensor, eps: Tensor, t: Tensor, c: Tensor, real: Velocity, fake: Velocity, alpha: float
) -> Tensor:
    """g (B, C, H, W): the gradient of each sample's loss in its x_hat; networks get none."""
    x_hat = x_hat.detach().requires_grad_()
    with torch.enable_grad():
        loss = sid_loss(x_hat, interpolate(x_hat, eps, t), t, c, real, fake, alpha)
    return torch.autograd.grad(loss.sum(), x_hat)[0]
