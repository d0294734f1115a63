"""What all heads share: their `Verdict`, uniform weights and the MLP of a score."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn


class Verdict(NamedTuple):
    logits: Tensor  # (B, M)
    weights: Tensor  # (B, M), each row sums to 1
    token_weights: (
        Tensor  # (B, N), each row sums to 1: how much each token counts, for logs and figures
    )


def uniform(like: Tensor) -> Tensor:
    """Rows (B, M) of 1/M."""
    return like.new_full(like.shape, 1 / like.shape[1])


def mlp(width: int, hidden: int) -> nn.Sequential:
    """d -> hidden -> 1, on the last axis."""
    return nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, 1))
