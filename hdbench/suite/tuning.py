"""The one rule by which every method is tuned: a grid of its rate and of one setting of its own.

Every method has the same number of trials, on validation chains that nothing reports: its rate
times each of `rates`, with each of the two values of its `knob`.  With several `rungs` the better
half of the trials goes on, from its own weights and optimiser's state, to the next share of the
steps (successive halving), and the choice is among those of all steps.  A trial of a share is that
much of a whole training, on the schedule of all steps.  Where a best rate is the grid's least or
largest, `rates` is extended, for all methods alike.

The choices are kept in `tuned/<suite>.yaml` beside the suites' folder, and an arm
`{tuned: {suite: NAME, arm: ARM}}` of another suite is ARM with what was chosen there.  Each choice
has a digest of what was tuned; an arm that was edited since is refused.  Arms are tuned
independently: with `arms` some are tuned first, and what is chosen for the rest is added.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator

from hdbench.core.config import Config, nearest
from hdbench.suite.overrides import leaves

Settings = dict[str, Any]  # what differs from the arm's, by path

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
    arms: tuple[str, ...] | None = Field(
        None, description="those that are tuned now; by default all that have a knob"
    )
    knobs: dict[str, Knob] = Field(
        {}, description="by arm, of those without a recipe, or in place of its recipe's"
    )
    diverged: tuple[str, ...] = Field(
        (),
        description="trials that have no numbers, since their training or a metric failed: they "
        "count with all their steps, and are never chosen",
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
    digest: str = Field(description="of what is tuned: the arm as declared, data and network")
    rate: float
    value: int = Field(ge=0, le=1, description="which of the knob's")
    share: float
    settings: Settings

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

    settings: Settings
    trials: int = Field(ge=1, description="settings that were tried, also those that diverged")
    runs: int = Field(
        ge=1, description="trainings on each chain; one that goes on from another counts anew"
    )
    forward_equivalents: float = Field(
        ge=0, description="of all trainings on all chains; of those that diverged, all their steps"
    )
    core_seconds: float | None = Field(
        None,
        ge=0,
        description="of the same, where measured; those that diverged at the pace of the others",
    )
    score: float = Field(description="mean of the criterion over the validation chains")
    interior: bool = Field(description="whether the rate is neither least nor largest of the grid")


class Tuned(Config):
    """How far the tuning of an arm has come."""

    digest: str = Field(description="of what is tuned; see `Trial`")
    going_on: tuple[dict[str, Settings], ...] = Field(
        (), description="by rung from the second on, the trials that it has, by label"
    )
    choice: Choice | None = Field(None, description="none before the last rung has run")


class Choices(Config):
    """The file that `hdbench tuned` writes."""

    suite: str
    seeds: tuple[int, ...] = Field(min_length=1, description="the validation chains")
    criterion: str
    rates: tuple[Rate, ...]
    rungs: tuple[Share, ...]
    arms: dict[str, Tuned] = Field(min_length=1)

    def is_by(self, tuning: Tuning, seeds: tuple[int, ...]) -> bool:
        """Whether they were made by this rule on these chains, so that further arms are added."""
        rule = (tuple(seeds), tuning.criterion, tuning.rates, tuning.rungs)
        return (self.seeds, self.criterion, self.rates, self.rungs) == rule


class Reference(Config):
    """An arm as it was tuned in a suite with `tuning`."""

    suite: str = Field(description="its name or path")
    arm: str


class TunedArm(Reference):
    """A reported arm with the settings that were chosen for another of its suite."""

    choice: Choice
    entry: dict[str, Any] = Field(exclude=True, description="its entry without what was chosen")
