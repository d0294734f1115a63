"""Data sets: one file each, with a `Configuration` (its sizes as properties) and `build(configuration) -> Splits`.

One too large for memory has `encode` and `open_latents` instead, see images.py.
"""

from __future__ import annotations

from hdbench.datasets import canvas, captions, digits, textured_digits
from hdbench.datasets import latents as images

DATASETS = {
    "digits": digits,
    "textured_digits": textured_digits,
    "canvas": canvas,
    "captions": captions,
    "images": images,
}


def attributes(name: str, classes: int) -> tuple[int, ...]:
    """Numbers of classes of what images of this data set show: its `ATTRIBUTES`, or one, their class."""
    return getattr(DATASETS[name], "ATTRIBUTES", (classes,))
