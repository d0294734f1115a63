"""`textured_digits`, 16x16, **semi-synthetic**: real digits whose ink is textured.

Structure (the digit) and detail (the texture) are separable by construction, so that what a method
loses can be named.  The *original* digits are split before anything is added: no shape of the test
split was seen in training.
"""

from __future__ import annotations

import functools
import itertools
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from hdbench.datasets import texture
from hdbench.datasets.base import Dataset, Splits
from hdbench.datasets.digits import most_similar, originals
from hdbench.datasets.factors import Factor, uniform

SIDE = 16  # of a digit with the room for its shift
SHIFTS = tuple(itertools.product((-1, 0, 1), repeat=2))  # rows, columns
SECTORS = 8  # of the circle, in which phases are counted


class Drawn(NamedTuple):
    """What M digits are rendered from."""

    original: np.ndarray  # (M,) int64: the row of its split's originals
    ink: np.ndarray  # (M, 16, 16) in [0, 1]
    direction: np.ndarray  # (M,) 1.0 or -1.0, the two diagonals
    phase: np.ndarray  # (M, 1, 1) or (M, 16, 16), radians

    def wave(self, wavelength: float) -> np.ndarray:
        """(M, 16, 16) in [-1, 1]."""
        return np.sin(texture.angle((SIDE, SIDE), self.direction, wavelength) + self.phase)


class TexturedDigits(Dataset):
    """Original digits, enlarged, shifted and textured."""

    title: ClassVar[str] = (
        "16x16, semi-synthetic: real digit shapes whose ink carries a synthetic oriented texture, "
        "10 classes"
    )
    version: ClassVar[int] = 2  # in the first, digits filled the image and were shifted cyclically

    name: Literal["textured_digits"] = "textured_digits"
    seed: int = Field(default=0, ge=0, description="of the split and of shifts and textures")
    train: int = Field(default=8000, ge=2)
    test: int = Field(default=4000, ge=2)
    wavelength: float = Field(default=4.0, gt=2, description="of the texture, in pixels")
    contrast: float = Field(
        default=0.7,
        ge=0,
        le=1,
        description="of the texture: ink is multiplied by 1 - contrast to 1",
    )

    image_size: int = Field(default=16, ge=16, le=16)
    channels: int = Field(default=1, ge=1, le=1)
    classes: int = Field(default=10, ge=10, le=10)

    @property
    def background(self) -> int:
        return 0

    def build(self) -> Splits:
        splits = {}
        for split in self.counts:
            drawn, labels = self.drawn(split)
            wave = drawn.wave(self.wavelength)
            splits[split] = self.rendered(drawn.ink, wave), torch.from_numpy(labels)
        return splits

    def drawn(self, split: str) -> tuple[Drawn, np.ndarray]:
        """What the digits of a split are rendered from, in order, and the images' labels (N,)."""
        ink, labels, rng = self.shapes(split)
        index = rng.integers(len(ink), size=self.counts[split])  # with replacement
        return draw(ink, index, rng), labels[index]

    def originals_of(self, split: str) -> np.ndarray | None:
        return self.drawn(split)[0].original

    def shapes(self, split: str) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
        """Ink (M, 8, 8) and labels (M,) of the split's originals, and its generator."""
        by_split = originals(self.seed)
        rng = np.random.default_rng((self.seed, 1 + list(by_split).index(split)))
        return *by_split[split], rng

    def rendered(self, ink: np.ndarray, wave: np.ndarray, contrast: float | None = None) -> Tensor:
        """Images (N, C, H, W) uint8 of digits' ink (M, 16, 16) in [0, 1] and waves in [-1, 1]."""
        contrast = self.contrast if contrast is None else contrast
        digits = np.rint(255 * ink * (1 - contrast * (0.5 - 0.5 * wave))).astype(np.uint8)
        return self.assembled(torch.from_numpy(digits).unsqueeze(1))

    def assembled(self, digits: Tensor) -> Tensor:
        """Images (N, C, H, W) of their digits (M, 1, 16, 16)."""
        return digits

    def taken_apart(self, images: Tensor) -> Tensor:
        """The digits (M, 1, 16, 16) of images (N, C, H, W): `assembled` undone."""
        return images

    def factors(self) -> tuple[Factor, ...]:
        digit = Factor(name="digit", law=uniform(self.classes), attribute=0)
        shift = Factor(name="shift", law=uniform(len(SHIFTS)))
        if not self.contrast:
            return digit, shift
        return (
            digit,
            shift,
            Factor(name="orientation", law=uniform(2)),
            Factor(name="phase", law=uniform(SECTORS)),
            Factor(name="contrast", amount=self.contrast),
            Factor(name="coherence", amount=1.0),
        )

    def read_factors(self, images: Tensor) -> dict[str, np.ndarray]:
        """Values by factor: digits, rows of SHIFTS, directions, sectors of the circle, amounts.

        Digit and shift are those of the shifted original of train that is most similar to the image
        without its wave, both after a low-pass.
        """
        reading = texture.read(self.taken_apart(images)[:, 0].numpy(), self.wavelength)
        templates, digits, shifts = bank(self.seed, texture.OF_STRUCTURE * self.wavelength)
        row = most_similar(reading.structure, templates)
        values = {
            "digit": digits[row],
            "shift": shifts[row],
            "orientation": reading.direction,
            "phase": (reading.phase * (SECTORS / (2 * np.pi))).astype(np.int64) % SECTORS,
            "contrast": reading.contrast,
            "coherence": reading.coherence,
        }
        planted = [factor.name for factor in self.factors()]
        return {name: values[name].reshape(len(images), -1) for name in planted}

    def variants(self, split: str, rows: slice) -> dict[str, Tensor]:
        if not self.contrast:
            return {}
        drawn, _ = self.drawn(split)
        _, ink, direction, phase = drawn
        one = direction > 0
        turned = np.where(one & (np.cumsum(one) % 2 == 0), -1.0, direction)
        quadrant = np.arange(4).reshape(2, 2).repeat(SIDE // 2, 0).repeat(SIDE // 2, 1)
        changed = {
            "Orientation: half of one turned": drawn._replace(direction=turned),
            "Phase: half of the circle": drawn._replace(phase=phase / 2),
            "Phase: a quarter turn by quadrant": drawn._replace(phase=phase + np.pi / 2 * quadrant),
        }
        images = {
            name: self.rendered(ink, other.wave(self.wavelength)) for name, other in changed.items()
        }
        wave = drawn.wave(self.wavelength)
        images["Contrast × 0.9"] = self.rendered(ink, wave, 0.9 * self.contrast)
        return {name: of_split[rows] for name, of_split in images.items()}


def draw(ink: np.ndarray, index: np.ndarray, rng: np.random.Generator) -> Drawn:
    """Those rows (M,) of originals (L, 8, 8), put anywhere on 16x16, and waves for them."""
    m = len(index)
    placed = zip(centred(ink[index]), rng.integers(-1, 2, (m, 2)), strict=True)
    shape = np.stack([np.roll(image, tuple(shift), (0, 1)) for image, shift in placed])
    direction = np.where(rng.integers(2, size=m) == 0, 1.0, -1.0)
    return Drawn(index, shape, direction, rng.uniform(0, 2 * np.pi, (m, 1, 1)))


def centred(ink: np.ndarray) -> np.ndarray:
    """Originals (M, 8, 8) enlarged to 14x14, in the middle of 16x16."""
    large = F.interpolate(torch.from_numpy(ink).unsqueeze(1), 14, mode="bilinear")
    return F.pad(large.squeeze(1), (1, 1, 1, 1)).numpy()


@functools.cache
def bank(seed: int, width: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Originals of train at every shift after a low-pass (M, 16, 16), their digits and shifts."""
    ink, labels = originals(seed)["train"]
    shifted = np.concatenate([np.roll(centred(ink), shift, (1, 2)) for shift in SHIFTS])
    number = np.arange(len(SHIFTS)).repeat(len(labels))
    return texture.low_pass(shifted, width), np.tile(labels, len(SHIFTS)), number
