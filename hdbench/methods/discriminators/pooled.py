"""`pooled`: one logit a block from the mean token, s_l = MLP_l(mean_i h_li), the standard uniform pooling."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hdbench.methods.discriminators.base import Verdict, mlp, uniform


class Pooled(nn.Module):
    def __init__(self, layers: int, width: int, grid: int, hidden: int):
        super().__init__()
        self.mlps = nn.ModuleList(mlp(width, hidden) for _ in range(layers))

    def forward(self, tokens: list[Tensor]) -> Verdict:
        logits = torch.cat(
            [score(h.mean(1)) for score, h in zip(self.mlps, tokens, strict=True)], dim=1
        )
        return Verdict(logits, uniform(logits), uniform(tokens[0][..., 0]))
