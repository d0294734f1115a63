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

from hdbench.datasets.base import Splits
from hdbench.datasets.digits import originals
from hdbench.datasets.textured_digits import TexturedDigits


class Canvas(TexturedDigits):
    """Four textured digits of one class on one image."""

    title: ClassVar[str] = (
        "32x32, semi-synthetic: 2x2 textured digits of one class, each with its own shape, shift "
        "and texture"
    )

    name: Literal["canvas"] = "canvas"
    image_size: int = Field(default=32, ge=32, le=32)

    def build(self) -> Splits:
        return {
            split: (images, labels) for split, (images, _, labels) in self.with_turned().items()
        }

    def originals_of(self, split: str) -> np.ndarray | None:
        """None: an image has four, each of which others have too, so no image is of one alone."""
        return None

    def with_turned(self) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """For each split images, the same with textures' phases turned by half a period, labels.

        A label is drawn with the originals' frequencies, then four originals of it, uniformly and
        with replacement.
        """
        splits = {}
        for number, (split, (ink, labels)) in enumerate(originals(self.seed).items()):
            rng = np.random.default_rng((self.seed, 1 + number))
            n = self.counts[split]
            label = labels[rng.integers(len(labels), size=n)]
            order = np.argsort(labels, kind="stable")
            count = np.bincount(labels)
            first = (np.cumsum(count) - count)[label]  # of the label's originals in that order
            index = order[first[:, None] + rng.integers(count[label][:, None], size=(n, 4))]
            images, turned = self.textured(ink[index.ravel()], rng)
            splits[split] = as_canvases(images), as_canvases(turned), torch.from_numpy(label)
        return splits


def as_canvases(images: Tensor) -> Tensor:
    """(4N, C, H, W), four after one another in reading order -> (N, C, 2H, 2W)."""
    return (
        images.unflatten(0, (-1, 2, 2))
        .permute(0, 3, 1, 4, 2, 5)
        .flatten(2, 3)
        .flatten(3, 4)
        .contiguous()
    )
