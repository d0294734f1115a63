"""The one rule by which every method is tuned: a grid of its rate and of one setting of its own.

Every method has the same number of trials, on validation chains that nothing reports: its rate
times each of `rates`, with each of the two values of its `knob`.  With several `rungs` the better
half of the trials goes on to the next share of the steps (successive halving), and the choice is
among those of all steps.  Where a best rate is the grid's least or largest, `rates` is extended,
for all methods alike.  The choices are kept in `tuned/<suite>.yaml` beside the suites' folder, and
an arm `{tuned: {suite: NAME, arm: ARM}}` of another suite is ARM with what was chosen there.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator

from hdbench.core.config import Config, nearest
from hdbench.suite.overrides import leaves

Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]


class Knob(Config):
    """The setting of a method's own that is tuned beside its rate, at two values."""

    path: str = Field(description="in the arm, such as refine.objective.t_min")
    values: tuple[Any, Any] = Field(description="one of them is the arm's")
    why: str

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(self.path.split("."))

    def problem(self, arm: dict[str, Any]) -> str:
        """Why it is no knob of an arm with all its values, or ""."""
        values = leaves(arm)
        if self.keys not in values:
            paths = [".".join(path) for path in values]
            return f"path = {self.path!r}: the arm has no such value" + nearest(self.path, paths)
        if values[self.keys] not in self.values:
            return (
                f"values = {list(self.values)}: the arm has {values[self.keys]!r}; it is one of "
                "the two"
            )
        if self.values[0] == self.values[1]:
            return f"values = {list(self.values)}: these are the same; give another"
        return ""


class Tuning(Config):
    """The trials that a suite's arms stand for; its seeds are the validation chains."""

    criterion: str = Field(
        "fd_calibrated_train", description="metric without its count; its mean over chains decides"
    )
    rates: tuple[Rate, ...] = Field(
        (0.5, 1.0, 2.0), min_length=3, description="times the rate of an arm's last stage"
    )
    rungs: tuple[Share, ...] = Field(
        (1.0,),
        min_length=1,
        description="shares of that stage's steps; half of the trials go on to the next",
    )
    knobs: dict[str, Knob] = Field(
        {}, description="by arm, of those without a recipe, or in place of its recipe's"
    )
    diverged: tuple[str, ...] = Field(
        (), description="trials that have no numbers: they count, and are never chosen"
    )

    @field_validator("rates")
    @classmethod
    def _rates_hold_the_default(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        if sorted(set(rates)) != list(rates) or 1 not in rates:
            raise ValueError("give 1 and others, each once, from the least on")
        return rates

    @field_validator("rungs")
    @classmethod
    def _rungs_end_with_all_steps(cls, rungs: tuple[float, ...]) -> tuple[float, ...]:
        if sorted(set(rungs)) != list(rungs) or rungs[-1] != 1:
            raise ValueError("give shares from the least on, the last of them 1")
        return rungs


class Trial(Config):
    """One of an arm's settings, trained for a share of the steps of its last stage."""

    arm: str
    rate: float
    value: int = Field(ge=0, le=1, description="which of the knob's")
    share: float
    settings: dict[str, Any] = Field(description="what differs from the arm's, by path")

    @property
    def label(self) -> str:
        """Which settings, whatever the share of steps."""
        return f"rate{self.rate:g}_{'ab'[self.value]}"

    @property
    def name(self) -> str:
        """The trial's own arm."""
        return f"{self.arm}_{self.label}" + f"_at{100 * self.share:g}" * (self.share < 1)


class Choice(Config):
    """What was chosen for an arm, and what it cost."""

    settings: dict[str, Any] = Field(description="what differs from the arm's, by path")
    trials: int = Field(ge=1, description="settings that were tried")
    runs: int = Field(ge=1, description="trainings on each chain, of all shares of the steps")
    forward_equivalents: float = Field(
        ge=0, description="of all trainings on all chains but those that diverged"
    )
    core_seconds: float | None = Field(None, ge=0, description="of the same, where measured")
    score: float = Field(description="mean of the criterion over the validation chains")
    interior: bool = Field(description="whether the rate is neither least nor largest of the grid")


class Choices(Config):
    """The file that `hdbench tuned` writes."""

    suite: str
    seeds: tuple[int, ...] = Field(min_length=1, description="the validation chains")
    criterion: str
    going_on: tuple[dict[str, tuple[str, ...]], ...] = Field(
        (), description="by rung from the second on, the labels of the trials that it has, by arm"
    )
    arms: dict[str, Choice] = Field({}, description="none before the last rung has run")


class Reference(Config):
    """An arm as it was tuned in a suite with `tuning`."""

    suite: str = Field(description="its name or path")
    arm: str


class TunedArm(Reference):
    """A reported arm with the settings that were chosen for another of its suite."""

    choice: Choice
