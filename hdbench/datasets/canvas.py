"""`canvas`, 32x32, **semi-synthetic**: 2x2 textured digits of one class, each with its own shape, shift and texture.

Four times the area of `textured_digits`, so that one local flaw is small.  The *original* digits are split before anything.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from hdbench.datasets import textured_digits
from hdbench.datasets.digits import Splits, originals

VERSION = textured_digits.VERSION


class Configuration(textured_digits.Configuration):
    name: Literal["canvas"] = "canvas"
    image_size: int = Field(32, ge=32, le=32)


def build(configuration: Configuration) -> Splits:
    return {
        split: (images, labels) for split, (images, _, labels) in with_turned(configuration).items()
    }


def with_turned(configuration: Configuration) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Of each split: images (N, 1, 32, 32) uint8, the same with every texture's phase turned by half a period, and labels.

    A label is drawn with the originals' frequencies, then four originals of it, uniformly and with replacement.
    """
    splits = {}
    for number, (split, (ink, labels)) in enumerate(originals(configuration.seed).items()):
        rng = np.random.default_rng((configuration.seed, 1 + number))
        n = getattr(configuration, split)
        label = labels[rng.integers(len(labels), size=n)]
        order, count = np.argsort(labels, kind="stable"), np.bincount(labels)
        first = (np.cumsum(count) - count)[label]  # of the label's own originals in that order
        index = order[first[:, None] + rng.integers(count[label][:, None], size=(n, 4))]
        images, turned = textured_digits.textured(ink[index.ravel()], rng, configuration)
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
