"""AWD, the Adaptive Weighted Discriminator of HD (arXiv 2511.08930): a **reconstruction**.

The paper gives no formula.

token weights  w_i = mean over blocks l and queries m of softmax_i(q_lm . K_lm h_li / sqrt(d_k))
token logits   s_li = MLP_l(h_li)
`awd_loss`     mean_l sum_i w_i loss(s_li)
`awd_logit`    mean_l loss(sum_i w_i s_li)
`awd_pool`     mean_l loss(MLP_l(sum_i w_i V_l h_li))
Queries start at zero, where the weights are uniform: there `awd_loss` is `patch` exactly.  Each
query has a key map of its own; with a shared one, queries that start equal would get equal
gradients and act as one for ever.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from hdbench.methods.discriminators.base import Head, HeadOutput, mlp, uniform

QUERIES = 4


class TokenWeights(nn.Module):
    """w (B, N) of tokens h_l (B, N, d), each row summing to 1; keys have d_k = d/4 dimensions."""

    def __init__(self, layers: int, width: int):
        super().__init__()
        size = max(width // 4, 1)
        self.keys = nn.ModuleList(
            nn.Linear(width, QUERIES * size, bias=False) for _ in range(layers)
        )
        self.queries = nn.Parameter(torch.zeros(layers, QUERIES, size))

    def forward(self, tokens: list[Tensor]) -> Tensor:
        scale = self.queries.shape[-1] ** -0.5
        weights = [
            torch.softmax((key(h).unflatten(-1, q.shape) * q).sum(-1) * scale, dim=1).mean(-1)
            for key, q, h in zip(self.keys, self.queries, tokens, strict=True)
        ]
        return torch.stack(weights).mean(0)


class AwdLoss(Head):
    """Token weights on the losses of token logits."""

    name: ClassVar[str] = "awd_loss"
    title: ClassVar[str] = "AWD-loss"
    adaptive: ClassVar[bool] = True
    reconstruction: ClassVar[bool] = True

    def __init__(self, layers: int, width: int, grid: int, hidden: int):
        super().__init__()
        self.token_weights = TokenWeights(layers, width)
        self.mlps = nn.ModuleList(mlp(width, hidden) for _ in range(layers))

    def scores(self, tokens: list[Tensor]) -> Tensor:
        """s_li (B, layers, N)."""
        return torch.stack(
            [score(h).squeeze(-1) for score, h in zip(self.mlps, tokens, strict=True)], dim=1
        )

    def forward(self, tokens: list[Tensor]) -> HeadOutput:
        w = self.token_weights(tokens)
        s = self.scores(tokens)
        return HeadOutput(s.flatten(1), w.unsqueeze(1).expand_as(s).flatten(1) / s.shape[1], w)


class AwdLogit(AwdLoss):
    """Token weights on token logits: one logit a block."""

    name: ClassVar[str] = "awd_logit"
    title: ClassVar[str] = "AWD-logit"

    def forward(self, tokens: list[Tensor]) -> HeadOutput:
        w = self.token_weights(tokens)
        logits = (w.unsqueeze(1) * self.scores(tokens)).sum(-1)
        return HeadOutput(logits, uniform(logits), w)


class AwdPool(Head):
    """Token weights on token values: one logit a block."""

    name: ClassVar[str] = "awd_pool"
    title: ClassVar[str] = "AWD-pool"
    adaptive: ClassVar[bool] = True
    reconstruction: ClassVar[bool] = True

    def __init__(self, layers: int, width: int, grid: int, hidden: int):
        super().__init__()
        self.token_weights = TokenWeights(layers, width)
        self.values = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(layers))
        self.mlps = nn.ModuleList(mlp(width, hidden) for _ in range(layers))

    def forward(self, tokens: list[Tensor]) -> HeadOutput:
        w = self.token_weights(tokens)
        logits = torch.cat(
            [
                score((w.unsqueeze(1) @ value(h)).squeeze(1))
                for score, value, h in zip(self.mlps, self.values, tokens, strict=True)
            ],
            dim=1,
        )
        return HeadOutput(logits, uniform(logits), w)
