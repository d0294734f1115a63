"""Changes of known size that are planted in real images, to see which metric sees which of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from hdbench.core.pixels import to_uint8
from hdbench.core.seeds import generator
from hdbench.metrics.calibration import with_gain

GAIN = 0.97
NOISE = 8  # levels
BLUR = 0.5  # pixels
WRONG = 20  # one image in so many


class Images(NamedTuple):
    """Images (N, C, H, W) uint8, the labels (N,) int64 that they should show, and their originals.

    Images of one original (N,) int64 are no independent draws.
    """

    images: Tensor
    labels: Tensor
    originals: Tensor

    def take(self, index: Tensor | slice) -> Images:
        return Images(*(array[index] for array in self))


def changes(real: Images, classes: Tensor, background: int | None) -> dict[str, Images]:
    """N real images changed in ways that every data set allows, by a name for people.

    `classes` (N,) int64 are what is dropped and confused; the gain needs a `background`.
    """
    images, labels, _ = real
    noise = NOISE * torch.randn(images.shape, generator=generator("changes", "noise"))
    blurred = gaussian_filter(images.double().numpy(), (0, 0, BLUR, BLUR), mode="nearest")
    changed = {
        f"Noise of {NOISE} levels": as_levels(images + noise),
        f"Blur of {BLUR} pixels": as_levels(torch.from_numpy(blurred)),
        "Shift by 1 pixel": F.pad(images.double(), (1, 0, 0, 0), mode="replicate")[..., :-1].byte(),
    }
    if background is not None:
        dimmed = to_uint8(with_gain(images, background, GAIN))
        changed = {f"Gain × {GAIN}": dimmed} | changed
    variants = {name: real._replace(images=x) for name, x in changed.items()}
    if len(classes.unique()) > 1:
        variants["One class missing"] = real.take(without(classes, int(classes.min())))
        variants[f"Class wrong in 1 of {WRONG}"] = real.take(confused(classes))._replace(
            labels=labels
        )
    return variants | {"Half of them, twice": real.take(torch.arange(len(labels)) // 2)}


def as_levels(x: Tensor) -> Tensor:
    """Levels in 0 to 255, any float, as uint8."""
    return x.round().clamp(0, 255).to(torch.uint8)


def without(classes: Tensor, missing: int) -> Tensor:
    """Rows (N,) in which those of one class are replaced by others, the first ones in turn."""
    rows = torch.arange(len(classes))
    gone = classes == missing
    others = rows[~gone]
    rows[gone] = others[torch.arange(int(gone.sum())) % len(others)]
    return rows


def confused(classes: Tensor) -> Tensor:
    """Rows (N,) in which one in WRONG is replaced by another of these, of another class.

    Sorted by class and turned by the size of the largest class, none meets its own if that has no
    more than half of them.
    """
    rows = torch.arange(len(classes))
    wrong = rows[::WRONG]
    ordered = wrong[classes[wrong].argsort(stable=True)]
    rows[ordered] = ordered.roll(int(classes[wrong].bincount().max()))
    return rows
