"""What an item of a collection becomes: pixels, or latents of pixels, or of stored moments."""

from __future__ import annotations

import io
import math
import zipfile
from abc import ABC, abstractmethod
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from hdbench.core.errors import UserError, reason
from hdbench.core.image_files import FORMATS, READ, to_rgb
from hdbench.core.pixels import to_float
from hdbench.core.seeds import sample_noise
from hdbench.datasets.latents.config import ImageCollection
from hdbench.datasets.latents.readers.base import MOMENTS, Source
from hdbench.datasets.latents.readers.cifar import SIDE
from hdbench.networks.autoencoders import Autoencoder, scaled

LOGVAR = (-30.0, 20.0)  # to which diffusers and MAR clamp the logarithm of the variance


class Content(ABC):
    """Of one kind: how an item is read, and what a shard keeps of several."""

    def __init__(self, collection: ImageCollection):
        self.collection = collection

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, h, w) of what a shard keeps of an image."""
        side = self.collection.image_size
        return self.collection.channels, side, side

    @abstractmethod
    def load(self, item: Source) -> np.ndarray | str:
        """One item's array, or what is wrong with it."""

    @abstractmethod
    def kept(self, rows: dict[int, np.ndarray], side: str) -> Tensor:
        """Of loaded items by their number (B, C, h, w), or of mirrors if `side` is "flipped"."""

    def noise(self, rows: dict[int, np.ndarray], side: str) -> Tensor:
        """Each image's own normal noise (B, C, h, w), another for its mirror."""
        return sample_noise((self.collection.seed, "images", side), list(rows), self.shape)


class Pixels(Content):
    """The pictures themselves, cropped, in uint8."""

    def load(self, item: Source) -> np.ndarray | str:
        return load(item, self.collection.resolution)

    def kept(self, rows: dict[int, np.ndarray], side: str) -> Tensor:
        x = torch.from_numpy(np.stack(list(rows.values()))).permute(0, 3, 1, 2)
        return (x.flip(3) if side == "flipped" else x).contiguous()


class Encoded(Pixels):
    """Latents of pictures."""

    def __init__(self, collection: ImageCollection, autoencoder: Autoencoder, device: Any):
        super().__init__(collection)
        self.autoencoder = autoencoder
        self.device = device

    def kept(self, rows: dict[int, np.ndarray], side: str) -> Tensor:
        x = to_float(super().kept(rows, side)).to(self.device)
        is_drawn = self.collection.autoencoder.name == "kl"
        noise = self.noise(rows, side).to(self.device) if is_drawn else None
        return self.autoencoder.encode(x, noise)


class Moments(Content):
    """Latents that somebody encoded with the same autoencoder from crops of the same kind.

    - .npz as MAR's main_cache.py (github.com/LTH14/mar): `moments` (2 C, h, w) of the mean and the
      logarithm of the variance, `moments_flip` those of the mirror.
    - .npy as REPA's dataset_tools.py (github.com/sihyun-yu/REPA): (2 C, h, w), mean and standard
      deviation.  EDM2's, of the same form, were encoded from pixels in [0, 1], for which neither
      SiT nor DiT was trained, and nothing in the file tells.

    Neither is scaled yet.
    """

    def load(self, item: Source) -> np.ndarray | str:
        """(2 C, h, w) of the mean and the standard deviation, (2, 2 C, h, w) with the mirror's."""
        channels, height, width = self.shape
        shape = (2 * channels, height, width)
        try:
            content = io.BytesIO(item.read())
            if item.suffix == ".npy":
                return array_in(content, shape)
            with zipfile.ZipFile(content) as archive:
                names = ("moments", "moments_flip")[: 1 + self.collection.flips]
                sides = [array_in(archive.open(f"{name}.npy"), shape) for name in names]
        except OSError as error:
            raise unread(item, error) from None
        except (ValueError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError) as error:
            return reason(error)
        moments = np.stack(sides)
        logvar = moments[:, channels:].clip(*LOGVAR)
        return np.concatenate([moments[:, :channels], np.exp(0.5 * logvar)], axis=1)

    def kept(self, rows: dict[int, np.ndarray], side: str) -> Tensor:
        x = torch.from_numpy(np.stack(list(rows.values())))
        x = x if x.ndim == 4 else x[:, int(side == "flipped")]
        mean, deviation = x.chunk(2, dim=1)
        return scaled(mean + deviation * self.noise(rows, side), self.collection.autoencoder)


def content_of(
    collection: ImageCollection, items: list[Source], autoencoder: Autoencoder | None, device: Any
) -> Content:
    """What the items are, of which all are of one kind."""
    if collection.autoencoder is None:
        return Pixels(collection)
    if items and items[0].suffix in MOMENTS:
        return Moments(collection)
    return Encoded(collection, autoencoder, device)


def unread(item: Source, error: OSError) -> UserError:
    """What to say of a file that the system does not give."""
    return UserError(f"{item}: cannot be read ({error.strerror or error}); fix it or data.source")


def load(item: Source, size: int) -> np.ndarray | str:
    """The crop of an image, (size, size, 3) uint8, or what is wrong with it; or UserError."""
    try:
        content = item.read()
    except OSError as error:
        raise unread(item, error) from None
    try:
        if item.suffix == ".bin":
            planes = np.frombuffer(content, np.uint8).reshape(3, SIDE, SIDE)
            return center_crop(Image.fromarray(planes.transpose(1, 2, 0).copy()), size)
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return center_crop(Image.fromarray(to_rgb(image)), size)
    except UnidentifiedImageError:
        return f"not {READ}" if content else "empty"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return reason(error)


def center_crop(image: Image.Image, size: int) -> np.ndarray:
    """Centre crop of an RGB image, (size, size, 3) uint8, as ADM's `center_crop_arr` has it.

    Both sides are halved by Pillow's box filter while the shorter is at least 2 size, then the
    shorter is brought to size by its bicubic filter: a smaller image is enlarged.  Orientation in
    EXIF is ignored.
    """

    def resize(width: int, height: int, kind: Image.Resampling) -> Image.Image:
        """Along rows first, rounded, as Pillow before 13; later ones turn the order round."""
        return image.resize((width, image.height), kind).resize((width, height), kind)

    while min(image.size) >= 2 * size:
        image = resize(image.width // 2, image.height // 2, Image.Resampling.BOX)
    scale = size / min(image.size)
    image = resize(
        round(image.width * scale), round(image.height * scale), Image.Resampling.BICUBIC
    )
    left = (image.width - size) // 2
    top = (image.height - size) // 2
    return np.array(image)[top : top + size, left : left + size]


def array_in(stream: BinaryIO | Any, shape: tuple[int, ...]) -> np.ndarray:
    """A .npy of floats of this shape, as float32; ValueError for another, before it is read."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"a .npy of version {version}")
    read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
    stored, is_fortran, dtype = read_header(stream)
    if stored != shape or dtype.kind != "f" or is_fortran:
        raise ValueError(f"{dtype} {list(stored)}, not floats {list(shape)}")
    wanted = math.prod(shape) * dtype.itemsize
    content = stream.read(wanted)
    if len(content) < wanted:
        raise ValueError(f"ends after {len(content)} of {wanted} bytes")
    return np.frombuffer(content, dtype).reshape(shape).astype(np.float32)
