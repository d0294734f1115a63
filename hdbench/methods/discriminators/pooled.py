"""`pooled`, the standard uniform pooling: s_l = MLP_l(mean_i h_li)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from hdbench.methods.discriminators.base import Head, HeadOutput, mlp, uniform


class Pooled(Head):
    """One logit a block from the mean token."""

    name: ClassVar[str] = "pooled"
    title: ClassVar[str] = "pooled"

    def __init__(self, layers: int, width: int, grid: int, hidden: int):
        super().__init__()
        self.mlps = nn.ModuleList(mlp(width, hidden) for _ in range(layers))

    def forward(self, tokens: list[Tensor]) -> HeadOutput:
        logits = torch.cat(
            [score(h.mean(1)) for score, h in zip(self.mlps, tokens, strict=True)], dim=1
        )
        return HeadOutput(logits, uniform(logits), uniform(tokens[0][..., 0]))
