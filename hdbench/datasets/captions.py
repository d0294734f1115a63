"""`captions`, 16x16 RGB, **semi-synthetic**: a digit in a colour, a place, a background.

Ten categories, as MJHQ-30K has: the digits.  A share of the combinations of digit, colour, place
and background is held out: no image or caption of these is in `train`.  Every split has digits,
that is shapes, of its own: `train` teaches the text encoder and the generator, `score` the other
model of the same family that gives the CLIP score, and `test` is what samples are compared with.
Labels are rows of `prompts`: two captions of each combination.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from hdbench.datasets.base import Dataset, Splits
from hdbench.datasets.digits import most_similar, originals
from hdbench.datasets.factors import Factor, uniform

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURS = {
    "red": (230, 60, 50),
    "green": (60, 200, 80),
    "blue": (70, 110, 240),
    "yellow": (240, 220, 70),
    "pink": (240, 120, 200),
    "white": (245, 245, 245),
}
PLACES = {"top left": (0, 0), "top right": (0, 8), "bottom left": (8, 0), "bottom right": (8, 8)}
BACKGROUNDS = {
    "black": (10, 10, 10),
    "grey": (95, 95, 95),
    "brown": (90, 55, 25),
    "navy": (15, 20, 80),
}
NUMBERS = ("train", "test", "score")  # in this order splits have their generators
NAMES = ("digit", "colour", "place", "background")
WORDS = (DIGITS, tuple(COLOURS), tuple(PLACES), tuple(BACKGROUNDS))
ATTRIBUTES = (len(DIGITS), len(COLOURS), len(PLACES), len(BACKGROUNDS))
CAPTIONS = (
    "a {colour} {digit} at the {place} on {background}",
    "on a {background} ground, {place}: the digit {digit} in {colour}",
)


class Captions(Dataset):
    """Images of one digit each, and two captions of every combination of what they show."""

    title: ClassVar[str] = (
        "16x16 RGB, semi-synthetic: a real handwritten digit in a colour, at a place, on a "
        "background, and a caption"
    )

    name: Literal["captions"] = "captions"
    seed: int = Field(
        default=0,
        ge=0,
        description="of the split of the digits, of what is held out, and of the images",
    )
    train: int = Field(default=12000, ge=2)
    score: int = Field(default=12000, ge=2)
    test: int = Field(default=4000, ge=2)
    held_out: float = Field(
        default=0.2, ge=0, lt=1, description="share of the combinations that `train` does not have"
    )

    image_size: int = Field(default=16, ge=16, le=16)
    channels: int = Field(default=3, ge=3, le=3)
    classes: int = Field(
        default=len(CAPTIONS) * int(np.prod(ATTRIBUTES)), description="rows of `prompts`"
    )

    @property
    def attributes(self) -> tuple[int, ...]:
        return ATTRIBUTES

    def targets(self, labels: Tensor) -> Tensor:
        return torch.from_numpy(attributes_of(labels.numpy()))

    @property
    def stride(self) -> int:
        """How far apart the captions of successive samples are, so that few already mix everything.

        The first number from the golden section of the rows on that has no factor in common with
        their number.
        """
        golden = round(self.classes * (math.sqrt(5) - 1) / 2)
        return next(
            step for step in range(golden, self.classes) if math.gcd(step, self.classes) == 1
        )

    def hidden_combinations(self) -> np.ndarray:
        """Whether each combination is (960,): a random share, about as many for every digit."""
        combinations = int(np.prod(ATTRIBUTES))
        per_digit = combinations // len(DIGITS)
        rng = np.random.default_rng((self.seed, 1))
        count = round(self.held_out * per_digit)
        return np.concatenate([rng.permutation(per_digit) < count for _ in DIGITS])

    def prompts(self) -> list[dict[str, Any]]:
        """Every caption with its category, and whether it is held out; a label is a row."""
        hidden = self.hidden_combinations()
        rows = np.arange(self.classes)
        table = []
        for row, indices in zip(rows, attributes_of(rows), strict=True):
            digit, colour, place, background = (
                words[index] for words, index in zip(WORDS, indices, strict=True)
            )
            text = CAPTIONS[row % len(CAPTIONS)].format(
                digit=digit, colour=colour, place=place, background=background
            )
            table.append(
                {"prompt": text, "category": digit, "held_out": bool(hidden[row // len(CAPTIONS)])}
            )
        return table

    def build(self) -> Splits:
        """Images (N, 3, 16, 16) uint8 and rows of `prompts` (N,) int64, drawn uniformly."""
        splits = {}
        for split in NUMBERS:
            ink, rows, index, rng = self._drawn(split)
            images = draw(ink[index], attributes_of(rows), rng)
            splits[split] = images, torch.from_numpy(rows.astype(np.int64))
        return splits

    def originals_of(self, split: str) -> np.ndarray | None:
        return self._drawn(split)[2]

    def factors(self) -> tuple[Factor, ...]:
        return tuple(
            Factor(name=name, law=uniform(values), attribute=attribute)
            for attribute, (name, values) in enumerate(zip(NAMES, ATTRIBUTES, strict=True))
        )

    def read_factors(self, images: Tensor) -> dict[str, np.ndarray]:
        """Each attribute's number by its name, without a learned network; see `read`."""
        attributes, ink = read(images.permute(0, 2, 3, 1).numpy().astype(np.float64))
        templates, digits = self._shapes("train")
        digit = digits[most_similar(ink, templates)]
        columns = np.column_stack([digit, attributes])
        return {name: columns[:, [k]] for k, name in enumerate(NAMES)}

    def variants(self, split: str, rows: slice) -> dict[str, Tensor]:
        """Half of the images with the first colour, place or background have the second one."""
        variants = {}
        for k in range(1, len(NAMES)):  # another digit would be another original
            ink, drawn, index, rng = self._drawn(split)
            attributes = attributes_of(drawn)
            first = attributes[:, k] == 0
            attributes[first & (np.cumsum(first) % 2 == 0), k] = 1
            before, after, *_ = WORDS[k]
            name = f"{NAMES[k].capitalize()}: half of {before} is {after}"
            variants[name] = draw(ink[index], attributes, rng)[rows]
        return variants

    def _shapes(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Ink (M, 8, 8) and digits (M,) of a split's originals."""
        shapes = originals(self.seed)
        ink, digits = shapes["train"]
        half = len(digits) // 2
        halves = {"train": (ink[:half], digits[:half]), "score": (ink[half:], digits[half:])}
        return (shapes | halves)[split]

    def _drawn(self, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.random.Generator]:
        """Ink (M, 8, 8) of the split, the rows (N,) and originals (N,) drawn, and the generator."""
        ink, digits = self._shapes(split)
        rng = np.random.default_rng((self.seed, 2 + NUMBERS.index(split)))
        seen = np.flatnonzero(np.repeat(~self.hidden_combinations(), len(CAPTIONS)))
        rows = rng.choice(seen if split == "train" else self.classes, self.counts[split])
        return ink, rows, drawn_originals(digits, rows, rng), rng


def attributes_of(rows: np.ndarray) -> np.ndarray:
    """Digit, colour, place and background (N, 4) of rows (N,) of `prompts`."""
    return np.stack(np.unravel_index(rows // len(CAPTIONS), ATTRIBUTES), axis=1)


def drawn_originals(digits: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each row (N,) of `prompts` one of the `digits` (M,) that it asks for, (N,) int64."""
    choices = [np.flatnonzero(digits == digit) for digit in range(len(DIGITS))]
    return np.array([rng.choice(choices[digit]) for digit in attributes_of(rows)[:, 0]])


def draw(ink: np.ndarray, attributes: np.ndarray, rng: np.random.Generator) -> Tensor:
    """An image (N, 3, 16, 16) uint8 of ink (N, 8, 8) with each row of `attributes_of` (N, 4)."""
    images = np.empty((len(ink), 16, 16, 3))
    shown = zip(images, ink, attributes, strict=True)
    for image, shape, (_, colour, place, background) in shown:
        image[:] = list(BACKGROUNDS.values())[background]
        top, left = list(PLACES.values())[place]
        alpha = shape[..., None]
        cell = image[top : top + 8, left : left + 8]
        cell += alpha * (np.array(list(COLOURS.values())[colour]) - cell)
    images += rng.normal(0, 3, (len(ink), 1, 1, 3))  # the light differs from image to image
    return (
        torch.from_numpy(np.rint(images).clip(0, 255).astype(np.uint8))
        .permute(0, 3, 1, 2)
        .contiguous()
    )


def read(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colour, place and background (N, 3) and the ink (N, 8, 8) that images (N, 16, 16, 3) show.

    x = b + a (colour - background) in one quarter: b, the median over the image of which ink is at
    most a quarter, is nearest to the background; the quarter has the largest square of x - b; the
    colour leaves the least of it unexplained by ink a in [0, 1].
    """
    colours, backgrounds = (np.array(list(of.values()), float) for of in (COLOURS, BACKGROUNDS))
    level = np.median(images, axis=(1, 2), keepdims=True)
    background = np.square(level[:, 0] - backgrounds).sum(2).argmin(1)
    quarters = np.stack(
        [(images - level)[:, y : y + 8, x : x + 8] for y, x in PLACES.values()], axis=1
    )
    place = np.square(quarters).sum((2, 3, 4)).argmax(1)
    shown = quarters[np.arange(len(images)), place]  # (N, 8, 8, 3)
    inks, left = [], []
    for colour in colours:
        away = (colour - backgrounds[background])[:, None, None]
        ink = ((shown * away).sum(3) / np.square(away).sum(3)).clip(0, 1)
        inks.append(ink)
        left.append(np.square(shown - ink[..., None] * away).sum((1, 2, 3)))
    colour = np.argmin(left, axis=0)
    ink = np.stack(inks)[colour, np.arange(len(images))]
    return np.column_stack([colour, place, background]), ink
