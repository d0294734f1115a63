"""What an extractor is: one network under one preprocessing, giving some of its layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from hdbench.core.errors import reason
from hdbench.evaluation.weights import Weights

BICUBIC = 3  # Pillow's Image.Resampling.BICUBIC
Layout = Literal["library", "channels-last"]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How extractors are set up; `resolution` is the protocol's, for those that resize to one."""

    device: torch.device
    layout: Layout = "library"
    resolution: int | None = None


class Extractor(ABC):
    """One network under one preprocessing; a pass decodes each image once for all extractors.

    A subclass sets the class variables and defines `load` and `__call__`, and `prepare` where that
    does more than move the channels; it runs on the CPU, in several threads.  A layer called "text"
    makes the protocol ask for a prompt for each image.
    """

    name: ClassVar[str]
    network: ClassVar[str]  # role of its weights, a key of `weights.PUBLIC`
    relatives: ClassVar[tuple[str, ...]] = ()  # networks from whose weights its own were trained
    title: ClassVar[str]  # of the network, for tables
    preprocessing: ClassVar[str]  # for tables: "bicubic to 224, ImageNet's mean"
    dimensions: ClassVar[Mapping[str, int]]  # of each layer's features; the main layer first
    statistics: ClassVar[Mapping[str, tuple[str, str]]] = {}  # layer -> names in an npz
    marks: ClassVar[tuple[str, ...]] = ()  # arrays beside its statistics in files of its evaluator
    packages: ClassVar[tuple[str, ...]] = ()  # whose versions decide the features
    crops: ClassVar[bool] = False  # brings images of any size to a square of one
    layout: ClassVar[bool] = False  # whether --layout concerns it
    loading: ClassVar[str] = ""  # extractors of one loading share what `load` returns

    def __init__(self, loaded: Any, weights: Weights, layers: tuple[str, ...], setup: Setup):
        self.loaded = loaded
        self.weights = weights
        self.layers = layers
        self.setup = setup

    def with_layers(self, layers: tuple[str, ...]) -> Extractor:
        """The same extractor, giving these layers."""
        return type(self)(self.loaded, self.weights, layers, self.setup)

    @classmethod
    @abstractmethod
    def load(cls, weights: Weights, setup: Setup) -> Any:
        """The network on its device; UserError where the weights are not its own."""

    def description(self) -> dict[str, Any]:
        """Everything that decides the features but the images; part of the caches' keys."""
        return {
            "network": self.network,
            "extractor": self.name,
            "weights": self.weights.sha256,
            "layers": list(self.layers),
            "device": self.setup.device.type,
            "versions": versions("torch", *self.packages),
        }

    def cut(self, texts: Sequence[str]) -> int:
        """How many of the prompts are longer than the network takes, so that their ends are cut."""
        return 0

    def prepare(self, image: np.ndarray) -> Tensor:
        """One image (H, W, C) uint8, a pair with C = 6 -> a tensor of any kind; here (C, H, W)."""
        return torch.from_numpy(image).permute(2, 0, 1)

    @abstractmethod
    def __call__(self, prepared: list[Tensor], texts: list[str] | None) -> dict[str, np.ndarray]:
        """Prepared images, and their prompts if any -> each layer's features (B, d) float32."""


def as_pillow(image: np.ndarray) -> Any:
    """Pixels (H, W, 3) uint8 as an image of Pillow."""
    from PIL import Image  # optional: Pillow

    return Image.fromarray(image)


def bicubic(image: Any, size: tuple[int, int]) -> Tensor:
    """Pillow's image resized by its bicubic filter, (3, *size) uint8."""
    resized = image.resize(size[::-1], resample=BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def to_one_size(
    resize: Callable[[Tensor], Tensor], prepared: list[Tensor], device: torch.device
) -> Tensor:
    """Prepared images (3, H, W) of any sizes as (B, 3, side, side), in one batch if they are alike.

    `resize` takes (B, 3, H, W) on the device.
    """
    alike = len({image.shape for image in prepared}) == 1
    batches = [torch.stack(prepared)] if alike else [image[None] for image in prepared]
    return torch.cat([resize(batch.to(device)) for batch in batches])


def versions(*packages: str) -> dict[str, str]:
    """Installed versions of distributions."""
    return {package: version(package) for package in packages}


def mismatch(error: RuntimeError) -> str:
    """The first thing that does not fit, of those that `load_state_dict` lists."""
    return reason(RuntimeError("\n".join(str(error).splitlines()[1:]) or str(error)))
