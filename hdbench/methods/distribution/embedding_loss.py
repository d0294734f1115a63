"""Embedding loss (arXiv 2604.22379): a **reconstruction**, added to DMD's direction.

embeddings  f_j, j = 1 .. J: random convolutions, never trained and drawn anew at every step
kernel      k(x, y) = mean over j and entries of f_j(x) f_j(y), of rows with equal labels, else 0
loss        unbiased MMD^2 = mean_{i != j} k(x_hat_i, x_hat_j) + mean_{i != j} k(x_i, x_j)
                             - 2 mean_{i, j} k(x_hat_i, x_j)
direction   g = g_DMD + relative_weight RMS(g_DMD) / RMS(g_MMD) g_MMD,  g_MMD its image gradient
MMD (Gretton et al., 2012) over infinitely many such networks is zero for equal distributions alone.
The plain squared distance of mean embeddings also has the diagonal, E k(x_hat, x_hat) / B, whose
gradient would shrink the samples' embeddings; it is left out, so the gradient is unbiased at every
batch size.  The abstract gives the idea and results; networks (3 convolutions of stride 2, He's
initialisation, leaky ReLU), kernel, labels and weight are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from hdbench.core.seeds import generator
from hdbench.methods.distribution.dmd import DMD
from hdbench.methods.distribution.gan import image_gradient
from hdbench.methods.distribution.networks import Networks
from hdbench.methods.distribution.surrogate import rms

SLOPE = 0.2  # of the leaky ReLU


@dataclass
class Embeddings:
    """J random networks of three convolutions, a function of the step and the same on all ranks."""

    count: int
    width: int
    step: int = 0

    def __call__(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> (B, J, D), entries divided by sqrt(J D)."""
        embedded = []
        for number in range(self.count):
            random = generator("embedding", self.step, number)
            h = x
            for _ in range(3):
                rows = h.shape[1]
                weight = torch.randn(self.width, rows, 3, 3, generator=random).to(h)
                scale = (2 / (9 * rows * (1 + SLOPE**2))) ** 0.5
                h = F.leaky_relu(F.conv2d(h, scale * weight, stride=2, padding=1), SLOPE)
            embedded.append(h.flatten(1))
        stacked = torch.stack(embedded, dim=1)
        return stacked / stacked[0].numel() ** 0.5


@dataclass(frozen=True, kw_only=True)
class WithEmbeddings(Networks):
    """And the step's random networks."""

    embeddings: Embeddings


class EmbeddingLoss(DMD):
    """DMD and the maximum mean discrepancy under random networks."""

    name: Literal["embedding_loss"] = "embedding_loss"
    title: ClassVar[str] = "Embedding loss"

    embeddings: int = Field(default=4, ge=1, description="J: random networks at every step")
    width: int = Field(default=32, ge=1, description="channels of their convolutions")
    relative_weight: float = Field(
        default=0.5, gt=0, description="RMS of the discrepancy's image gradient over DMD's"
    )

    def networks(self, problem):
        embeddings = Embeddings(self.embeddings, self.width)
        return WithEmbeddings(**vars(super().networks(problem)), embeddings=embeddings)

    def on_critic_step(self, networks: Any):
        others = super().on_critic_step(networks)

        def on_step(step: int, steps: int):
            networks.embeddings.step = step
            return others(step, steps)

        return on_step

    def draw_direction(self, d):
        x, c = d.data()
        return super().draw_direction(d) | {"x_embedded": x, "c_embedded": c}

    def direction(self, networks: Any, x_hat, b):
        g, scalars = super().direction(networks, x_hat, b)
        real = networks.embeddings(b["x_embedded"])
        labels = b["c"], b["c_embedded"]
        added = image_gradient(lambda x: mmd(networks.embeddings(x), real, *labels), x_hat)
        size = rms(added)
        added = self.relative_weight * rms(g) / size.clamp(min=1e-12) * added
        return g + added, scalars | {"embedding_gradient_rms": size}


def mmd(f_x: Tensor, f_y: Tensor, c_x: Tensor, c_y: Tensor) -> Tensor:
    """Unbiased MMD^2 of embeddings (B, J, D) by labels (B,), a scalar.

    Over this rank's rows of a micro-batch; a row alone has no other to be compared with.
    """

    def kernel(f: Tensor, g: Tensor, c: Tensor, d: Tensor) -> Tensor:
        return f.flatten(1) @ g.flatten(1).T * (c[:, None] == d)

    def without_diagonal(f: Tensor, c: Tensor) -> Tensor:
        k = kernel(f, f, c, c)
        return (k.sum() - k.diagonal().sum()) / max(len(k) * (len(k) - 1), 1)

    return (
        without_diagonal(f_x, c_x)
        + without_diagonal(f_y, c_y)
        - 2 * kernel(f_x, f_y, c_x, c_y).mean()
    )
