"""`patch` (PatchGAN, arXiv 1611.07004): s_li = MLP_l(h_li), the loss averaged over tokens i."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from hdbench.methods.discriminators.base import Head, HeadOutput, mlp, uniform


class Patch(Head):
    """One logit a token."""

    name: ClassVar[str] = "patch"
    title: ClassVar[str] = "patch"

    def __init__(self, layers: int, width: int, grid: int, hidden: int):
        super().__init__()
        self.mlps = nn.ModuleList(mlp(width, hidden) for _ in range(layers))

    def forward(self, tokens: list[Tensor]) -> HeadOutput:
        logits = torch.cat(
            [score(h).squeeze(-1) for score, h in zip(self.mlps, tokens, strict=True)], dim=1
        )
        return HeadOutput(logits, uniform(logits), uniform(tokens[0][..., 0]))
