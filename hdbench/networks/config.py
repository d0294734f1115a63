"""Configurations of the networks: their sizes, and what weights cannot tell."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from hdbench.core.config import Config


class TransformerConfig(Config):
    """Size of the transformer; `image_size`, `channels` and `classes` come from the data set when a suite is planned.

    Fields after `time_scale` say what weights cannot; they are left out of a dump where they have their default.
    """

    width: int = Field(64, ge=1, description="token width d")
    depth: int = Field(4, ge=1, description="number of blocks L")
    heads: int = Field(4, ge=1)
    patch: int = Field(4, ge=1, description="patch side in pixels (or latent cells)")
    mlp_ratio: float = Field(4.0, gt=0)
    time_scale: float = Field(
        1.0, gt=0, description="factor on t before the sinusoidal embedding (SiT 1, DiT 1000)"
    )
    time_features: int | None = Field(
        None,
        ge=2,
        multiple_of=2,
        exclude_if=lambda size: size is None,
        description="size of that embedding; by default min(width, 256) (SiT and DiT 256)",
    )
    position_side: int = Field(
        16,
        ge=1,
        exclude_if=lambda side: side == 16,
        description="positions run from 0 to this over any grid (SiT and DiT: the grid's own side)",
    )
    reversed_time: bool = Field(
        False,
        exclude_if=lambda reverse: not reverse,
        description="the network is given 1 - t (SiT)",
    )
    prediction: Literal["velocity", "epsilon"] = Field(
        "velocity",
        exclude_if=lambda kind: kind == "velocity",
        description="what the network gives; epsilon: the noise, at a step of DDPM in place of t (DiT)",
    )

    @model_validator(mode="after")
    def _one_notion_of_time(self):
        if self.reversed_time and self.prediction == "epsilon":
            raise ValueError(
                "reversed_time = true: a network that predicts epsilon counts DDPM's steps; leave one out"
            )
        return self

    @model_validator(mode="after")
    def _heads_divide_width(self):
        if self.width % (2 * self.heads) or self.width % 4:
            raise ValueError(
                f"width {self.width} must be a multiple of 4 and of 2 * heads = {2 * self.heads}"
            )
        return self


class SanaConfig(Config):
    """Size of SANA's transformer (arXiv 2410.10629), by default of 1.6B (0.6B: width 1152, depth 28, heads 36, cross_heads 16).

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
                f"width {self.width} must be a multiple of heads = {self.heads} and of cross_heads = "
                f"{self.cross_heads}"
            )
        return self


def typed(config: dict[str, Any]) -> TransformerConfig | SanaConfig:
    """A configuration that was dumped."""
    return SanaConfig(**config) if config.get("name") == "sana" else TransformerConfig(**config)


class ClassifierConfig(Config):
    """Size of a small convolutional network."""

    width: int = Field(32, ge=1, description="channels of the first convolution")
    features: int = Field(
        64, ge=2, description="dimensions of the penultimate layer, those of the Frechet distance"
    )
