"""Drifting (Deng et al., arXiv 2602.04770): samples are pulled to data and pushed from samples.

barycentre  B_p(f) = E_p[k(f, y) y] / E_p[k(f, y)],   k(f, y) = exp(-||f - y|| / tau) or, Gaussian,
            exp(-||f - y||^2 / (2 tau^2)),  y of the label of f
drift       V(f) = B_data(f) - B_samples(f),  f itself left out of the samples
loss        || phi(x_hat) - sg(phi(x_hat) + V) ||^2     (mean)
V of (p, q) is minus that of (q, p), so it is zero for equal laws; with a Gaussian kernel it is
tau^2 times the difference of the scores of both laws after smoothing by tau.  Here tau is a share
of the batch's mean distance of samples to data.  The paper normalises features and drift, has
several tau, separate batches for each class and encoders of images; here phi is
hdbench.methods.distribution.representation's, and a row without another sample or without data of
its label stays where it is.  Each rank, and each micro-batch, compares its own rows alone, so that
their number matters here.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from hdbench.methods.base import Loss
from hdbench.methods.distribution.representation import Representation

Kernel = Literal["laplace", "gaussian"]


class Drifting(Representation):
    """Descent along the drift of samples in features."""

    name: Literal["drifting"] = "drifting"
    title: ClassVar[str] = "Drifting"

    kernel: Kernel = "laplace"
    temperature: float = Field(
        default=0.2, gt=0, description="tau in units of the mean distance of samples to data"
    )

    def compared(self, problem):
        def compare(fake: Tensor, real: Tensor, c: Tensor, c_real: Tensor) -> Loss:
            tau = self.temperature * torch.cdist(fake.detach(), real).mean()
            v = drift(fake.detach(), real, c, c_real, tau, self.kernel)
            value = (fake - (fake.detach() + v)).square().mean()
            return value, {"loss": value}

        return compare, {}


def drift(
    fake: Tensor, real: Tensor, c: Tensor, c_real: Tensor, tau: Tensor | float, kernel: Kernel
) -> Tensor:
    """V (B, D) at each row of fake (B, D) with labels c (B,), from real (M, D), c_real (M,)."""
    same = c[:, None] == c
    others = same & ~torch.eye(len(fake), dtype=torch.bool, device=fake.device)
    alike = c[:, None] == c_real
    v = barycentre(fake, real, alike, tau, kernel) - barycentre(fake, fake, others, tau, kernel)
    return v * (alike.any(1) & others.any(1))[:, None]


def barycentre(f: Tensor, y: Tensor, alike: Tensor, tau: Tensor | float, kernel: Kernel) -> Tensor:
    """B (B, D) at f (B, D) of those y (M, D) that are `alike` (B, M); zero where none is."""
    distance = torch.cdist(f, y) / tau
    exponent = distance if kernel == "laplace" else 0.5 * distance.square()
    weights = torch.softmax((-exponent).masked_fill(~alike, -1e30), dim=1)
    return weights * alike @ y
