"""Configurations of the networks: their sizes, and what weights cannot tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, TypeAdapter, model_validator

from hdbench.core.config import Config
from hdbench.networks.transformer import TransformerConfig

if TYPE_CHECKING:
    from hdbench.networks.sana import SanaNetwork

__all__ = ["NETWORK", "ClassifierConfig", "NetworkConfig", "SanaConfig", "TransformerConfig"]


class SanaConfig(Config):
    """Size of SANA's transformer (arXiv 2410.10629), by default of 1.6B (0.6B: width 1152, depth
    28, heads 36, cross_heads 16).

    `image_size` and `channels` come from the data set when a suite is planned.
    """

    name: Literal["sana"] = "sana"
    width: int = Field(2240, ge=1, description="token width d")
    depth: int = Field(20, ge=1, description="number of blocks L")
    heads: int = Field(70, ge=1, description="of linear self-attention")
    cross_heads: int = Field(20, ge=1, description="of softmax attention to the caption")
    patch: int = Field(1, ge=1, description="patch side in latent cells")
    mlp_ratio: float = Field(2.5, gt=0)
    caption_width: int = Field(
        2304, ge=1, description="width of the encoded prompts (Gemma-2-2B 2304)"
    )
    time_scale: float = Field(
        1000.0,
        gt=0,
        description="factor on t before its sinusoidal embedding (SANA 1000, SANA-Sprint 1)",
    )
    qk_norm: bool = Field(False, description="normalised queries and keys (SANA-1.5, SANA-Sprint)")
    guidance_input: float | None = Field(
        None, gt=0, description="guidance scale that the network is given (SANA-Sprint 4.5)"
    )

    @model_validator(mode="after")
    def _heads_divide_width(self):
        if self.width % self.heads or self.width % self.cross_heads:
            raise ValueError(
                f"width {self.width} must be a multiple of heads = {self.heads} and of cross_heads "
                f"= {self.cross_heads}"
            )
        return self

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
    return "sana" if name == "sana" or isinstance(value, SanaConfig) else name or "transformer"


NetworkConfig = Annotated[
    Annotated[TransformerConfig, Tag("transformer")] | Annotated[SanaConfig, Tag("sana")],
    Discriminator(_kind),
]
NETWORK: TypeAdapter[TransformerConfig | SanaConfig] = TypeAdapter(NetworkConfig)


class ClassifierConfig(Config):
    """Size of a small convolutional network."""

    width: int = Field(32, ge=1, description="channels of the first convolution")
    features: int = Field(
        64, ge=2, description="dimensions of the penultimate layer, those of the Frechet distance"
    )
