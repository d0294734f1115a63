"""Sinusoidal embeddings of time and place, and the feed-forward layer, as DiT and SiT have them.

Names of parameters and every bit are those of diffusers' layers of the same names, so that weights
fit both (tests/parity/test_embeddings.py).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Gelu = Literal["tanh", "erf"]  # by its approximation, or exact


def timestep_embedding(t: Tensor, size: int) -> Tensor:
    """[cos(w_k t), sin(w_k t)], w_k = 10000^(-2k / size): t (B,) -> (B, size) float32."""
    half = size // 2
    exponent = -math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half
    angles = t[:, None].float() * torch.exp(exponent)
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


def sincos_positions(width: int, grid: int, side: int) -> Tensor:
    """Positions of a grid whose axes run from 0 to `side`: (grid^2, width) float64, raster order.

    The first half of the channels is of the column, the second of the row, each [sin, cos].
    """
    axis = torch.arange(grid, dtype=torch.float32) / (grid / side)
    row, column = torch.meshgrid(axis, axis, indexing="ij")
    quarter = width // 4
    omega = 1.0 / 10000 ** (torch.arange(quarter, dtype=torch.float64) / (width / 4.0))
    angles = [torch.outer(place.flatten(), omega) for place in (column, row)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)


class TimestepEmbedding(nn.Module):
    """(B, features) -> (B, width): linear, SiLU, linear."""

    def __init__(self, features: int, width: int):
        super().__init__()
        self.linear_1 = nn.Linear(features, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class _Projected(nn.Module):
    """(..., width) -> (..., hidden): linear, GELU."""

    def __init__(self, width: int, hidden: int, gelu: Gelu):
        super().__init__()
        self.proj = nn.Linear(width, hidden)
        self.approximate = "tanh" if gelu == "tanh" else "none"

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x), approximate=self.approximate)


class FeedForward(nn.Module):
    """(..., width) -> (..., width): linear to mlp_ratio * width, GELU, linear."""

    def __init__(self, width: int, mlp_ratio: float, gelu: Gelu = "tanh"):
        super().__init__()
        hidden = int(width * mlp_ratio)
        layers = [_Projected(width, hidden, gelu), nn.Identity(), nn.Linear(hidden, width)]
        self.net = nn.ModuleList(layers)  # the second is in the place of diffusers' dropout

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net:
            x = layer(x)
        return x
