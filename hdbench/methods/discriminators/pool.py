"""A pool of heads (NitroFusion, arXiv 2412.02030): several judge, and some are initialised anew.

verdict   the logits of the step's heads together, each head with the same weight
step      `judging` heads of the pool, drawn without replacement, judge and are trained; before it
          each head of the pool is, with probability `refresh`, initialised anew, and Adam's moments
          of its parameters with it
Both draws are functions of the step alone, so a resumed run repeats them and so do all ranks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hdbench.core.seeds import generator
from hdbench.core.sharding import distribute_like, to_local
from hdbench.methods.discriminators.base import Head, HeadOutput


class HeadPool(nn.Module):
    """Heads of one kind; a head of `fresh()` alone, never drawn anew, is that head."""

    def __init__(self, fresh: Callable[..., Head], heads: int, judging: int | None, refresh: float):
        """`fresh(*axes)` makes a head, on the device, from these axes of its seed."""
        super().__init__()
        # the first from the seed of a head without a pool
        self.heads = nn.ModuleList([fresh(), *(fresh(number) for number in range(1, heads))])
        self.fresh = fresh
        self.judging = judging or heads
        self.refresh = refresh
        self.active = list(range(heads))
        self.adaptive = self.heads[0].adaptive

    def forward(self, tokens: list[Tensor]) -> HeadOutput:
        outputs = [self.heads[number](tokens) for number in self.active]
        logits, weights, token_weights = zip(*outputs, strict=True)
        return HeadOutput(
            torch.cat(logits, dim=1),
            torch.cat(weights, dim=1) / len(outputs),
            torch.stack(token_weights).mean(0),
        )

    @torch.no_grad()
    def on_step(self, step: int, steps: int) -> list[nn.Parameter]:
        """Draw the step's heads, and those that start anew, whose parameters it gives."""
        random = generator("heads", step)
        count = len(self.heads)
        self.active = sorted(torch.randperm(count, generator=random)[: self.judging].tolist())
        anew = torch.rand(count, generator=random) < self.refresh
        reset = []
        for number, head in enumerate(self.heads):
            head.requires_grad_(number in self.active)
            if anew[number]:
                states = head.state_dict(), self.fresh(number, step).state_dict()
                for old, new in zip(*(state.values() for state in states), strict=True):
                    to_local(old).copy_(to_local(distribute_like(new, old)))
                reset += head.parameters()
        return reset
