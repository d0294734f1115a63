"""Networks: the diffusion transformer and the classifier of the small tier; their sizes are configuration."""

from __future__ import annotations

from pydantic import Field, model_validator

from hdbench.config import Config


class TransformerConfig(Config):
    """Size of the transformer; `image_size`, `channels` and `classes` come from the data set when a suite is planned."""

    width: int = Field(64, ge=1, description="token width d")
    depth: int = Field(4, ge=1, description="number of blocks L")
    heads: int = Field(4, ge=1)
    patch: int = Field(4, ge=1, description="patch side in pixels (or latent cells)")
    mlp_ratio: float = Field(4.0, gt=0)
    time_scale: float = Field(1.0, gt=0, description="factor on t before the sinusoidal embedding (SiT 1, DiT 1000)")

    @model_validator(mode="after")
    def _heads_divide_width(self):
        if self.width % (2 * self.heads) or self.width % 4:
            raise ValueError(f"width {self.width} must be a multiple of 4 and of 2 * heads = {2 * self.heads}")
        return self
