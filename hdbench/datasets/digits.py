"""`digits`: scikit-learn's 1,797 real 8x8 handwritten digits of UCI, 10 classes."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from hdbench.datasets.base import Dataset, Splits
from hdbench.datasets.factors import Factor, uniform

TRAIN = 1347
TEST = 450
BATCH = 1000  # images that are compared at once


class Digits(Dataset):
    """The originals themselves, split once at random."""

    title: ClassVar[str] = (
        "1,797 real 8x8 handwritten digits of scikit-learn (UCI Optical Recognition of Handwritten "
        "Digits), 10 classes"
    )

    name: Literal["digits"] = "digits"
    seed: int = Field(default=0, ge=0, description="of the split")

    image_size: int = Field(default=8, ge=8, le=8)
    channels: int = Field(default=1, ge=1, le=1)
    classes: int = Field(default=10, ge=10, le=10)

    @property
    def counts(self) -> dict[str, int]:
        return {"train": TRAIN, "test": TEST}

    @property
    def background(self) -> int:
        return 0

    def factors(self) -> tuple[Factor, ...]:
        return (Factor(name="digit", law=uniform(self.classes), attribute=0),)

    def read_factors(self, images: Tensor) -> dict[str, np.ndarray]:
        """The digit of the original of train that is most similar to each image."""
        ink, labels = originals(self.seed)["train"]
        return {"digit": labels[most_similar(images[:, 0].numpy(), ink)][:, None]}

    def build(self) -> Splits:
        return {
            split: (as_images(ink), torch.from_numpy(labels))
            for split, (ink, labels) in originals(self.seed).items()
        }


def originals(seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Ink (N, 8, 8) float in [0, 1] and labels (N,), split once at random into 1,347 and 450."""
    from sklearn.datasets import load_digits  # optional: scikit-learn

    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    ink = digits.images[order] / 16.0
    labels = digits.target[order].astype(np.int64)
    return {"train": (ink[:TRAIN], labels[:TRAIN]), "test": (ink[TRAIN:], labels[TRAIN:])}


def as_images(ink: np.ndarray) -> Tensor:
    """Ink (N, 8, 8) in [0, 1] -> images (N, 1, 8, 8) uint8."""
    return torch.from_numpy(np.rint(ink * 255).astype(np.uint8)).unsqueeze(1)


def most_similar(images: np.ndarray, templates: np.ndarray) -> np.ndarray:
    """For images (N, H, W) the rows (N,) of the templates (M, H, W) with the largest cosine."""

    def unit(x: np.ndarray) -> np.ndarray:
        vectors = x.reshape(len(x), -1).astype(np.float32)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.where(lengths > 0, lengths, 1)

    filters = unit(templates).T
    batches = range(0, len(images), BATCH)
    return np.concatenate([(unit(images[i : i + BATCH]) @ filters).argmax(1) for i in batches])
