"""Rules of claims: inequalities about contrasts of arms, with the margins of what is negligible."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import Field, model_validator

from hdbench.core.config import Config, validate
from hdbench.core.yaml_file import read_yaml

RULES = Path("workflow/claims.yaml")
EffectName = Literal["value", "difference", "ratio", "deviation", "spread"]
LOGARITHMIC: tuple[EffectName, ...] = ("ratio", "deviation", "spread")
Unit = Literal["chain", "stage2_seed", "exact"]
Source = Literal["suite", "theory", "flops"]
# (arm or arm@sampling steps, metric, unit) -> values by seed, or by (chain, stage-2 seed); None if
# without
Values = Callable[[str, str, Unit], pd.Series | None]


class Hypothesis(Config):
    """One inequality about a contrast of arms; see the head of workflow/claims.yaml."""

    effect: EffectName
    metric: str = Field(description="without its sample count")
    arms: dict[str, float] = Field(
        min_length=1, description="coefficients by arm, or by arm@sampling steps"
    )
    below: float | None = None
    above: float | None = None
    within: Literal["margin"] | None = Field(None, description="in place of bounds: no effect")
    unit: Unit = Field("chain", description="what varies: whole chains, stage 2 alone, or nothing")
    teacher: int | None = Field(
        None, description="chain whose stage-2 seeds are taken; by default the first of the suite's"
    )

    @model_validator(mode="after")
    def _bounds_fit(self):
        bounds = [bound for bound in (self.below, self.above) if bound is not None]
        if bool(bounds) == bool(self.within):
            raise ValueError("give below, above, both for a range, or within alone")
        if self.above is not None and self.below is not None and self.above >= self.below:
            raise ValueError(f"above = {self.above}: a range is from above to below, so it is less")
        if self.effect in ("ratio", "spread") and min(bounds, default=1) <= 0:
            raise ValueError(f"{self.effect}: its bounds are positive, not {min(bounds)}")
        if self.teacher is not None and self.unit != "stage2_seed":
            raise ValueError("teacher belongs to unit: stage2_seed; remove it")
        return self

    @model_validator(mode="after")
    def _arms_fit(self):
        coefficients = sorted(self.arms.values())
        if self.effect == "value" and coefficients != [1]:
            raise ValueError("arms of a value is one arm with the coefficient 1")
        if self.effect != "value" and len(self.arms) < 2:
            raise ValueError(f"arms of a {self.effect} are at least two")
        if self.effect in ("spread", "deviation") and coefficients != [-1, 1]:
            raise ValueError(f"arms of a {self.effect} have the coefficients 1 and -1")
        if self.effect == "spread" and self.unit == "exact":
            raise ValueError("a spread is over chains or stage-2 seeds: choose another unit")
        for name in self.arms:
            if not re.fullmatch(r"[^@]+(@\d+)?", name):
                raise ValueError(f"arms = {name!r}: write an arm, or arm@sampling steps")
        return self

    @property
    def ends(self) -> tuple[float | None, float | None]:
        """Lower and upper bound on the scale of the effect: logarithms of ratios and spreads."""
        scale = math.log if self.effect in ("ratio", "spread") else float
        low, high = (None if bound is None else scale(bound) for bound in (self.above, self.below))
        return low, high


class Margin(Config):
    """How small an effect is of no consequence, and why: a share, a size or a factor."""

    metrics: tuple[str, ...] = Field(min_length=1, description="names; * is any text")
    effects: tuple[EffectName, ...] = ("value", "difference")
    share: float | None = Field(None, gt=0, description="of the value of the arm `of`")
    of: str | None = None
    size: float | None = Field(None, gt=0, description="in units of the metric")
    factor: float | None = Field(None, gt=1, description="of a ratio, a spread or a deviation")
    secondary: float | None = Field(None, gt=0, description="a narrower one, shown beside it")
    reason: str

    @model_validator(mode="after")
    def _one_kind(self):
        kinds = [kind for kind in (self.share, self.size, self.factor) if kind is not None]
        if len(kinds) != 1:
            raise ValueError("give one of share, size and factor, not a mixture")
        if (self.share is None) != (self.of is None):
            raise ValueError("share and of, the arm that it is a share of, go together")
        if any((effect in LOGARITHMIC) != (self.factor is not None) for effect in self.effects):
            raise ValueError(
                "effects: a factor is of ratio, spread and deviation, a share or size of value "
                "and difference; give the others a margin of their own"
            )
        least = 1 if self.factor else 0
        if self.secondary is not None and not least < self.secondary < kinds[0]:
            raise ValueError(
                f"secondary = {self.secondary}: it is narrower than {kinds[0]} and above {least}"
            )
        return self

    def covers(self, test: Hypothesis) -> bool:
        names = (fnmatchcase(test.metric, pattern) for pattern in self.metrics)
        return test.effect in self.effects and any(names)

    def ends(self, secondary: bool = False) -> tuple[float, float]:
        """Constant on the effect's scale, and share of the mean of `of`."""
        kinds = (self.share, self.size, self.factor)
        size = self.secondary if secondary else next(kind for kind in kinds if kind is not None)
        assert size is not None
        if self.share is not None:
            return 0.0, size
        return (size if self.factor is None else math.log(size)), 0.0

    def text(self, secondary: bool = False) -> str:
        """`10% of teacher@25`, `0.04` or `a factor of 1.1`"""
        constant, share = self.ends(secondary)
        if share:
            return f"{100 * share:g}% of {self.of}"
        return f"{constant:g}" if self.factor is None else f"a factor of {math.exp(constant):g}"


class Claim(Config):
    says: str
    combine: Literal["all", "any"] = "all"
    suites: tuple[str, ...] | None = Field(
        None, description="suites that can test it; by default those with the arms"
    )
    source: Source = Field(
        "suite", description="whose metrics: the suite's, or those of `hdbench theory` or `flops`"
    )
    tests: tuple[Hypothesis, ...]

    @property
    def by_chance(self) -> bool:
        """Whether a test of it can err, so that it has a share of the level."""
        return any(test.unit != "exact" for test in self.tests)


class Rules(Config):
    level: float = Field(gt=0, lt=1, description="of all claims of a source together")
    mixture: float = Field(1.0, gt=0, description="c of the confidence sequences of means")
    margins: tuple[Margin, ...] = ()
    claims: dict[str, Claim] = Field(min_length=1)

    @model_validator(mode="after")
    def _margins_fit(self):
        for name, claim in self.claims.items():
            for number, test in enumerate(claim.tests):
                count = sum(margin.covers(test) for margin in self.margins)
                where = f"claims.{name}.tests.{number}"
                if count > 1:
                    raise ValueError(
                        f"margins = {count} of them are for the {test.effect} of {test.metric} "
                        f"({where}); a test has one, so narrow their metrics or effects"
                    )
                if test.within and not count:
                    raise ValueError(
                        f"margins = none is for the {test.effect} of {test.metric}, though {where} "
                        "asks to be within it; declare one, with its reason"
                    )
        return self

    def margin(self, test: Hypothesis) -> Margin | None:
        return next((margin for margin in self.margins if margin.covers(test)), None)


def read_rules(path: Path = RULES) -> Rules:
    return validate(Rules, read_yaml(path), str(path))


def contrast_text(test: Hypothesis) -> str:
    """`hd_awd_logit / teacher@25` or `hd - dmd`"""
    if test.effect == "value":
        return next(iter(test.arms))
    if test.effect in ("ratio", "spread") and sorted(test.arms.values()) == [-1, 1]:
        return " / ".join(sorted(test.arms, key=lambda name: -test.arms[name]))
    terms = [
        f"{'-' if k < 0 else '+'} {'' if abs(k) == 1 else f'{abs(k):g} '}{name}"
        for name, k in test.arms.items()
    ]
    return " ".join(terms).removeprefix("+ ")


def rule_text(test: Hypothesis) -> str:
    """`ratio of fd_test, hd_awd_logit / teacher@25, below 1.1`"""
    if test.within:
        bound = "within the margin"
    elif test.below is not None and test.above is not None:
        bound = f"between {test.above:g} and {test.below:g}"
    else:
        bound = f"above {test.above:g}" if test.below is None else f"below {test.below:g}"
    teacher = "one teacher" if test.teacher is None else f"teacher {test.teacher}"
    units = {"chain": "", "exact": "", "stage2_seed": f", over stage-2 seeds of {teacher}"}
    return f"{test.effect} of {test.metric}, {contrast_text(test)}, {bound}{units[test.unit]}"


def arms_of(claims: dict[str, Claim], rules: Rules, unit: Unit | None = None) -> list[str]:
    """The suite's arms that tests (of a unit) and their margins name, without steps."""
    names: list[str] = []
    for claim in claims.values():
        for test in claim.tests if claim.source == "suite" else ():
            if unit not in (None, test.unit):
                continue
            margin = rules.margin(test)
            names += [*test.arms, *([margin.of] if margin is not None and margin.of else [])]
    return list(dict.fromkeys(name.partition("@")[0] for name in names))
