"""`patch`: a logit a token, s_li = MLP_l(h_li), the loss averaged over tokens (PatchGAN, arXiv 1611.07004)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hdbench.methods.discriminators.base import Verdict, mlp, uniform


class Patch(nn.Module):
    def __init__(self, layers: int, width: int, grid: int, hidden: int):
        super().__init__()
        self.mlps = nn.ModuleList(mlp(width, hidden) for _ in range(layers))

    def forward(self, tokens: list[Tensor]) -> Verdict:
        logits = torch.cat(
            [score(h).squeeze(-1) for score, h in zip(self.mlps, tokens, strict=True)], dim=1
        )
        return Verdict(logits, uniform(logits), uniform(tokens[0][..., 0]))
