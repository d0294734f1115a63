"""What a data set is: its sizes, what its labels mean, how it is made and how it is read."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from hdbench.core.config import Config
from hdbench.core.errors import UserError
from hdbench.core.pixels import load_images, save_images, to_float
from hdbench.datasets.factors import Factor

if TYPE_CHECKING:
    from hdbench.networks.autoencoders import AutoencoderConfig

SPLITS = ("train", "test", "score")
# images (N, C, H, W) uint8 and labels (N,) int64 by split
Splits = dict[str, tuple[Tensor, Tensor]]


class Dataset(Config, ABC):
    """One data set: the class says what it is, its fields are the settings of a suite's `data`.

    A subclass has a field `name: Literal["..."]`, the sizes `image_size`, `channels` and `classes`
    as fields or properties (of what networks see: of latents for a data set that is stored as
    latents), and one of two ways to be made:

    - in memory: `build`, at least of `train` and `test`, and fields of these names or `counts`;
    - as latents: `stored = "latents"`, `encode` and `open`, and a field `autoencoder`, which may be
      None where it keeps pixels in the same way.
    """

    title: ClassVar[str]  # a line for people
    version: ClassVar[int] = 1  # raise it when the images of equal settings change: new stage ids
    stored: ClassVar[Literal["memory", "latents"]] = "memory"

    if TYPE_CHECKING:  # fields in one data set, properties in another
        name: str
        image_size: int
        channels: int
        classes: int | None
        seed: int  # of a data set that is split or drawn anew by it
        autoencoder: AutoencoderConfig | None  # of a data set that is stored as latents

    def of_chain(self, chain: int) -> Dataset:
        """The data set with a split of the originals of a chain's own: the seed given plus its.

        What is stored as latents, or has no field `seed`, is the same in all chains.
        """
        if self.stored == "latents" or "seed" not in type(self).model_fields:
            return self
        return self.model_copy(update={"seed": self.seed + chain})

    @property
    def counts(self) -> dict[str, int]:
        """Number of images by split: of the fields `train`, `test` and `score`, if any."""
        sized = [split for split in SPLITS if split in type(self).model_fields]
        return {split: getattr(self, split) for split in sized}

    @property
    def largest_sample(self) -> int:
        """The most real images for each side of a comparison: two parts of train, and test."""
        return min(self.counts["train"] // 2, self.counts["test"])

    @property
    def attributes(self) -> tuple[int, ...]:
        """Numbers of classes of what a classifier tells apart; by default the label alone."""
        return (self.classes or 0,)

    def targets(self, labels: Tensor) -> Tensor:
        """What a classifier should find for labels (N,): (N,) or (N, A) of A attributes, int64."""
        return labels

    def prompts(self) -> list[dict[str, Any]] | None:
        """For each label its "prompt", "category" and "held_out"; None where labels are classes."""
        return None

    @property
    def label_kind(self) -> Literal["class", "caption", "prompt"]:
        """What a label is: a class, a row of `prompts`, or of the prompts that `encode` found."""
        return "class" if self.prompts() is None else "caption"

    @property
    def stride(self) -> int:
        """Distance between labels of successive samples, coprime with their number."""
        return 1

    @property
    def background(self) -> int | None:
        """The level in 0 to 255 of what shows nothing; None where images have no such level."""
        return None

    def factors(self) -> tuple[Factor, ...]:
        """What is planted in the images, with its law; none by default."""
        return ()

    def read_factors(self, images: Tensor) -> dict[str, np.ndarray]:
        """Every factor's values in images (N, C, H, W) uint8, by name, without a learned network.

        (N, K) each, of the K places of an image that have one: int64 of a law, float64 of an
        amount.
        """
        return {}

    def variants(self, split: str, rows: slice) -> dict[str, Tensor]:
        """The images of these rows with a factor's law changed on purpose, by a name for people.

        (N, C, H, W) uint8 each, as `build` gives them but for the change.
        """
        return {}

    def build(self) -> Splits:
        """Every split, drawn from the data set's own seed; equal settings give equal bits."""
        raise NotImplementedError(f"{self.name} is not built in memory")

    def originals_of(self, split: str) -> np.ndarray | None:
        """Which original each image of `build` was made from, (N,) int64; None: each its own.

        Images of one original are no independent draws, so errors of real images count originals.
        """
        return None

    def encode(
        self, folder: Path, device: Any, progress: Callable[[int, int], None]
    ) -> tuple[list[str], dict[str, Any]]:
        """Make the data set in `folder`; return the names of its files, and facts for its manifest.

        By default an npz for each split of `build`.  `progress` takes images done and images in
        all, of this rank.
        """
        names = []
        for split, (images, labels) in self.build().items():
            self.check(split, images, labels)
            save_images(folder / f"{split}.npz", images, labels)
            names.append(f"{split}.npz")
        return names, {}

    def check(self, split: str, images: Tensor, labels: Tensor) -> None:
        """Raise UserError where what `build` gives is not what the sizes say."""
        n = self.counts.get(split)
        wanted = (n, self.channels, self.image_size, self.image_size)
        if n is None:
            problem = "which is not in its counts"
        elif images.dtype != torch.uint8 or tuple(images.shape) != wanted:
            problem = f"images {tuple(images.shape)} {images.dtype}, not {wanted} torch.uint8"
        elif labels.dtype != torch.int64 or tuple(labels.shape) != (n,):
            problem = f"labels {tuple(labels.shape)} {labels.dtype}, not ({n},) torch.int64"
        elif self.classes and not 0 <= int(labels.min()) <= int(labels.max()) < self.classes:
            problem = f"labels outside of 0 to {self.classes - 1}"
        else:
            return
        raise UserError(f"data set {self.name}: its build gives {split} {problem}; fix it")

    def open(self, folder: Path, split: str) -> tuple[Any, Tensor]:
        """A split that `encode` made: images (N, C, H, W) float32 in [-1, 1] or latents, labels.

        Raises UserError for missing or broken files.
        """
        images, labels = load_images(folder / f"{split}.npz")
        return to_float(images), labels


def completeness_problem(dataset: type[Dataset]) -> str:
    """What a class lacks of a data set, as the rest of a sentence; empty if it is whole."""
    there = {*dir(dataset), *dataset.model_fields}
    lacking = [name for name in ("image_size", "channels", "classes") if name not in there]
    if dataset.build is Dataset.build and dataset.encode is Dataset.encode:
        lacking.append("build")
    return f"lacks {', '.join(lacking)}" if lacking else ""
