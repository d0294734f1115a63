"""A small CLIP by open_clip: the text encoder of a suite, or what judges its captions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from open_clip import CLIP, SimpleTokenizer
from safetensors.torch import save_file
from torch import Tensor, nn

from hdbench.core.errors import UserError
from hdbench.networks.text import names


def build(model: dict[str, Any]) -> CLIP:
    """The network of open_clip's model configuration; UserError for a wrong one."""
    try:
        return CLIP(**model)
    except Exception as error:  # whatever a wrong value in a configuration leads to
        raise UserError(
            f"text.model: not a model configuration of open_clip ({error}); give embed_dim, "
            "vision_cfg and text_cfg"
        ) from None


def tokenize(network: CLIP, prompts: Sequence[str]) -> Tensor:
    """Token ids (N, L) int64, 0 after the last; UserError for a prompt longer than L."""
    tokenizer = SimpleTokenizer(context_length=network.context_length)
    ids = tokenizer(list(prompts))
    if (full := (ids != 0).all(1).nonzero()).numel():
        longest = prompts[int(full[0])]
        if len(tokenizer.encode(longest)) + 2 > network.context_length:
            raise UserError(
                f"text.model.text_cfg.context_length = {network.context_length}: {len(full)} of "
                f"{len(prompts)} prompts are longer, such as {longest!r}; raise it"
            )
    return ids


@torch.no_grad()
def embed(network: CLIP, prompts: Sequence[str]) -> list[Tensor]:
    """Each prompt's tokens (n, d) after the text tower, float32 on the CPU."""
    rows = []
    for batch in tokenize(network, prompts).split(256):
        tokens = network.forward_intermediates(
            text=batch.to(network.logit_scale.device),
            text_indices=1,
            normalize_intermediates=True,
            intermediates_only=True,
        )["text_intermediates"][-1]
        rows += [
            row[:count]
            for row, count in zip(tokens.cpu(), (batch != 0).sum(1).tolist(), strict=True)
        ]
    return rows


def write_table(network: CLIP, prompts: Sequence[str], folder: Path) -> list[str]:
    """Write prompts and the empty one as a table for `Conditions`; its files' names."""
    tokens = embed(network, [*prompts, ""])
    save_file(
        {
            "tokens": torch.cat(tokens),
            "lengths": torch.tensor([len(row) for row in tokens]),
            "length": torch.tensor(network.context_length),
        },
        folder / names(1)[0],
    )
    return names(1)


class Captioned(nn.Module):
    """The network with its captions as token ids (M, L): what `contrastive` trains."""

    captions: Tensor

    def __init__(self, network: CLIP, prompts: Sequence[str]):
        super().__init__()
        self.network = network
        self.depth = 1
        self.register_buffer("captions", tokenize(network, prompts), persistent=False)

    def forward(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, 3, H, W), rows (B,) of captions -> unit features (B, d) of both, logits' scale."""
        return self.network(x, self.captions[rows])

    @torch.no_grad()
    def features(self, x: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
        """Unit features (N, d) float32 of images (N, 3, H, W) in [-1, 1] and their captions."""
        device = self.captions.device
        batches = [
            self(a.to(device), b.to(device))[:2]
            for a, b in zip(x.split(500), rows.split(500), strict=True)
        ]
        return tuple(torch.cat(tensors).cpu() for tensors in zip(*batches, strict=True))
