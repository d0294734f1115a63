"""Rules of claims: one inequality about a contrast of arms, tested over chains."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field, model_validator
from scipy import stats

from hdbench.core.config import Config, read_yaml, validate

RULES = Path("workflow/claims.yaml")
VERDICTS = ("reproduced", "not reproduced", "reversed", "not testable here")
# (arm or arm@sampling steps, metric) -> values by seed, None if without
Values = Callable[[str, str], pd.Series | None]


class Hypothesis(Config):
    """One inequality about a contrast of arms; see the head of workflow/claims.yaml."""

    effect: Literal["value", "difference", "ratio", "deviation", "spread"]
    metric: str = Field(description="without its sample count")
    arms: dict[str, float] = Field(
        min_length=1, description="coefficients by arm, or by arm@sampling steps"
    )
    below: float | None = None
    above: float | None = None

    @model_validator(mode="after")
    def _one_bound(self):
        if (self.below is None) == (self.above is None):
            raise ValueError("give either below or above")
        if self.effect == "ratio" and self.bound <= 0:
            raise ValueError(f"{self.side} = {self.bound}: a ratio's bound is positive")
        if self.effect == "value" and list(self.arms.values()) != [1]:
            raise ValueError("arms of a value is one arm with the coefficient 1")
        if self.effect != "value" and len(self.arms) < 2:
            raise ValueError(f"arms of a {self.effect} are at least two")
        if self.effect == "spread" and sorted(self.arms.values()) != [-1, 1]:
            raise ValueError("arms of a spread have the coefficients 1 and -1")
        for name in self.arms:
            if not re.fullmatch(r"[^@]+(@\d+)?", name):
                raise ValueError(f"arms = {name!r}: write an arm, or arm@sampling steps")
        return self

    @property
    def side(self) -> Literal["below", "above"]:
        return "below" if self.above is None else "above"

    @property
    def bound(self) -> float:
        (bound,) = (bound for bound in (self.below, self.above) if bound is not None)
        return bound


class Claim(Config):
    says: str
    combine: Literal["all", "any"] = "all"
    suites: tuple[str, ...] | None = Field(
        None, description="suites that can test it; by default those with the arms"
    )
    source: Literal["suite", "theory"] = Field(
        "suite", description="whose metrics: the suite's, or those of `hdbench theory`"
    )
    tests: tuple[Hypothesis, ...]


class Rules(Config):
    level: float = Field(gt=0, lt=1)
    claims: dict[str, Claim] = Field(min_length=1)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A test's effect, its 95% interval and two-sided p against the bound; NaN: not made."""

    test: Hypothesis
    effect: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    chains: int
    lacking: tuple[str, ...] = ()  # arms without numbers

    @property
    def claimed_side(self) -> bool:
        bound = self.test.bound
        return self.effect < bound if self.test.side == "below" else self.effect > bound


def read_rules(path: Path = RULES) -> Rules:
    return validate(Rules, read_yaml(path), str(path))


def outcome(source: Values, test: Hypothesis) -> Outcome:
    """The test on the chains that all of its arms have; of one chain, the effect alone."""
    columns = {name: source(name, test.metric) for name in test.arms}
    lacking = [name for name, series in columns.items() if series is None]
    values = pd.DataFrame() if lacking else pd.concat(columns, axis=1, join="inner")
    nothing = Outcome(test=test, chains=len(values), lacking=tuple(lacking))
    if values.empty or not np.isfinite(values.to_numpy()).all():
        return nothing
    coefficients = np.array(list(test.arms.values()))
    n = len(values)
    if test.effect == "spread":
        return nothing if n < 2 else _spread(test, values)
    x = values.to_numpy()
    if test.effect not in ("value", "difference"):
        if (x <= 0).any():
            return nothing
        x = np.log(x) if test.effect == "ratio" else np.abs(np.log(x))
    x = x @ coefficients
    back = np.exp if test.effect == "ratio" else float
    bound = math.log(test.bound) if test.effect == "ratio" else test.bound
    mean = x.mean()
    if n < 2:
        return Outcome(test=test, effect=back(mean), chains=n)
    error = x.std(ddof=1) / math.sqrt(n)
    if error == 0:  # such as a count that is the same in all chains
        p = math.nan if mean == bound else 0.0
        return Outcome(test=test, effect=back(mean), low=back(mean), high=back(mean), p=p, chains=n)
    half = stats.t.ppf(0.975, n - 1) * error
    return Outcome(
        test=test,
        effect=back(mean),
        low=back(mean - half),
        high=back(mean + half),
        chains=n,
        p=float(2 * stats.t.sf(abs(mean - bound) / error, n - 1)),
    )


def _spread(test: Hypothesis, values: pd.DataFrame) -> Outcome:
    """Ratio of standard deviations over chains, by F: the two arms are taken as independent."""
    first, second = (
        values[name] for name, _ in sorted(test.arms.items(), key=lambda item: -item[1])
    )
    n = len(values)
    ratio = float(first.std(ddof=1) / second.std(ddof=1)) if second.std(ddof=1) else math.nan
    f = stats.f(n - 1, n - 1)
    tail = f.cdf((ratio / test.bound) ** 2)
    return Outcome(
        test=test,
        effect=ratio,
        low=ratio / math.sqrt(f.ppf(0.975)),
        high=ratio / math.sqrt(f.ppf(0.025)),
        p=float(2 * min(tail, 1 - tail)),
        chains=n,
    )


def holm(p: list[float]) -> list[float]:
    """Holm's step-down corrected p (Scand. J. Statist. 6, 1979); NaN stays and is not counted."""
    order = sorted((value, i) for i, value in enumerate(p) if not math.isnan(value))
    corrected = [math.nan] * len(p)
    largest = 0.0
    for rank, (value, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * value))
        corrected[i] = largest
    return corrected


def finding(o: Outcome, p: float, level: float) -> str:
    """holds, reversed, undecided, or not made, of a test and its corrected p."""
    if math.isnan(o.p):
        return "not made"
    return "undecided" if not p < level else "holds" if o.claimed_side else "reversed"


def verdict_of(claim: Claim, findings: list[str]) -> str:
    """One of VERDICTS from what the claim's tests found."""
    made = [word for word in findings if word not in ("not made", "not judged")]
    if not made or (claim.combine == "all" and len(made) < len(findings)):
        return "not testable here"
    if (all if claim.combine == "all" else any)(word == "holds" for word in made):
        return "reproduced"
    return "reversed" if "reversed" in made and "holds" not in made else "not reproduced"


def rule_text(test: Hypothesis) -> str:
    """`ratio of fd_test, hd_awd_logit / teacher@25, below 1.1`"""

    def part(coefficient: float, name: str) -> str:
        size = "" if abs(coefficient) == 1 else f"{abs(coefficient):g} "
        return f"{'-' if coefficient < 0 else '+'} {size}{name}"

    if test.effect in ("ratio", "spread") and sorted(test.arms.values()) == [-1, 1]:
        first, second = sorted(test.arms, key=lambda name: -test.arms[name])
        arms = f"{first} / {second}"
    else:
        arms = " ".join(
            part(coefficient, name) for name, coefficient in test.arms.items()
        ).removeprefix("+ ")
    if test.effect == "value":
        arms = next(iter(test.arms))
    return f"{test.effect} of {test.metric}, {arms}, {test.side} {test.bound:g}"


def sentence(
    claim: Claim, tests: list[tuple[Outcome, float, str]], applies: bool, verdict: str
) -> str:
    """Why the verdict is what it is."""
    if not applies and claim.source == "theory":
        return (
            "Its metrics are not given: `hdbench theory` makes them, and --theory names their file."
        )
    if not applies:
        return (
            f"It is about the suite {' or '.join(claim.suites)}."
            if claim.suites
            else "This suite is not made for it."
        )
    lacking = dict.fromkeys(name.partition("@")[0] for o, *_ in tests for name in o.lacking)
    if lacking and verdict == "not testable here":
        return f"No numbers of {', '.join(lacking)}."
    counts = Counter(word for *_, word in tests)
    if counts["not made"] == len(tests):
        return "A number is missing or not finite, or there are fewer than two chains."
    words = ("holds", "reversed", "undecided", "not made")
    said = ", ".join(f"{counts[word]} {word}" for word in words if counts[word])
    of = "one test" if len(tests) == 1 else f"{claim.combine} of {len(tests)} tests"
    return f"{said}; {of} must hold."


def number(o: Outcome) -> str:
    """`1.14 [1.05, 1.23]`, or `-`"""
    if math.isnan(o.effect):
        return "-"
    return f"{o.effect:.3g}" + (f" [{o.low:.3g}, {o.high:.3g}]" if o.low < o.high else "")
