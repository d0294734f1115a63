"""Reuse of features between evaluations: caching for U-Nets, carried over to blocks of tokens.

key evaluations  all blocks; each of the blocks first .. last keeps what it made
other ones       these blocks are not computed:
  deepcache         x_l = x_{l-1} + r_l,  r_l = what block l added at the last key evaluation
  faster_diffusion  x_l = what block l gave at the last key evaluation
DeepCache (arXiv 2312.00858) keeps a U-Net's deep features and computes the shallow ones, which its
skips join: here the blocks in the middle are kept, and those around them are computed.  Faster
Diffusion (arXiv 2312.09608) keeps the encoder's features and computes the decoder, at key times
that crowd towards noise: here the first blocks are the encoder, so that between key evaluations the
network sees the new time and not the new z.  Its noise injection is left out.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import cycle
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from hdbench.core.config import Config, Fraction
from hdbench.networks.base import TokenNetwork


class BlockReuse(Config):
    """Which blocks are reused (1 = first), and at which evaluations they are computed."""

    keeps_residual: ClassVar[bool]
    """Whether what a block added is kept, and not what it gave."""

    first: int = Field(ge=1)
    last: int = Field(ge=1)

    @model_validator(mode="after")
    def _in_order(self):
        if self.first > self.last:
            raise ValueError(f"first = {self.first}: must not be above last = {self.last}")
        return self

    @abstractmethod
    def keys(self, times: Sequence[float]) -> list[bool]:
        """Whether each evaluation, of these times in order, computes all blocks; the first does."""
        raise NotImplementedError


class DeepCache(BlockReuse):
    """What the blocks in the middle add, at every n-th evaluation."""

    keeps_residual: ClassVar[bool] = True

    name: Literal["deepcache"] = "deepcache"
    every: int = Field(ge=2, description="evaluations from one key to the next")

    def keys(self, times):
        return [number % self.every == 0 for number in range(len(times))]


class FasterDiffusion(BlockReuse):
    """What the first blocks give, at key times."""

    keeps_residual: ClassVar[bool] = False

    name: Literal["faster_diffusion"] = "faster_diffusion"
    first: Literal[1] = 1
    key_times: tuple[Fraction, ...] = Field(
        description="an evaluation is key if it is the first at or below one of these times"
    )

    def keys(self, times):
        before = (2.0, *times)
        return [
            number == 0 or any(t <= key < before[number] for key in self.key_times)
            for number, t in enumerate(times)
        ]


Reuse = Annotated[DeepCache | FasterDiffusion, Field(discriminator="name")]


class _Evaluations:
    """Which evaluation of a sampling is running: `computes` all blocks or not."""

    def __init__(self, keys: Sequence[bool]):
        self.keys = cycle(keys)
        self.computes = True

    def next(self, *_: object) -> None:
        self.computes = next(self.keys)


class ReusedBlock(nn.Module):
    """A block that is computed at key evaluations alone."""

    def __init__(self, block: nn.Module, evaluations: _Evaluations, keeps_residual: bool):
        super().__init__()
        self.block = block
        self.evaluations = evaluations
        self.keeps_residual = keeps_residual
        self.kept: Tensor | None = None

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        if self.evaluations.computes:
            y = self.block(x, *others)
            self.kept = y - x if self.keeps_residual else y
            return y
        assert self.kept is not None
        return x + self.kept if self.keeps_residual else self.kept


def reusing(network: TokenNetwork, reuse: Reuse, keys: Sequence[bool]) -> None:
    """Change the network so that its evaluations, in turns of len(keys), reuse its blocks."""
    evaluations = _Evaluations(keys)
    network.register_forward_pre_hook(evaluations.next)
    for number in range(reuse.first - 1, reuse.last):
        block = network.blocks[number]
        network.blocks[number] = ReusedBlock(block, evaluations, reuse.keeps_residual)
