"""Discriminator heads on tokens of a feature network: one file each, equal parameter counts by construction.

A head maps a list of tokens h_l (B, N, d), one tensor a block l, to a `Verdict`; the GAN loss of a sample is
sum_j weights_j loss(logits_j), so the heads differ in where the weighting happens and in nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn


class Verdict(NamedTuple):
    logits: Tensor  # (B, M)
    weights: Tensor  # (B, M), each row sums to 1
    token_weights: Tensor  # (B, N), each row sums to 1: how much each token counts, for logs and figures


def uniform(like: Tensor) -> Tensor:
    """Rows (B, M) of 1/M."""
    return like.new_full(like.shape, 1 / like.shape[1])


def mlp(width: int, hidden: int) -> nn.Sequential:
    """d -> hidden -> 1, on the last axis."""
    return nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, 1))


def head_classes() -> dict[str, type[nn.Module]]:
    """name -> class(layers, width, grid, hidden); one line a head."""
    from hdbench.discriminators import awd, conv, patch, pooled

    return {"pooled": pooled.Pooled, "patch": patch.Patch, "conv": conv.Conv, "awd_loss": awd.AwdLoss,
            "awd_logit": awd.AwdLogit, "awd_pool": awd.AwdPool}


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def build_head(name: str, *, layers: int, width: int, grid: int, parameters: int) -> nn.Module:
    """The head whose hidden width brings its size closest to `parameters`; ValueError if that is over 10% off."""
    build: Callable[..., nn.Module] = head_classes()[name]

    def size(hidden: int) -> int:
        return parameter_count(build(layers, width, grid, hidden))

    low, high = 1, 1
    while size(high) < parameters:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if size(middle) >= parameters else (middle, high)
    hidden = min((low, high), key=lambda hidden: abs(size(hidden) - parameters))
    if abs(size(hidden) - parameters) > 0.1 * parameters:
        raise ValueError(f"no width of head {name} comes within 10% of {parameters} parameters; the nearest has {size(hidden)}")
    return build(layers, width, grid, hidden)
