"""FLOPs of one forward, counted by PyTorch on the meta device."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hdbench.networks.config import SanaConfig, TransformerConfig
from hdbench.networks.reuse import Reuse, reusing


@dataclass(frozen=True)
class Unencoded:
    """Prompts without content: what counting needs of `networks.text.Conditions`."""

    length: int
    width: int

    def __getitem__(self, c: Tensor) -> tuple[Tensor, Tensor]:
        mask = torch.ones(len(c), self.length, dtype=torch.bool)
        return torch.empty(*mask.shape, self.width), mask


@functools.cache
def forward_flops(
    config: TransformerConfig | SanaConfig,
    image_size: int,
    channels: int,
    classes: int,
    mean_velocity: bool,
    prompt_length: int = 0,
    reuse: Reuse | None = None,
) -> int:
    """FLOPs of one forward of one image: 2 for each multiplication and addition of a product.

    With `reuse`, of a forward between key evaluations: without the blocks that are reused.
    """
    conditions = (
        Unencoded(prompt_length, config.caption_width) if isinstance(config, SanaConfig) else None
    )
    with torch.device("meta"):
        network = config.build(
            image_size=image_size,
            channels=channels,
            classes=classes,
            mean_velocity=mean_velocity,
            conditions=conditions,
        )
        z = torch.empty(1, channels, image_size, image_size)
        t = torch.empty(1)
        c = torch.empty(1, dtype=torch.int64)
        if reuse:
            reusing(network, reuse, [True, False])
            network(z, t, t, c)
        with FlopCounterMode(display=False) as counter:
            network(z, t, t, c)
    return counter.get_total_flops()
