"""A small CLIP by open_clip's own code: the text encoder of a text-to-image suite, and another one
that judges its captions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from open_clip import CLIP, SimpleTokenizer
from torch import Tensor, nn

from hdbench.core.errors import UserError
from hdbench.networks.text import names


def build(model: dict[str, Any]) -> CLIP:
    """The network of open_clip's model configuration, `embed_dim`, `vision_cfg` and `text_cfg`;
    UserError for a wrong one.
    """
    try:
        return CLIP(**model)
    except Exception as error:  # whatever a wrong value in a configuration leads to
        raise UserError(
            f"text.model: not a model configuration of open_clip ({error}); give embed_dim, "
            "vision_cfg and text_cfg"
        ) from None


def tokenize(network: CLIP, prompts: Sequence[str]) -> Tensor:
    """Token numbers (N, L) int64, 0 behind the last; UserError for a prompt longer than L."""
    tokens = SimpleTokenizer(context_length=network.context_length)
    numbers = tokens(list(prompts))
    if (full := (numbers != 0).all(1).nonzero()).numel():
        longest = prompts[int(full[0])]
        if len(tokens.encode(longest)) + 2 > network.context_length:
            raise UserError(
                f"text.model.text_cfg.context_length = {network.context_length}: {len(full)} of "
                f"{len(prompts)} prompts are longer, such as {longest!r}; raise it"
            )
    return numbers


@torch.no_grad()
def embed(network: CLIP, prompts: Sequence[str]) -> list[Tensor]:
    """Of each prompt its tokens (n, d) after the text tower, from the first to the end-of-text
    token; float32 on the CPU.
    """
    numbers = tokenize(network, prompts)
    rows = []
    for part in numbers.split(256):
        tokens = network.forward_intermediates(
            text=part.to(network.logit_scale.device),
            text_indices=1,
            normalize_intermediates=True,
            intermediates_only=True,
        )["text_intermediates"][-1]
        rows += [row[:count] for row, count in zip(tokens.cpu(), (part != 0).sum(1).tolist())]
    return rows


def write_table(network: CLIP, prompts: Sequence[str], folder: Path) -> list[str]:
    """The prompts and the empty one as a table that `hdbench.networks.text.Conditions` reads; the
    names of its files.
    """
    from safetensors.torch import save_file

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
    """The network with its captions as token numbers (M, L): what `contrastive` trains."""

    def __init__(self, network: CLIP, prompts: Sequence[str]):
        super().__init__()
        self.network, self.depth = network, 1
        self.register_buffer("captions", tokenize(network, prompts), persistent=False)

    def forward(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, 3, H, W) in [-1, 1] and rows (B,) of the captions -> unit features (B, d) of both,
        and the logits' scale.
        """
        return self.network(x, self.captions[rows])


@torch.no_grad()
def features(network: Captioned, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Unit features (N, d) float32 of images (N, 3, H, W) in [-1, 1] and of their captions, on the
    CPU.
    """
    device = network.captions.device
    parts = [network(a.to(device), b.to(device))[:2] for a, b in zip(x.split(500), rows.split(500))]
    return tuple(torch.cat(each).cpu() for each in zip(*parts))
