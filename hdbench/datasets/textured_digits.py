"""`textured_digits`, 16x16, **semi-synthetic**: real digits whose ink is textured.

Structure (the digit) and detail (the texture) are separable by construction, so that what a method
loses can be named.  The *original* digits are split before anything is added: no shape of the test
split was seen in training.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from hdbench.datasets.base import Dataset, Splits
from hdbench.datasets.digits import originals


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

    def build(self) -> Splits:
        splits = {}
        for split, (ink, labels) in originals(self.seed).items():
            index, rng = self._drawn(split, len(ink))
            images, _ = self.textured(ink[index], rng)
            splits[split] = images, torch.from_numpy(labels[index])
        return splits

    def originals_of(self, split: str) -> np.ndarray | None:
        return self._drawn(split, len(originals(self.seed)[split][0]))[0]

    def _drawn(self, split: str, count: int) -> tuple[np.ndarray, np.random.Generator]:
        """Which of `count` originals each image is made from, with replacement; the generator."""
        rng = np.random.default_rng((self.seed, 1 + ("train", "test").index(split)))
        return rng.integers(count, size=self.counts[split]), rng

    def textured(self, ink: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Two images (N, 1, 16, 16) uint8 of each original (N, 8, 8).

        The original is enlarged to 14x14, put anywhere on 16x16, and its ink multiplied by a
        sinusoid, in the second image by one whose phase is turned by half a period.
        """
        n = len(ink)
        large = F.interpolate(torch.from_numpy(ink).unsqueeze(1), 14, mode="bilinear")
        centred = F.pad(large.squeeze(1), (1, 1, 1, 1)).numpy()
        shifts = zip(centred, rng.integers(-1, 2, (n, 2)), strict=True)
        shape = np.stack([np.roll(image, tuple(shift), (0, 1)) for image, shift in shifts])
        y, x = np.mgrid[:16, :16]
        # the two diagonals
        direction = np.where(rng.integers(2, size=n) == 0, 1.0, -1.0)[:, None, None]
        phase = rng.uniform(0, 2 * np.pi, (n, 1, 1))
        wave = np.sin(2 * np.pi * (x + direction * y) / (np.sqrt(2) * self.wavelength) + phase)
        images, turned = (
            np.rint(255 * shape * (1 - self.contrast * (0.5 - 0.5 * w))).astype(np.uint8)
            for w in (wave, -wave)
        )
        return torch.from_numpy(images).unsqueeze(1), torch.from_numpy(turned).unsqueeze(1)
