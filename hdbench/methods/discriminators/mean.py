"""`mean`, Diffusion-GAN's (SiDA, arXiv 2410.14919): s_li = mean over channels of h_li, one a token.

It has no parameters: only a trained feature network learns to tell real from fake.  Tokens are
layer-normalised, so that the plain mean of their channels is zero; here channels of the first half
count plus and those of the second minus, which is the same up to a fixed change of the basis.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from hdbench.methods.discriminators.base import Head, HeadOutput, uniform


class Mean(Head):
    """One logit a token, without parameters."""

    name: ClassVar[str] = "mean"
    title: ClassVar[str] = "mean"
    parameter_free: ClassVar[bool] = True

    def __init__(self, layers: int, width: int, grid: int, hidden: int):
        super().__init__()

    def forward(self, tokens: list[Tensor]) -> HeadOutput:
        halves = (h.chunk(2, dim=-1) for h in tokens)
        logits = torch.cat([plus.mean(-1) - minus.mean(-1) for plus, minus in halves], dim=1)
        return HeadOutput(logits, uniform(logits), uniform(tokens[0][..., 0]))
