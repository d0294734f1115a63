"""`digits`: scikit-learn's 1,797 real 8x8 handwritten digits (UCI Optical Recognition of Handwritten Digits), 10 classes."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from hdbench.core.config import Config

Splits = dict[
    str, tuple[Tensor, Tensor]
]  # "train", "test": images (N, C, H, W) uint8 and labels (N,) int64
TRAIN, TEST = 1347, 450


class Configuration(Config):
    name: Literal["digits"] = "digits"
    seed: int = Field(0, ge=0, description="of the split")

    image_size: int = Field(8, ge=8, le=8)
    channels: int = Field(1, ge=1, le=1)
    classes: int = Field(10, ge=10, le=10)

    @property
    def largest_sample(self) -> int:
        """The most real images that fit on both sides of every comparison: two disjoint parts of train, and test."""
        return min(TRAIN // 2, TEST)


def originals(seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Ink (N, 8, 8) float in [0, 1] and labels (N,), split once at random into 1,347 and 450."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    ink, labels = digits.images[order] / 16.0, digits.target[order].astype(np.int64)
    return {"train": (ink[:TRAIN], labels[:TRAIN]), "test": (ink[TRAIN:], labels[TRAIN:])}


def build(configuration: Configuration) -> Splits:
    def as_images(ink: np.ndarray) -> Tensor:
        return torch.from_numpy(np.rint(ink * 255).astype(np.uint8)).unsqueeze(1)

    splits = originals(configuration.seed).items()
    return {split: (as_images(ink), torch.from_numpy(labels)) for split, (ink, labels) in splits}
