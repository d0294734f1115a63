"""Classifier-free guidance (arXiv 2207.12598) in an interval of times (arXiv 2404.07724)."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator
from torch import nn

from hdbench.core.config import Config, Fraction
from hdbench.flow.path import Velocity, guided


class Guidance(Config):
    """How strongly the teacher is guided, and at which times; one object wherever it is used.

    A number in a suite means its scale.
    """

    scale: float = Field(
        default=1.0, ge=0, description="w of classifier-free guidance; 1 means none"
    )
    interval: tuple[Fraction, Fraction] = Field(
        default=(0.0, 1.0),
        strict=False,
        description="times at which guidance acts; elsewhere w = 1",
    )

    @model_validator(mode="before")
    @classmethod
    def _number_is_scale(cls, value: Any) -> Any:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return {"scale": value} if is_number else value

    @model_validator(mode="after")
    def _interval_in_order(self):
        low, high = self.interval
        if low > high:
            raise ValueError(f"interval = {[low, high]}: the first must not be above the second")
        return self

    @property
    def active(self) -> bool:
        """Whether it changes anything."""
        return self.scale != 1.0

    @property
    def evaluations(self) -> int:
        """Network evaluations of one velocity: both halves of guidance count."""
        return 2 if self.active else 1

    def of(self, network: nn.Module) -> Velocity:
        """The guided velocity (z, t, c) -> v^w of a network u(z, r, t, c)."""
        return guided(network, self.scale, self.interval)
