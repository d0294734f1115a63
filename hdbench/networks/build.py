"""A network from its configuration."""

from __future__ import annotations

from typing import Any

from torch import nn

from hdbench.networks.config import SanaConfig, TransformerConfig


def build(
    config: TransformerConfig | SanaConfig,
    *,
    image_size: int,
    channels: int,
    classes: int | None,
    mean_velocity: bool,
    conditions: Any = None,
) -> nn.Module:
    """The network of a configuration; `conditions` are the encoded prompts of SANA's."""
    sizes = {"image_size": image_size, "channels": channels, "mean_velocity": mean_velocity}
    if isinstance(config, SanaConfig):  # diffusers takes seconds to import; not everything needs it
        from hdbench.networks.sana import SanaNetwork

        return SanaNetwork(config, conditions=conditions, **sizes)
    from hdbench.networks.transformer import Transformer

    return Transformer(config, classes=classes, **sizes)
