"""Configurations of the networks: their sizes, and what weights cannot tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Discriminator, Field, Tag, TypeAdapter

from hdbench.core.config import Config
from hdbench.networks.sizes import SanaSizes
from hdbench.networks.transformer import TransformerConfig

if TYPE_CHECKING:
    from hdbench.networks.sana import SanaNetwork

__all__ = ["NETWORK", "ClassifierConfig", "NetworkConfig", "SanaConfig", "TransformerConfig"]


class SanaConfig(SanaSizes):
    """SANA's transformer as a suite configures it."""

    def build(
        self,
        *,
        image_size: int,
        channels: int,
        classes: int | None,
        mean_velocity: bool,
        conditions: Any,
    ) -> SanaNetwork:
        """A new network of this size; labels are rows of `conditions`, the encoded prompts."""
        from hdbench.networks.sana import SanaNetwork  # optional: diffusers

        return SanaNetwork(
            self,
            image_size=image_size,
            channels=channels,
            conditions=conditions,
            mean_velocity=mean_velocity,
        )


def _kind(value: Any) -> str:
    """The tag of a generator's configuration: its `name`; the transformer's has none."""
    name = value.get("name") if isinstance(value, dict) else None
    return "sana" if isinstance(value, SanaConfig) else name or "transformer"


NetworkConfig = Annotated[
    Annotated[TransformerConfig, Tag("transformer")] | Annotated[SanaConfig, Tag("sana")],
    Discriminator(_kind),
]
NETWORK: TypeAdapter[TransformerConfig | SanaConfig] = TypeAdapter(NetworkConfig)


class ClassifierConfig(Config):
    """Size of a small convolutional network."""

    width: int = Field(default=32, ge=1, description="channels of the first convolution")
    features: int = Field(
        default=64,
        ge=2,
        description="dimensions of the penultimate layer, those of the Frechet distance",
    )
