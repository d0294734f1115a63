"""Effects of tests: estimates with confidence sequences, from one value a seed of each arm."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from hdbench.report.rules import Hypothesis, Margin, Unit, Values
from hdbench.report.sequences import mean_interval, spread_interval


@dataclass(frozen=True, kw_only=True)
class Effect(ABC):
    """An effect of n seeds, on a log scale where it is a ratio or a spread."""

    n: int
    mixture: float

    @property
    @abstractmethod
    def estimate(self) -> float:
        """Its value at these seeds."""

    @abstractmethod
    def interval(
        self, level: float, n: int | None = None, share: float = 0.0
    ) -> tuple[float, float]:
        """Its confidence sequence at n seeds of the same moments, of these where n is not given.

        `share` times the reference of relative margins is subtracted, seed by seed.
        """

    def side(self, level: float, bound: float, n: int | None = None, share: float = 0.0) -> int:
        """-1 where the interval is entirely below bound + share x reference, 1 above it, else 0."""
        low, high = self.interval(level, n, share)
        return int(low > bound) - int(high < bound)


@dataclass(frozen=True, kw_only=True)
class Mean(Effect):
    """The mean of a linear contrast, by seed, or of the logarithm of a product of powers."""

    values: np.ndarray
    reference: np.ndarray | None = None

    @property
    def estimate(self) -> float:
        return float(self.values.mean())

    def interval(
        self, level: float, n: int | None = None, share: float = 0.0
    ) -> tuple[float, float]:
        values = self.values
        if share:
            assert self.reference is not None
            values = values - share * self.reference
        return mean_interval(values, level, self.mixture, n)


@dataclass(frozen=True, kw_only=True)
class Deviation(Effect):
    """|mean log a| - |mean log b|: how much farther a is from 1 than b, on a log scale.

    Of d = mean log b - mean log a and s = mean log b + mean log a it is -sign(d s) min(|d|, |s|):
    piecewise linear and monotone in either, so its range over a box is that over the corners.  The
    box of their two sequences, at half the level each, holds both at once.  Nothing folds: where
    both logarithms have one sign the effect is the contrast -d or d.
    """

    a: np.ndarray
    b: np.ndarray

    @property
    def estimate(self) -> float:
        return abs(float(self.a.mean())) - abs(float(self.b.mean()))

    def interval(
        self, level: float, n: int | None = None, share: float = 0.0
    ) -> tuple[float, float]:
        sides = (self.b - self.a, self.b + self.a)
        box = [mean_interval(x, level / 2, self.mixture, n) for x in sides]
        if not all(math.isfinite(end) for interval in box for end in interval):
            return -math.inf, math.inf
        corners = [-np.sign(d * s) * min(abs(d), abs(s)) for d, s in product(*box)]
        return float(min(corners)), float(max(corners))


@dataclass(frozen=True, kw_only=True)
class Spread(Effect):
    """The logarithm of the ratio of the standard deviations of two arms, paired over seeds."""

    a: np.ndarray
    b: np.ndarray

    @property
    def estimate(self) -> float:
        if self.n < 2:
            return math.nan
        return math.log(float(np.std(self.a, ddof=1) / np.std(self.b, ddof=1)))

    def interval(
        self, level: float, n: int | None = None, share: float = 0.0
    ) -> tuple[float, float]:
        low, high = spread_interval(self.a, self.b, level, n)
        return (math.log(low) if low else -math.inf), math.log(high)


@dataclass(frozen=True, kw_only=True)
class Exact(Effect):
    """A count, which is the same in every chain."""

    value: float
    reference: float | None = None

    @property
    def estimate(self) -> float:
        return self.value

    def interval(
        self, level: float, n: int | None = None, share: float = 0.0
    ) -> tuple[float, float]:
        value = self.value
        if share:
            assert self.reference is not None
            value -= share * self.reference
        return value, value


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a test has: its effect, or why it has none."""

    test: Hypothesis
    effect: Effect | None = None
    seeds: int = 0
    reference: np.ndarray | None = None  # of relative margins; None: not needed or not there
    lacking: tuple[str, ...] = ()  # arms without numbers
    problem: str = ""


def measured(source: Values, test: Hypothesis, margin: Margin | None, mixture: float) -> Measured:
    """The effect on the seeds that all of its arms have."""
    columns = {name: source(name, test.metric, test.unit) for name in test.arms}
    if lacking := tuple(name for name, series in columns.items() if series is None):
        return Measured(test=test, lacking=lacking)
    series = dict(columns)
    if margin is not None and margin.of is not None:
        series[f"margin {margin.of}"] = source(margin.of, test.metric, test.unit)
    there = {name: values for name, values in series.items() if values is not None}
    values = chosen(pd.concat(there, axis=1, join="inner"), test)
    n = len(values)
    if not n:
        return Measured(test=test, problem=_without(test.unit))
    x = values[list(test.arms)].to_numpy(float)
    reference = values[list(there)[-1]].to_numpy(float) if len(there) > len(test.arms) else None
    if problem := _problem(test, x, reference):
        return Measured(test=test, seeds=n, problem=problem)
    common = {"n": n, "mixture": mixture}
    effect = effect_of(test, x, reference, common)
    return Measured(test=test, effect=effect, seeds=n, reference=reference)


def effect_of(
    test: Hypothesis, x: np.ndarray, reference: np.ndarray | None, common: dict
) -> Effect:
    """The effect of values (N, arms), which are valid for the test."""
    coefficients = np.array(list(test.arms.values()))
    if test.effect in ("spread", "deviation"):
        a, b = (x[:, i] for i in np.argsort(-coefficients))
        if test.effect == "spread":
            return Spread(a=a, b=b, **common)
        return Deviation(a=np.log(a), b=np.log(b), **common)
    contrast = (np.log(x) if test.effect == "ratio" else x) @ coefficients
    if test.unit == "exact":
        of = None if reference is None else float(reference[0])
        return Exact(value=float(contrast[0]), reference=of, **common)
    return Mean(values=contrast, reference=reference, **common)


def chosen(values: pd.DataFrame, test: Hypothesis) -> pd.DataFrame:
    """Of values by (chain, stage-2 seed) those of one chain, the test's or the first.

    Which one is the suite's choice, not that of what has run: a second teacher does not step in.
    """
    if test.unit != "stage2_seed" or values.empty:
        return values
    chain = values.index[0][0] if test.teacher is None else test.teacher
    return values.loc[[key[0] == chain for key in values.index]]


def _without(unit: Unit) -> str:
    if unit == "stage2_seed":
        return "the suite has no further stage-2 seeds of that teacher"
    return "no chain has numbers of all its arms"


def _problem(test: Hypothesis, x: np.ndarray, reference: np.ndarray | None) -> str:
    """Why values (N, arms) and their margin's (N,) are none for the test, or an empty text."""
    counts = x if reference is None else np.column_stack([x, reference])
    if not np.isfinite(counts).all():
        return "a number is missing or not finite"
    if test.effect in ("ratio", "deviation") and (x <= 0).any():
        return "a number is not positive, so that it has no logarithm"
    if len(x) < 2:
        return ""
    if test.unit == "exact":
        differs = np.ptp(counts, axis=0).any()
        return "a number that is declared exact differs between chains" if differs else ""
    constant = np.ptp(x, axis=0) == 0
    if constant.all() or (test.effect == "spread" and constant.any()):
        return "a number is the same for all seeds; a count is of the unit `exact`"
    return ""
