"""`canvas`, 32x32, **semi-synthetic**: 2x2 textured digits of one class, each its own.

Four times the area of `textured_digits`, so that one local flaw is small.  The *original* digits
are split before anything.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from hdbench.datasets.textured_digits import Drawn, TexturedDigits, draw


class Canvas(TexturedDigits):
    """Four textured digits of one class on one image."""

    title: ClassVar[str] = (
        "32x32, semi-synthetic: 2x2 textured digits of one class, each with its own shape, shift "
        "and texture"
    )

    name: Literal["canvas"] = "canvas"
    image_size: int = Field(default=32, ge=32, le=32)

    def drawn(self, split: str) -> tuple[Drawn, np.ndarray]:
        """A label is drawn with the originals' frequencies, then four originals of it, uniformly
        and with replacement.
        """
        ink, labels, rng = self.shapes(split)
        n = self.counts[split]
        label = labels[rng.integers(len(labels), size=n)]
        order = np.argsort(labels, kind="stable")
        count = np.bincount(labels)
        first = (np.cumsum(count) - count)[label]  # of the label's originals in that order
        index = order[first[:, None] + rng.integers(count[label][:, None], size=(n, 4))]
        return draw(ink, index.ravel(), rng), label

    def originals_of(self, split: str) -> np.ndarray | None:
        """None: an image has four, each of which others have too, so no image is of one alone."""
        return None

    def with_turned(self) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """By split images, the same with textures' phases turned by half a period, labels (N,)."""
        splits = {}
        for split in self.counts:
            drawn, labels = self.drawn(split)
            wave = drawn.wave(self.wavelength)
            images, turned = (self.rendered(drawn.ink, w) for w in (wave, -wave))
            splits[split] = images, turned, torch.from_numpy(labels)
        return splits

    def assembled(self, digits: Tensor) -> Tensor:
        """Four digits after one another in reading order."""
        grid = digits.unflatten(0, (-1, 2, 2)).permute(0, 3, 1, 4, 2, 5)
        return grid.flatten(2, 3).flatten(3, 4).contiguous()

    def taken_apart(self, images: Tensor) -> Tensor:
        grid = images.unflatten(3, (2, -1)).unflatten(2, (2, -1)).permute(0, 2, 4, 1, 3, 5)
        return grid.flatten(0, 2).contiguous()
