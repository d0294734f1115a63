"""Size of SANA's transformer, apart from the network itself, which needs diffusers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from hdbench.core.config import Config


class SanaSizes(Config):
    """Size of SANA's transformer (arXiv 2410.10629), by default of 1.6B.

    0.6B has width 1152, depth 28, heads 36, cross_heads 16.
    `image_size` and `channels` come from the data set when a suite is planned.
    """

    name: Literal["sana"] = "sana"
    width: int = Field(default=2240, ge=1, description="token width d")
    depth: int = Field(default=20, ge=1, description="number of blocks L")
    heads: int = Field(default=70, ge=1, description="of linear self-attention")
    cross_heads: int = Field(default=20, ge=1, description="of softmax attention to the caption")
    patch: int = Field(default=1, ge=1, description="patch side in latent cells")
    mlp_ratio: float = Field(default=2.5, gt=0)
    caption_width: int = Field(
        default=2304, ge=1, description="width of the encoded prompts (Gemma-2-2B 2304)"
    )
    time_scale: float = Field(
        default=1000.0,
        gt=0,
        description="factor on t before its sinusoidal embedding (SANA 1000, SANA-Sprint 1)",
    )
    qk_norm: bool = Field(
        default=False, description="normalised queries and keys (SANA-1.5, SANA-Sprint)"
    )
    guidance_input: float | None = Field(
        default=None, gt=0, description="guidance scale that the network is given (SANA-Sprint 4.5)"
    )

    @model_validator(mode="after")
    def _heads_divide_width(self):
        if self.width % self.heads or self.width % self.cross_heads:
            raise ValueError(
                f"width {self.width} must be a multiple of heads = {self.heads} and of cross_heads "
                f"= {self.cross_heads}"
            )
        return self
