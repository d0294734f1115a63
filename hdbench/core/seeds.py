"""Every random tensor is a function of named axes: arms share noise, a resumed run repeats it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor


class Rows(Protocol):
    """Images (N, C, H, W) that need not be in memory: `hdbench.datasets.latents.cache.Latents`."""

    shape: torch.Size

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor) -> Tensor: ...


def seed_of(*axes: str | int) -> int:
    """A 63-bit seed from axes such as (chain seed, "refine", step, "critic"), on any platform."""
    digest = hashlib.sha256("/".join(map(str, axes)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*axes: str | int) -> torch.Generator:
    """CPU generator of these axes, so a device changes nothing (PyTorch's keeps 32 bits)."""
    return torch.Generator().manual_seed(seed_of(*axes))


def sample_noise(
    axes: tuple[str | int, ...], indices: Sequence[int], shape: tuple[int, ...]
) -> Tensor:
    """Standard normal (len(indices), *shape) float32; row i depends on axes and indices[i] alone.

    Philox keeps the whole seed, so that no two of many samples start from the same noise.
    """
    rows = (np.random.Generator(np.random.Philox(seed_of(*axes, index))) for index in indices)
    noise = np.stack([row.standard_normal(shape, dtype=np.float32) for row in rows])
    return torch.from_numpy(noise)


class Split(NamedTuple):
    """Where a batch is cut in two: its rows before a row of the global batch, and the others."""

    at: int
    """Number of rows here before the cut."""
    before: bool
    """Whether any rank has rows before the cut in this part of its batch."""
    after: bool
    """Whether any rank has rows from the cut on."""


class Draws:
    """What one update draws for its rows of the global batch: rows of the data set and noise.

    Row i of a draw is a function of (axes, number of the draw, i) alone, by counter-based random
    numbers (Philox, Salmon et al. 2011), so a rank draws its own rows, at their cost, and neither
    the number of ranks nor the size of a micro-batch changes a number.
    """

    def __init__(
        self,
        axes: tuple[str | int, ...],
        images: Tensor | Rows,
        labels: Tensor,
        batch: int,
        parts: Sequence[range] = (),
        rank: int = 0,
    ):
        """`parts`: the rows of the global `batch` that each rank draws; by default one has all."""
        self.seed = seed_of(*axes)
        self.images = images
        self.labels = labels
        self.batch = batch
        self.parts = parts or (range(batch),)
        self.indices = self.parts[rank]
        self.draws = 0

    def split(self, cut: int) -> Split:
        """The batch cut at row `cut` of the global batch; the same on all ranks but `at`."""
        return Split(
            len([row for row in self.indices if row < cut]),
            any(row < cut for rows in self.parts for row in rows[:1]),
            any(row >= cut for rows in self.parts for row in rows[-1:]),
        )

    def data(self) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) float32, images in [-1, 1] or latents, and labels (B,) int64: `rows`."""
        x, labels = self.rows(self.images, self.labels)
        return x, labels

    def rows(self, *tensors: Tensor | Rows) -> tuple[Tensor, ...]:
        """The same B rows of each tensor (M, ...), drawn uniformly with replacement."""
        index = self._index(len(tensors[0]))
        return tuple(tensor[index] for tensor in tensors)

    def label(self) -> Tensor:
        """Labels (B,) int64 with the data's own frequencies."""
        return self.rows(self.labels)[0]

    def noise(self, shape: Sequence[int] | None = None) -> Tensor:
        """Standard normal (B, *shape) in PyTorch's default dtype, by Box and Muller in float32.

        By default of the data's shape, (B, C, H, W).
        """
        shape = self.images.shape[1:] if shape is None else shape
        size = math.prod(shape)
        pairs = self._words(-(-size // 2)).view(np.uint32).reshape(len(self.indices), -1, 2)
        uniform = torch.from_numpy(pairs.astype(np.float32)).add_(0.5).mul_(2.0**-32)
        radius = uniform[..., 0].log().mul_(-2.0).sqrt_()
        angle = uniform[..., 1] * (2 * math.pi)
        normal = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
        return normal[:, :size].reshape(-1, *shape).to(torch.get_default_dtype())

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """(B,) in PyTorch's default dtype, uniform in [low, high)."""
        words = (self._words(1)[:, 0] >> np.uint64(40)).astype(np.float32)
        uniform = torch.from_numpy(words).mul_(2.0**-24).to(torch.get_default_dtype())
        return low + (high - low) * uniform

    def _index(self, count: int) -> Tensor:
        """(B,) int64, uniform in 0 .. count - 1."""
        words = (self._words(1)[:, 0] >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return torch.from_numpy((words * count).astype(np.int64))

    def _words(self, size: int) -> np.ndarray:
        """Random words (B, size) uint64 of the next draw; a Philox counter gives four of them."""
        counters = -(-size // 4)
        key = np.array([self.seed, self.draws], dtype=np.uint64)
        self.draws += 1

        def stream(row: int, rows: int) -> np.ndarray:
            counter = np.array([row * counters, 0, 0, 0], dtype=np.uint64)
            words = np.random.Philox(key=key, counter=counter).random_raw(rows * counters * 4)
            return words.reshape(rows, -1)

        rows = self.indices
        if rows.step == 1 or len(rows) < 2:
            words = stream(rows.start if rows else 0, len(rows))
        else:
            words = np.concatenate([stream(row, 1) for row in rows])
        return np.ascontiguousarray(words[:, :size])


@contextmanager
def seeded(*axes: str | int):
    """Inside, PyTorch's global generator is of these axes: to initialise networks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(*axes))
        yield
