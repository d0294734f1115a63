"""What a data set plants in its images on purpose, so that what a model loses can be named."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Factor:
    """A planted factor: the law of its values, or the amount that every image has of it.

    `Dataset.read_factors` reads it off images.
    """

    name: str
    law: tuple[float, ...] = ()  # probabilities of the values 0, 1, ...
    amount: float = math.nan  # of a factor without a law, over 0
    attribute: int | None = None  # which attribute of the label its value is, if any


def uniform(values: int) -> tuple[float, ...]:
    """The law of so many equally likely values."""
    return (1 / values,) * values
