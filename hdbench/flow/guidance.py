"""Classifier-free guidance (arXiv 2207.12598) in an interval of times (arXiv 2404.07724)."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field, model_validator
from torch import nn

from hdbench.core.config import Config, Fraction
from hdbench.flow.path import Velocity, guided, velocity


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

    def evaluations_at(self, t: float) -> int:
        """Network evaluations of one velocity at a time that all rows share: one where w = 1."""
        low, high = np.float32(self.interval)
        return 2 if self.active and low <= np.float32(t) <= high else 1

    def of_one_time(self, network: nn.Module) -> Velocity:
        """As `of`, of rows that share their time, in `evaluations_at` evaluations."""
        v_w, v = self.of(network), velocity(network)
        return lambda z, t, c: (v_w if self.evaluations_at(t[0].item()) == 2 else v)(z, t, c)

    def of(self, network: nn.Module) -> Velocity:
        """The guided velocity (z, t, c) -> v^w of a network u(z, r, t, c)."""
        return guided(network, self.scale, self.interval)
