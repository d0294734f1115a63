"""Settings of the data set `images`: which files, how they are cropped, and what encodes them."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from hdbench.core.config import OutsidePath
from hdbench.datasets.base import Dataset
from hdbench.networks.autoencoders import AutoencoderConfig


class ImageCollection(Dataset):
    """Images of a folder or of files; `image_size` and `channels` are those of the latents."""

    title: ClassVar[str] = "a real collection, encoded once into a cache of latents, or of pixels"
    stored: ClassVar[Literal["memory", "latents"]] = "latents"

    name: Literal["images"] = "images"
    source: OutsidePath = Field(
        description="a folder, or a glob of files of one kind, see `readers`"
    )
    resolution: int = Field(ge=1, description="side of the crop, see `center_crop`")
    classes: int | None = Field(default=None, ge=1, description="class folders; without text alone")
    flips: bool = True
    autoencoder: AutoencoderConfig | None = Field(description="null: networks see pixels")
    corrupt_allowed: int = Field(
        default=0,
        ge=0,
        exclude=True,  # not in the digest: raising it resumes from the existing cache
        description="so many broken images are skipped; a cut tar counts as one",
    )
    images_per_shard: int = Field(default=4096, ge=1)
    dtype: Literal["float16", "bfloat16", "float32", "uint8"] = Field(
        default="float32", description="of the cache; latents are made in float32, pixels are uint8"
    )
    text: bool = False
    seed: int = Field(default=0, ge=0, description="of the autoencoder's noise")

    @model_serializer(mode="wrap")
    def _without_unread(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Pixels are read without noise."""
        values = handler(self)
        if self.autoencoder is None:
            values.pop("seed", None)
        return values

    @model_validator(mode="after")
    def _latents_tile_the_crop(self):
        if (self.autoencoder is None) != (self.dtype == "uint8"):
            raise ValueError(
                f"dtype = {self.dtype!r}: pixels, of autoencoder: null, are uint8, and latents are "
                "not"
            )
        if self.autoencoder and self.resolution % self.autoencoder.factor:
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
        """Side of the latents or pixels."""
        return self.resolution // (self.autoencoder.factor if self.autoencoder else 1)

    @property
    def channels(self) -> int:
        """Channels of the latents or pixels."""
        return self.autoencoder.channels if self.autoencoder else 3

    @property
    def label_kind(self) -> Literal["class", "caption", "prompt"]:
        return "prompt" if self.text else "class"
