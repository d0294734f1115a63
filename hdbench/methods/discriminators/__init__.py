"""Discriminator heads on tokens of a feature network, of equal parameter counts.

A head maps a list of tokens h_l (B, N, d), one tensor a block l, to a `HeadOutput`; the GAN loss of
a sample is sum_j weights_j loss(logits_j), so the heads differ in where the weighting happens and
in nothing else.
"""

from __future__ import annotations

from torch import nn

from hdbench.core.registry import Registry
from hdbench.methods.discriminators.awd import AwdLogit, AwdLoss, AwdPool
from hdbench.methods.discriminators.base import Head, constructor_problem
from hdbench.methods.discriminators.conv import Conv
from hdbench.methods.discriminators.mean import Mean
from hdbench.methods.discriminators.patch import Patch
from hdbench.methods.discriminators.pooled import Pooled

HEADS: Registry[Head] = Registry(
    "hdbench.heads",
    Head,
    (Pooled, Patch, Conv, AwdLoss, AwdLogit, AwdPool, Mean),
    check=constructor_problem,
)


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def build_head(name: str, *, layers: int, width: int, grid: int, parameters: int) -> nn.Module:
    """The head of the hidden width nearest to `parameters` in size; ValueError if over 10% off."""
    build = HEADS[name]
    if build.parameter_free:
        return build(layers, width, grid, 1)

    def size(hidden: int) -> int:
        return parameter_count(build(layers, width, grid, hidden))

    low = 1
    high = 1
    while size(high) < parameters:
        low = high
        high = 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if size(middle) >= parameters else (middle, high)
    hidden = min((low, high), key=lambda hidden: abs(size(hidden) - parameters))
    if abs(size(hidden) - parameters) > 0.1 * parameters:
        raise ValueError(
            f"no width of head {name} comes within 10% of {parameters} parameters; "
            f"the nearest has {size(hidden)}"
        )
    return build(layers, width, grid, hidden)
