"""Seeds from axes: every random tensor is a function of named axes, so arms share noise and a resumed run repeats it."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Rows(Protocol):
    """Images (N, C, H, W): all in memory as a tensor or, as `hdbench.datasets.latents.cache.Latents`, on disk."""

    shape: torch.Size

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor) -> Tensor: ...


def seed_of(*axes: str | int) -> int:
    """A 63-bit seed from axes such as (chain seed, "refine", step, "critic"); independent of process and platform."""
    return (
        int.from_bytes(hashlib.sha256("/".join(map(str, axes)).encode()).digest()[:8], "big") >> 1
    )


def generator(*axes: str | int) -> torch.Generator:
    """CPU generator of these axes (PyTorch's keeps 32 bits of a seed); drawn on the CPU, so a device changes nothing."""
    return torch.Generator().manual_seed(seed_of(*axes))


def sample_noise(axes: tuple[str | int, ...], indices: range, shape: tuple[int, ...]) -> Tensor:
    """Standard normal (len(indices), *shape) float32; row i depends on axes and indices[i] alone, not on the batch.

    Philox keeps the whole seed, so that no two of many samples start from the same noise.
    """
    rows = (np.random.Generator(np.random.Philox(seed_of(*axes, index))) for index in indices)
    return torch.from_numpy(
        np.stack([row.standard_normal(shape, dtype=np.float32) for row in rows])
    )


class Draws:
    """What one update draws: rows of the data set and noise, always for the whole batch, from one seed of its axes.

    With several ranks each draws the same global batch; the trainer keeps its own rows, so nothing depends on their number.
    `images` (N, C, H, W) is all in memory or, as `hdbench.datasets.latents.cache.Latents`, on disk: for the same rows the same draws.
    """

    def __init__(
        self, axes: tuple[str | int, ...], images: Tensor | Rows, labels: Tensor, batch: int
    ):
        self.generator, self.images, self.labels, self.batch = (
            generator(*axes),
            images,
            labels,
            batch,
        )

    def data(self) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) float32, images in [-1, 1] or latents, and labels (B,) int64, drawn uniformly with replacement."""
        return self.rows(self.images, self.labels)

    def rows(self, *tensors: Tensor | Rows) -> tuple[Tensor, ...]:
        """The same B rows of each tensor (M, ...), drawn uniformly with replacement."""
        index = torch.randint(len(tensors[0]), (self.batch,), generator=self.generator)
        return tuple(tensor[index] for tensor in tensors)

    def label(self) -> Tensor:
        """Labels (B,) int64 with the data's own frequencies."""
        return self.labels[torch.randint(len(self.labels), (self.batch,), generator=self.generator)]

    def noise(self) -> Tensor:
        """Standard normal of the images' shape, (B, C, H, W) float32."""
        return torch.randn(self.batch, *self.images.shape[1:], generator=self.generator)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """(B,) float32, uniform in [low, high)."""
        return low + (high - low) * torch.rand(self.batch, generator=self.generator)


@contextmanager
def seeded(*axes: str | int):
    """Global random numbers of these axes inside, for the initialisation of networks; as before outside."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(*axes))
        yield
