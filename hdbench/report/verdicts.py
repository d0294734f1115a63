"""From intervals to findings of tests, from these to verdicts on claims, and the reasons in words.

A claim has the level of its rules divided by the number of claims of its source.  What only all
tests together decide takes this level in each of them (an intersection-union test), what one of k
decides alone takes it divided by k: so a wrong verdict on a claim has at most its level, whichever
way it is wrong, and however often one looks.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from hdbench.report.effects import Measured, measured
from hdbench.report.rules import Claim, Margin, Rules, Values, contrast_text
from hdbench.report.sequences import half_width

VERDICTS = ("supported", "contradicted", "negligible", "undecided", "not testable here")
MOST = 10_000  # seeds that a forecast looks at
UNITS = {"chain": "chain", "stage2_seed": "stage-2 seed", "exact": "chain"}


@dataclass(frozen=True, kw_only=True)
class Levels:
    """Of a claim's tests, by direction."""

    support: float
    refute: float

    @classmethod
    def of(cls, claim: Claim, level: float) -> Levels:
        alone = level / max(1, sum(test.unit != "exact" for test in claim.tests))
        if claim.combine == "all":
            return cls(support=level, refute=alone)
        return cls(support=alone, refute=level)


def finding(
    m: Measured,
    margin: Margin | None,
    levels: Levels,
    secondary: bool = False,
    n: int | None = None,
) -> str:
    """`supported`, `contradicted`, `negligible` or `undecided` by the interval, else `not made`.

    With `n` it is the finding at so many seeds of the same moments.  A relative margin is compared
    as a contrast with its reference, seed by seed, so that the reference's own scatter is in it.
    """
    effect = m.effect
    if effect is None:
        return "not made"
    low, high = ((end, 0.0) if end is not None else None for end in m.test.ends)
    constant = share = math.nan
    if margin is not None and (margin.of is None or m.reference is not None):
        constant, share = margin.ends(secondary and margin.secondary is not None)
    if m.test.within:
        if math.isnan(constant):
            return "not made"
        low, high = (-constant, -share), (constant, share)

    def above(end: tuple[float, float], level: float) -> bool:
        return effect.side(level, end[0], n, end[1]) == 1

    def below(end: tuple[float, float], level: float) -> bool:
        return effect.side(level, end[0], n, end[1]) == -1

    if (not low or above(low, levels.support)) and (not high or below(high, levels.support)):
        return "supported"
    # a range can be left at either end
    level = levels.refute / 2 if low and high else levels.refute
    if (low and below(low, level)) or (high and above(high, level)):
        return "contradicted"
    if not (low and high) and not math.isnan(constant):
        bound, _ = low or high or (0.0, 0.0)
        if above((bound - constant, -share), levels.refute) and below(
            (bound + constant, share), levels.refute
        ):
            return "negligible"
    return "undecided"


def verdict_of(claim: Claim, findings: Sequence[str]) -> str:
    """One of VERDICTS from what the claim's tests found, by three-valued logic."""
    refuted = [word for word in findings if word in ("contradicted", "negligible")]
    made = [word for word in findings if word not in ("not made", "not judged")]
    if claim.combine == "all":
        if refuted:
            return "contradicted" if "contradicted" in refuted else "negligible"
        if not findings or len(made) < len(findings):
            return "not testable here"
        return "supported" if set(made) == {"supported"} else "undecided"
    if "supported" in made:
        return "supported"
    if not made:
        return "not testable here"
    if len(refuted) < len(findings):
        return "undecided"
    return "contradicted" if set(refuted) == {"contradicted"} else "negligible"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A claim's tests, what they found, and what follows."""

    claim: Claim
    levels: Levels
    tests: tuple[Measured, ...]
    margins: tuple[Margin | None, ...]
    mixture: float
    applies: str = ""  # why it is not judged here, or an empty text

    def findings(self, secondary: bool = False, n: int | None = None) -> list[str]:
        """By test; with `n`, at so many seeds of the same moments where that is more."""
        if self.applies:
            return ["not judged"] * len(self.tests)
        return [
            finding(m, margin, self.levels, secondary, None if n is None else max(n, m.seeds))
            for m, margin in zip(self.tests, self.margins, strict=True)
        ]

    @cached_property
    def verdict(self) -> str:
        return verdict_of(self.claim, self.findings())

    @cached_property
    def secondary(self) -> str:
        """The verdict at the narrower margins."""
        return verdict_of(self.claim, self.findings(secondary=True))

    @cached_property
    def needed(self) -> int | None:
        """Seeds that decide the claim if moments stay as they are; None: not up to MOST."""
        return fewest(lambda n: verdict_of(self.claim, self.findings(n=n)) != "undecided")

    def needed_of(self, index: int) -> int | None:
        """Seeds that decide one test if moments stay as they are, which one seed does not have."""
        m, margin = self.tests[index], self.margins[index]
        if m.seeds < 2:
            return None
        return fewest(lambda n: finding(m, margin, self.levels, n=max(n, m.seeds)) != "undecided")

    @property
    def least(self) -> int:
        """Seeds below which no interval of a mean is bounded at the claim's level."""
        level = max(self.levels.support, self.levels.refute)
        return next(n for n in range(2, MOST) if half_width(n, level, self.mixture) < math.inf)

    def reason(self) -> str:
        """Why the verdict is what it is, in a sentence or two."""
        if self.verdict == "not testable here":
            return self._not_testable()
        findings = self.findings()
        k = len(findings)
        if self.verdict == "undecided":
            text = self._undecided(findings)
        elif k == 1:
            text = f"Its test is {findings[0]}."
        elif (self.verdict == "supported") == (self.claim.combine == "all"):
            counts = Counter(findings)
            said = ", ".join(f"{count} {word}" for word, count in counts.items())
            text = f"Of {k} tests: {said}; {self.claim.combine} of them must be supported."
        else:
            deciding = findings.index(self.verdict)
            text = f"Decided by {self._named(deciding)}: {self.verdict}; {self.claim.combine} "
            text += f"of {k} tests must be supported."
        if self.secondary != self.verdict:
            text += f" At the narrower margin: {self.secondary}."
        return text

    def _not_testable(self) -> str:
        if self.applies:
            return self.applies
        lacking = dict.fromkeys(n.partition("@")[0] for m in self.tests for n in m.lacking)
        if lacking:
            return f"No numbers of {', '.join(lacking)}."
        problems = dict.fromkeys(m.problem for m in self.tests if m.problem)
        if problems:
            return f"Not computed: {'; '.join(problems)}."
        return "The arm that a margin is a share of has no numbers."

    def _undecided(self, findings: list[str]) -> str:
        pending = [i for i, word in enumerate(findings) if word == "undecided"]
        m = self.tests[pending[0]]
        k = len(findings)
        of_all = len(pending) == k
        count = f"{len(pending)} of {k}" if not of_all else "both" if k == 2 else f"all {k}"
        tests = "its test" if k == 1 else f"{count} tests"
        verb = "is" if len(pending) == 1 else "are"
        text = f"At {plural(m.seeds, UNITS[m.test.unit])} {tests} {verb} undecided"
        if not of_all:
            text += f" ({', '.join(map(self._named, pending))})"
        if lacking := [i for i, word in enumerate(findings) if word == "not made"]:
            text += f", {len(lacking)} not computed ({', '.join(map(self._named, lacking))})"
        if m.seeds < self.least:
            text += f", since an interval takes at least {self.least}"
        if m.seeds < 2:
            return f"{text}; one says nothing of another training run."
        if self.needed is None:
            return f"{text}; at these means and scatters not even {MOST:,} would decide."
        return f"{text}; at these means and scatters about {self.needed} would decide."

    def _named(self, index: int) -> str:
        test = self.tests[index].test
        return f"{contrast_text(test)} in {test.metric}"


def fewest(decided: Callable[[int], bool]) -> int | None:
    """The smallest number up to MOST from which on, by doubling and halving, it is decided."""
    high = 2
    while high <= MOST and not decided(high):
        high *= 2
    if high > MOST and not decided(high := MOST):
        return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decided(middle) else (middle, high)
    return high


def plural(count: int, noun: str) -> str:
    return f"{'one' if count == 1 else count} {noun}{'s' * (count != 1)}"


def judge_claim(
    claim: Claim, rules: Rules, source: Values, family: int, applies: str = ""
) -> Judgement:
    """The claim by the values of its source, which has `family` claims to divide the level by."""
    margins = tuple(rules.margin(test) for test in claim.tests)
    return Judgement(
        claim=claim,
        levels=Levels.of(claim, rules.level / max(1, family)),
        tests=tuple(
            measured(source, test, margin, rules.mixture)
            for test, margin in zip(claim.tests, margins, strict=True)
        ),
        margins=margins,
        mixture=rules.mixture,
        applies=applies,
    )
