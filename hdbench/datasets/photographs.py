"""`photographs`: 32x32 colour crops of real photographs, class = photograph.

A crop is 32 k x 32 k pixels of the original, each k x k of them averaged, and may be mirrored along
either axis.  A photograph is cut along its height into stretches of equal height; every third is
test's, all others are train's.  Between the two lies a guard band that no crop touches, so no pixel
of the test split was seen in training, nor one beside it.  The photographs are those of
scikit-image's wheel whose content is the same everywhere (a texture, not a scene), and which third
is test's was chosen by what real crops of both have in common (mean colour, contrast, gradient), so
that the splits have nearly one law; `real_train` and `real_test` of a suite measure how nearly.

Licences, as scikit-image 0.26 states them: `brick` and `gravel` (CC0Textures), `grass` (DeviantArt,
linolafett) and `retina` (Wikimedia, M. Haggstrom) are CC0; `hubble_deep_field` (NASA) may be used
freely in the public domain; `immunohistochemistry` (CMMI) has no known copyright restrictions.
"""

from __future__ import annotations

import functools
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from pydantic import Field

from hdbench.datasets.base import Dataset, Splits

SIDE = 32
GUARD = 4  # pixels of a crop between the splits
THIRDS = 3
HEIGHT = 1.5  # of a stretch at least, in sides of a crop


class Photograph(NamedTuple):
    """A photograph of scikit-image, and how much of it a crop shows."""

    name: str  # in skimage.data
    reduction: int  # k: pixels of the original to one of a crop
    test: int  # the first stretch of the test split, 0 to 2; every third after it too
    margin: int = 0  # pixels of the original that are left out on every side


PHOTOGRAPHS = (
    Photograph("brick", 2, test=2),
    Photograph("grass", 2, test=1),
    Photograph("gravel", 2, test=0),
    Photograph("immunohistochemistry", 2, test=0),
    Photograph("hubble_deep_field", 2, test=0),
    Photograph("retina", 3, test=2, margin=255),  # the largest square in its disc
)


class Drawn(NamedTuple):
    """Where crops of one photograph lie, (N,) each."""

    top: np.ndarray
    left: np.ndarray
    upside_down: np.ndarray
    mirrored: np.ndarray


class Photographs(Dataset):
    """Crops at random places, equally many of each photograph."""

    title: ClassVar[str] = "32x32 crops of real photographs of scikit-image, class = photograph"

    name: Literal["photographs"] = "photographs"
    seed: int = Field(default=0, ge=0, description="of the crops' places; the split is fixed")
    train: int = Field(default=9000, ge=2)
    test: int = Field(default=3000, ge=2)

    image_size: int = Field(default=SIDE, ge=SIDE, le=SIDE)
    channels: int = Field(default=3, ge=3, le=3)
    classes: int = Field(default=len(PHOTOGRAPHS), ge=len(PHOTOGRAPHS), le=len(PHOTOGRAPHS))

    def build(self) -> Splits:
        splits = {}
        for split, count in self.counts.items():
            images = np.empty((count, SIDE, SIDE, 3), np.uint8)
            for label, photograph in enumerate(PHOTOGRAPHS):
                rows = range(label, count, len(PHOTOGRAPHS))
                pixels = pixels_of(photograph)
                for row, place in zip(
                    rows, zip(*self.drawn(split, label), strict=True), strict=True
                ):
                    images[row] = crop(pixels, photograph.reduction, *place)
            labels = torch.arange(count) % len(PHOTOGRAPHS)
            splits[split] = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels
        return splits

    def drawn(self, split: str, label: int) -> Drawn:
        """The crops of one photograph, in the order of the split's images."""
        photograph = PHOTOGRAPHS[label]
        n = len(range(label, self.counts[split], len(PHOTOGRAPHS)))
        height, width = pixels_of(photograph).shape[:2]
        rng = np.random.default_rng((self.seed, list(self.counts).index(split), label))
        top = rng.choice(places(height, photograph)[split], size=n)
        left = rng.integers(width - SIDE * photograph.reduction + 1, size=n)
        return Drawn(top, left, *rng.integers(2, size=(2, n)).astype(bool))

    def originals_of(self, split: str) -> np.ndarray:
        """The cell of a grid of crop-sized cells in which a crop's corner lies: crops overlap."""
        cells = np.empty(self.counts[split], np.int64)
        for label, photograph in enumerate(PHOTOGRAPHS):
            drawn = self.drawn(split, label)
            side = SIDE * photograph.reduction
            cell = 1000 * (drawn.top // side) + drawn.left // side
            cells[label :: len(PHOTOGRAPHS)] = 1_000_000 * label + cell
        return cells


@functools.cache
def pixels_of(photograph: Photograph) -> np.ndarray:
    """The photograph (H, W, 3) uint8, without its margin."""
    import skimage.data  # optional: scikit-image

    pixels = getattr(skimage.data, photograph.name)()
    inside = slice(photograph.margin, -photograph.margin or None)
    pixels = pixels[inside, inside]
    return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)


def places(height: int, photograph: Photograph) -> dict[str, np.ndarray]:
    """Top edges of the crops of each split, (M,) int64, in a photograph of this height."""
    side = SIDE * photograph.reduction
    stretches = int(height // (HEIGHT * side))
    is_test = np.arange(height) * stretches // height % THIRDS == photograph.test
    reach = np.ones(2 * GUARD * photograph.reduction + 1)
    rows = {"train": np.convolve(is_test, reach, mode="same") == 0, "test": is_test}
    return {
        split: np.flatnonzero(sliding_window_view(inside, side).all(axis=1))
        for split, inside in rows.items()
    }


def crop(
    pixels: np.ndarray, reduction: int, top: int, left: int, upside_down: bool, mirrored: bool
) -> np.ndarray:
    """(32, 32, 3) uint8 of pixels (H, W, 3): means of k x k, rounded half up."""
    side = SIDE * reduction
    square = pixels[top : top + side, left : left + side].astype(np.int64)
    blocks = square.reshape(SIDE, reduction, SIDE, reduction, 3).sum(axis=(1, 3))
    area = reduction**2
    image = ((2 * blocks + area) // (2 * area)).astype(np.uint8)
    return image[:: -1 if upside_down else 1, :: -1 if mirrored else 1]
