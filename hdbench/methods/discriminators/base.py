"""The contract of a discriminator head, and what heads share."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from torch import Tensor, nn


class HeadOutput(NamedTuple):
    """What a head says of a batch; each row of weights sums to 1."""

    logits: Tensor
    """(B, M) float."""
    weights: Tensor
    """(B, M): the share of each logit's loss in the sample's loss."""
    token_weights: Tensor
    """(B, N): how much each token counts, for logs and figures."""


class Head(nn.Module, ABC):
    """Logits from tokens h_l (B, N, d) of several blocks l of a feature network.

    A subclass has the constructor (layers, width, grid, hidden): blocks that it reads, token width
    d, side of the token grid (N = grid^2) and the hidden width, which is solved for so that all
    heads have one size.
    """

    name: ClassVar[str]
    """As in suites."""
    title: ClassVar[str]
    """The name for people."""
    adaptive: ClassVar[bool] = False
    """Whether it learns token weights."""
    reconstruction: ClassVar[bool] = False
    """Whether its paper gives no formula, so that this one is ours."""
    parameter_free: ClassVar[bool] = False
    """Whether it has no parameters, so that no size is asked of it."""
    trains_on: ClassVar[tuple[str, ...]] = ()
    """Networks of metrics whose features it sees, as of `Objective.trains_on`."""
    version: ClassVar[int] = 1
    """Raise it when equal settings give other results; it enters the digest of stages."""

    @abstractmethod
    def forward(self, tokens: list[Tensor]) -> HeadOutput:
        """What the head says of tokens h_l (B, N, d), one tensor a block that it reads."""


def constructor_problem(head: type[Head]) -> str:
    """What is wrong with a head's constructor, as the rest of a sentence; empty if it fits."""
    signature = inspect.signature(head)
    try:
        signature.bind(1, 1, 1, 1)
    except TypeError:
        return f"takes {signature}, where a head takes (layers, width, grid, hidden)"
    return ""


def uniform(like: Tensor) -> Tensor:
    """Rows (B, M) of 1/M."""
    return like.new_full(like.shape, 1 / like.shape[1])


def mlp(width: int, hidden: int) -> nn.Sequential:
    """d -> hidden -> 1, on the last axis."""
    return nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, 1))
