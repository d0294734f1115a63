"""Sizes of what the networks of a suite see."""

from __future__ import annotations

from pydantic import Field

from hdbench.core.config import Config


class Shape(Config):
    """What a network of the suite must know of its data."""

    image_size: int = Field(ge=1, description="side of an image, or of its latents")
    channels: int = Field(ge=1)
    classes: int | None = Field(description="None: labels are rows of prompts")

    @property
    def dimensions(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.channels, self.image_size, self.image_size
