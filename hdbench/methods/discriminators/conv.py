"""`conv`: a strided convolution over the tokens' grid, in the manner of DMD2 (arXiv 2405.14867)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from hdbench.methods.discriminators.base import Head, HeadOutput, uniform


class Conv(Head):
    """One logit a block from a strided convolution."""

    name: ClassVar[str] = "conv"
    title: ClassVar[str] = "conv"

    def __init__(self, layers: int, width: int, grid: int, hidden: int):
        super().__init__()
        self.grid = grid
        self.towers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, hidden, 3, stride=2, padding=1),
                nn.GroupNorm(1, hidden),
                nn.SiLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(hidden, 1),
            )
            for _ in range(layers)
        )

    def forward(self, tokens: list[Tensor]) -> HeadOutput:
        maps = [h.mT.unflatten(2, (self.grid, self.grid)) for h in tokens]
        logits = torch.cat([tower(h) for tower, h in zip(self.towers, maps, strict=True)], dim=1)
        return HeadOutput(logits, uniform(logits), uniform(tokens[0][..., 0]))
