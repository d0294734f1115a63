"""Settings of the data set `images`: which files, how they are cropped, and what encodes them."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from hdbench.core.config import OutsidePath
from hdbench.datasets.base import Dataset
from hdbench.networks.autoencoders import AutoencoderConfig


class ImageCollection(Dataset):
    """Images of a folder or of tar shards; `image_size` and `channels` are those of the latents."""

    title: ClassVar[str] = "a real collection, encoded once into a cache of latents"
    stored: ClassVar[Literal["memory", "latents"]] = "latents"

    name: Literal["images"] = "images"
    source: OutsidePath = Field(description="a folder, or a glob of .tar files")
    resolution: int = Field(ge=1, description="side of the crop, see `center_crop`")
    classes: int | None = Field(default=None, ge=1, description="class folders; without text alone")
    flips: bool = True
    autoencoder: AutoencoderConfig
    corrupt_allowed: int = Field(
        default=0,
        ge=0,
        exclude=True,  # not in the digest: raising it resumes from the existing cache
        description="so many broken images are skipped; a cut tar counts as one",
    )
    images_per_shard: int = Field(default=4096, ge=1)
    dtype: Literal["float16", "bfloat16", "float32"] = Field(
        default="float32", description="of the cache; it is made in float32"
    )
    text: bool = False
    seed: int = Field(default=0, ge=0, description="of the autoencoder's noise")

    @model_validator(mode="after")
    def _latents_tile_the_crop(self):
        if self.resolution % self.autoencoder.factor:
            raise ValueError(
                f"resolution = {self.resolution}: must be a multiple of the autoencoder's factor, "
                f"{self.autoencoder.factor}"
            )
        return self

    @model_validator(mode="after")
    def _classes_or_text(self):
        if self.text == bool(self.classes):
            raise ValueError("give classes, or text: true; its labels are prompts")
        return self

    @property
    def image_size(self) -> int:
        """Side of the latents."""
        return self.resolution // self.autoencoder.factor

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return self.autoencoder.channels

    @property
    def label_kind(self) -> Literal["class", "caption", "prompt"]:
        return "prompt" if self.text else "class"
