"""What the networks of every tier share: tokens that go through blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hdbench.flow.jvp import LEVEL


class TokenNetwork(nn.Module):
    """A network with a `config` (width, depth), `blocks` and `start`.

    `gradient_checkpointing` computes blocks again in the backward pass instead of keeping their
    activations, except under forward-mode AD.
    """

    config: Any
    blocks: nn.ModuleList
    gradient_checkpointing: bool

    @property
    def width(self) -> int:
        return self.config.width

    @property
    def depth(self) -> int:
        return self.config.depth

    def start(self, z: Tensor, r: Tensor, t: Tensor, c: Tensor) -> tuple[Tensor, tuple, Tensor]:
        """Tokens (B, N, d), what else a block takes, and what the output is modulated by (B, d)."""
        raise NotImplementedError

    def after(self, x: Tensor, others: tuple, blocks: Sequence[int]) -> list[Tensor]:
        """Tokens (B, N, d) after each of `blocks` (1 = first); the pass stops at the last one."""
        again = self.gradient_checkpointing and torch.is_grad_enabled() and not dual(x, *others)
        tokens = {}
        for number, block in enumerate(self.blocks[: max(blocks)], start=1):
            x = checkpoint(block, x, *others, use_reentrant=False) if again else block(x, *others)
            if number in blocks:
                tokens[number] = x
        return [tokens[number] for number in blocks]

    def features(self, z: Tensor, t: Tensor, c: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """`after`, layer-normalised, of z (B, C, H, W) at t (B,) with labels c (B,)."""
        x, others, _ = self.start(z, t, t, c)
        return normalised(self.after(x, others, blocks))


def normalised(tokens: list[Tensor]) -> list[Tensor]:
    """Each (B, N, d), layer-normalised."""
    return [F.layer_norm(x, x.shape[-1:]) for x in tokens]


def dual(*arguments: Any) -> bool:
    """Whether any of them is a tensor that carries a tangent of forward-mode AD."""
    return any(
        isinstance(x, Tensor) and forward_ad.unpack_dual(x, level=LEVEL).tangent is not None
        for x in arguments
    )


def xavier(module: nn.Module) -> None:
    """Glorot-uniform weights and zero biases, where it is a Linear; for `nn.Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
