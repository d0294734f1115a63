"""What a sound run of a suite comes to, as far as anybody has said: of no stage's digest.

`hdbench status` compares.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hdbench.core.config import Config

Within = Field(0.1, gt=0, description="relative difference that is still on track")


class ExpectedMetric(Config):
    """A metric of an arm's samples; only the worse side of it is off track."""

    arm: str
    steps: int = Field(1, ge=1, description="sampling steps")
    metric: str
    value: float
    within: float = Within
    source: str = Field(description="who measured it, where")
    doubt: str = Field("", description="why the suite may not come to it")


class ExpectedCurve(Config):
    """A scalar of an arm's training at some of its steps."""

    arm: str
    stage: Literal["teacher", "trajectory", "refine"]
    scalar: str = Field(description="a column of history.csv, such as student/loss")
    points: tuple[tuple[int, float], ...] = Field(
        min_length=1, description="a step, and the mean of `window` steps that end there"
    )
    window: int = Field(500, ge=1)
    within: float = Within
    source: str
    doubt: str = ""

    @model_validator(mode="after")
    def _points_are_whole_windows(self):
        if not all(step >= self.window and value for step, value in self.points):
            raise ValueError(
                f"points = {list(self.points)}: each needs {self.window} steps before it, and "
                "a value that is not 0"
            )
        return self


class Expected(Config):
    """By kind of number."""

    metrics: tuple[ExpectedMetric, ...] = ()
    curves: tuple[ExpectedCurve, ...] = ()


Expectations = Annotated[
    Expected | None,
    Field(
        exclude_if=lambda expected: expected is None,
        description="what a sound run comes to, with sources; of no suite that extends this one",
    ),
]
