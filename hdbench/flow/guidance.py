"""Classifier-free guidance as one object: its scale, when it acts, and what it costs."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator
from torch import nn

from hdbench.core.config import Config
from hdbench.flow.path import Velocity, guided

Fraction = Annotated[float, Field(ge=0, le=1)]


class Guidance(Config):
    """A number in a suite means its scale."""

    scale: float = Field(1.0, ge=0, description="w of classifier-free guidance; 1 means none")
    interval: tuple[Fraction, Fraction] = Field(
        (0.0, 1.0), strict=False, description="times t in which it acts"
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
        """Whether guided and plain velocity differ."""
        return self.scale != 1.0

    @property
    def evaluations(self) -> int:
        """Network evaluations of one velocity: 2 where guidance is active, else 1."""
        return 2 if self.active else 1

    def of(self, network: nn.Module) -> Velocity:
        """The guided velocity of a network, see `hdbench.flow.path.guided`."""
        return guided(network, self.scale, self.interval)
