"""FD-loss: the Frechet distance in a representation as the loss (arXiv 2604.28190).

moments     M <- m M + (1 - m) E_batch[(phi, phi phi')],  of samples and of data, from 0; mean and
            covariance of each are those of M / (1 - m^k) after k steps
distance    |mu_g - mu_r|^2 + tr(C_g + C_r - 2 (C_r^1/2 C_g C_r^1/2)^1/2),  to the diagonals of
            both C is added offset tr(C_r) / D
loss        the distance over tr C_r at the moments of the population, its gradient as if the
            batch's moments moved them: a population far larger than the batch, as in the paper
It sees two moments: other laws with the same ones have no gradient.  The abstract decouples the two
sizes; moving averages for the population, of data too, the offset (a distance of features with
independent noise) and the representation (hdbench.methods.distribution.representation) are ours.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn

from hdbench.core import distributed
from hdbench.methods.base import Loss
from hdbench.methods.distribution.representation import Representation


class FrechetLoss(Representation):
    """The distance of two populations' first two moments."""

    name: Literal["frechet_loss"] = "frechet_loss"
    title: ClassVar[str] = "FD-loss"
    version: ClassVar[int] = 2  # the first had its moments and roots in single precision

    memory: float = Field(
        default=0.99, ge=0, lt=1, description="m: the population is some 1 / (1 - m) batches"
    )
    offset: float = Field(
        default=1e-3, gt=0, description="added variance, in units of the data's mean one"
    )

    def compared(self, problem):
        teacher: Any = problem.teacher
        width = teacher.width * len(self.blocks)
        samples, data = Moments(width, self.memory), Moments(width, self.memory)

        def compare(fake: Tensor, real: Tensor, c: Tensor, c_real: Tensor) -> Loss:
            (mu_g, c_g), (mu_r, c_r) = samples(fake), data(real)
            size = c_r.trace()
            noise = self.offset * size / width * torch.eye(width).to(c_r)
            value = (frechet(mu_g, c_g + noise, mu_r, c_r + noise) / size).to(fake.dtype)
            return value, {"loss": value}

        state = nn.ModuleDict({"samples": samples, "data": data}).to(
            next(teacher.parameters()).device
        )
        return compare, {"moments": state}


class Moments(nn.Module):
    """Moving averages of E[phi] and E[phi phi'], over all ranks' rows of each micro-batch.

    In double precision: features of large means leave little of a covariance, and its roots less.
    """

    steps: Tensor
    first: Tensor
    second: Tensor

    def __init__(self, width: int, memory: float):
        super().__init__()
        self.memory = memory
        self.register_buffer("steps", torch.zeros(1, dtype=torch.float64))
        self.register_buffer("first", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("second", torch.zeros(width, width, dtype=torch.float64))

    def forward(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (D,) and covariance (D, D), float64, with rows phi (B, D); the gradient is theirs.

        By the identity that a value and its gradient may come from two places: P + (b - sg b).
        """
        phi = phi.double()
        first, second = phi.mean(0), phi.mT @ phi / len(phi)
        with torch.no_grad():
            here = [first.clone(), second.clone()]
            if dist.is_initialized():
                distributed.average_(here, distributed.share_of_batch(len(phi)))
            self.steps += 1
            for average, batch in zip((self.first, self.second), here, strict=True):
                average.lerp_(batch, 1 - self.memory)
            share = 1 - self.memory**self.steps
        mean = self.first / share + (first - first.detach())
        square = self.second / share + (second - second.detach())
        return mean, square - torch.outer(mean, mean)


def frechet(mu_g: Tensor, c_g: Tensor, mu_r: Tensor, c_r: Tensor) -> Tensor:
    """Frechet distance of N(mu_g, C_g) and N(mu_r, C_r); covariances positive definite."""
    values, vectors = torch.linalg.eigh(c_r)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.mT
    product = torch.linalg.eigvalsh(root @ c_g @ root)
    return (
        (mu_g - mu_r).square().sum() + (c_g + c_r).trace() - 2 * product.clamp(min=0).sqrt().sum()
    )
