"""Verdicts on the paper's claims, computed from collected metrics by the rules of workflow/claims.yaml, never typed."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field, model_validator
from scipy import stats

from hdbench.artifact import write_atomic
from hdbench.collect import Entry, Numbers, read_metrics
from hdbench.config import Config, nearest, read_yaml, validate
from hdbench.errors import UserError
from hdbench.tables import TEX, to_page

RULES = Path("workflow/claims.yaml")
VERDICTS = ("reproduced", "not reproduced", "reversed", "not testable here")
Values = Callable[[str, str], pd.Series | None]  # (arm or arm@sampling steps, metric) -> values by seed, None if without


class Hypothesis(Config):
    """One inequality about a contrast of arms; see the head of workflow/claims.yaml."""

    effect: Literal["value", "difference", "ratio", "deviation", "spread"]
    metric: str = Field(description="without its sample count")
    arms: dict[str, float] = Field(min_length=1, description="coefficients by arm, or by arm@sampling steps")
    below: float | None = None
    above: float | None = None

    @model_validator(mode="after")
    def _one_bound(self):
        if (self.below is None) == (self.above is None):
            raise ValueError("give either below or above")
        if self.effect == "ratio" and self.bound <= 0:
            raise ValueError(f"{'below' if self.above is None else 'above'} = {self.bound}: a ratio's bound is positive")
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
    def bound(self) -> float:
        return self.below if self.above is None else self.above


class Claim(Config):
    says: str
    combine: Literal["all", "any"] = "all"
    suites: tuple[str, ...] | None = Field(None, description="suites that can test it; by default those with the arms")
    source: Literal["suite", "theory"] = Field("suite", description="whose metrics: the suite's, or those of `hdbench theory`")
    tests: tuple[Hypothesis, ...]


class Rules(Config):
    level: float = Field(gt=0, lt=1)
    claims: dict[str, Claim] = Field(min_length=1)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A test's effect with its 95% interval and two-sided p against the bound; NaN where it could not be made."""

    test: Hypothesis
    effect: float
    low: float
    high: float
    p: float
    chains: int
    lacking: tuple[str, ...] = ()  # arms without numbers

    @property
    def claimed_side(self) -> bool:
        return self.effect < self.test.bound if self.test.above is None else self.effect > self.test.bound


def read_rules(path: Path = RULES) -> Rules:
    return validate(Rules, read_yaml(path), str(path))


def find_entry(numbers: Numbers, name: str) -> Entry | None:
    """The row of `arm` (its first number of steps) or `arm@steps`; None if the suite has no such row."""
    arm, _, steps = name.partition("@")
    found = numbers.entries(arm) if arm in numbers.plan.arms else []
    return next((entry for entry in found if not steps or entry.steps == int(steps)), None)


def values_of(numbers: Numbers) -> Values:
    """Those of a suite, the metric with its sample count or without; fd_test is the distance of the suite's protocol."""
    def values(name: str, metric: str) -> pd.Series | None:
        entry, metric = find_entry(numbers, name), numbers.distance if metric == "fd_test" else metric
        found = (numbers.of(entry, m).value for m in (numbers.counted(metric), metric) if entry)
        return next((series for series in found if len(series)), None)

    return values


def theory_values(frame: pd.DataFrame) -> Values:
    """Those of `hdbench theory`, whose arms all sample in one step."""
    by_seed = {key: group.set_index("seed").value for key, group in frame.groupby(["arm", "nfe", "metric"])}

    def values(name: str, metric: str) -> pd.Series | None:
        arm, _, steps = name.partition("@")
        return by_seed.get((arm, int(steps or 1), metric))

    return values


def read_theory(path: Path, config: Path = Path("workflow/theory.yaml"), missing_is_none: bool = False) -> Values | None:
    """The values in a metrics file of `hdbench theory`; UserError for another one, or none where a missing file may be.

    Values of students of another configuration are left out.
    """
    from hdbench.theory import read_theory_config, units

    if not path.exists():
        if missing_is_none:
            return None
        raise UserError(f"{path}: does not exist; make it with `hdbench theory`")
    frame = read_metrics(path)
    if set(frame.suite) != {"theory"}:
        raise UserError(f"{path}: has no metrics of the theory alone; make it with `hdbench theory`")
    known = {(unit.arm, unit.seed, unit.digest) for unit in units(read_theory_config(config))}
    keys = zip(frame.arm, frame.seed, frame.digest)
    return theory_values(frame[[arm == "euler" or (arm, seed, digest) in known for arm, seed, digest in keys]])


def outcome(source: Values, test: Hypothesis) -> Outcome:
    """The test on the chains that all of its arms have; with fewer than two there is an effect at most."""
    columns = {name: source(name, test.metric) for name in test.arms}
    lacking = [name for name, series in columns.items() if series is None]
    values = pd.DataFrame() if lacking else pd.concat(columns, axis=1, join="inner")
    nothing = Outcome(test=test, effect=math.nan, low=math.nan, high=math.nan, p=math.nan, chains=len(values),
                      lacking=tuple(lacking))
    if values.empty or not np.isfinite(values.to_numpy()).all():
        return nothing
    coefficients, n = np.array(list(test.arms.values())), len(values)
    if test.effect == "spread":
        return nothing if n < 2 else _spread(test, values)
    x = values.to_numpy()
    if test.effect not in ("value", "difference"):
        if (x <= 0).any():
            return nothing
        x = np.log(x) if test.effect == "ratio" else np.abs(np.log(x))
    x, back, bound = x @ coefficients, (np.exp if test.effect == "ratio" else float), test.bound
    bound = math.log(bound) if test.effect == "ratio" else bound
    mean, error = x.mean(), (x.std(ddof=1) / math.sqrt(n) if n > 1 else math.nan)
    if n < 2 or error == 0:  # one chain, or a count that is the same in all: an effect without an error
        exact = n > 1 and mean != bound
        low = high = back(mean) if n > 1 else math.nan
        return Outcome(test=test, effect=back(mean), low=low, high=high, p=0.0 if exact else math.nan, chains=n)
    half = stats.t.ppf(0.975, n - 1) * error
    return Outcome(test=test, effect=back(mean), low=back(mean - half), high=back(mean + half), chains=n,
                   p=float(2 * stats.t.sf(abs(mean - bound) / error, n - 1)))


def _spread(test: Hypothesis, values: pd.DataFrame) -> Outcome:
    """Ratio of standard deviations over chains, interval and p by F; the two arms are taken as independent."""
    first, second = (values[name] for name, _ in sorted(test.arms.items(), key=lambda item: -item[1]))
    n, ratio = len(values), float(first.std(ddof=1) / second.std(ddof=1)) if second.std(ddof=1) else math.nan
    f = stats.f(n - 1, n - 1)
    tail = f.cdf((ratio / test.bound) ** 2)
    return Outcome(test=test, effect=ratio, low=ratio / math.sqrt(f.ppf(0.975)), high=ratio / math.sqrt(f.ppf(0.025)),
                   p=float(2 * min(tail, 1 - tail)), chains=n)


def holm(p: list[float]) -> list[float]:
    """Holm's step-down corrected p-values (Scand. J. Statist. 6, 1979); NaN stays NaN and counts for nothing."""
    order = sorted((value, i) for i, value in enumerate(p) if not math.isnan(value))
    corrected, largest = [math.nan] * len(p), 0.0
    for rank, (value, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * value))
        corrected[i] = largest
    return corrected


def judge(numbers: Numbers, rules: Rules, theory: Values | None = None) -> pd.DataFrame:
    """One row a test (a claim without tests has one): claim, verdict and its sentence, rule, effect, interval, p, finding.

    `theory` is where claims with this source take their values from; without it they are not testable.  Each source's tests
    are corrected for themselves, so that a finding on the theory is the same beside any suite.
    """
    sources = {"suite": values_of(numbers), "theory": theory or (lambda name, metric: None)}
    plan, given = numbers.plan, {"suite": rules.claims if numbers.plan.suite.claims is None else numbers.plan.suite.claims,
                                 "theory": rules.claims if theory else ()}
    for name in given["suite"]:
        if name not in rules.claims:
            raise UserError(f"suite {plan.name}: claims: no claim {name!r}" + nearest(name, rules.claims))
    applies = {name: name in given[claim.source] and (claim.suites is None or plan.name in claim.suites)
               for name, claim in rules.claims.items()}
    made = [(name, outcome(sources[claim.source], test)) for name, claim in rules.claims.items() for test in claim.tests]
    corrected = {source: iter(holm([o.p for name, o in made if applies[name] and rules.claims[name].source == source]))
                 for source in sources}
    tests = [(name, o, next(corrected[rules.claims[name].source]) if applies[name] else math.nan) for name, o in made]
    rows = []
    for name, claim in rules.claims.items():
        own = [(o, p, finding(o, p, rules.level) if applies[name] else "not judged") for other, o, p in tests if other == name]
        verdict = verdict_of(claim, [found for *_, found in own])
        common = {"claim": name, "verdict": verdict, "says": claim.says,
                  "sentence": sentence(claim, own, applies[name], verdict)}
        rows += [common | {"rule": rule_text(o.test), "effect": o.effect, "low": o.low, "high": o.high, "p": o.p, "p_holm": p,
                           "chains": o.chains, "found": number(o), "finding": found} for o, p, found in own] or [
            common | {"rule": "-", "found": "-", "finding": "not made"}]
    columns = {"claim": "str", "verdict": "str", "says": "str", "sentence": "str", "rule": "str", "effect": "float64",
               "low": "float64", "high": "float64", "p": "float64", "p_holm": "float64", "chains": "Int64", "found": "str",
               "finding": "str"}
    return pd.DataFrame(rows, columns=list(columns)).astype(columns)


def finding(o: Outcome, p: float, level: float) -> str:
    """holds, reversed, undecided, or not made, of a test and its corrected p."""
    if math.isnan(o.p):
        return "not made"
    return "undecided" if not p < level else "holds" if o.claimed_side else "reversed"


def verdict_of(claim: Claim, findings: list[str]) -> str:
    """One of VERDICTS from what the claim's tests found."""
    made = [found for found in findings if found not in ("not made", "not judged")]
    if not made or (claim.combine == "all" and len(made) < len(findings)):
        return "not testable here"
    if (all if claim.combine == "all" else any)(found == "holds" for found in made):
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
        arms = " ".join(part(coefficient, name) for name, coefficient in test.arms.items()).removeprefix("+ ")
    if test.effect == "value":
        arms = next(iter(test.arms))
    side = f"below {test.below:g}" if test.above is None else f"above {test.above:g}"
    return f"{test.effect} of {test.metric}, {arms}, {side}"


def sentence(claim: Claim, tests: list[tuple[Outcome, float, str]], applies: bool, verdict: str) -> str:
    """Why the verdict is what it is."""
    if not applies and claim.source == "theory":
        return "Its metrics are not given: `hdbench theory` makes them, and --theory names their file."
    if not applies:
        return f"It is about the suite {' or '.join(claim.suites)}." if claim.suites else "This suite is not made for it."
    lacking = dict.fromkeys(name.partition("@")[0] for o, *_ in tests for name in o.lacking)
    if lacking and verdict == "not testable here":
        return f"No numbers of {', '.join(lacking)}."
    counts = Counter(found for *_, found in tests)
    if counts["not made"] == len(tests):
        return "A number is missing or not finite, or there are fewer than two chains."
    said = ", ".join(f"{count} {word}" for word in ("holds", "reversed", "undecided", "not made") if (count := counts[word]))
    return f"{said}; {'one test' if len(tests) == 1 else f'{claim.combine} of {len(tests)} tests'} must hold."


def number(o: Outcome) -> str:
    """`1.14 [1.05, 1.23]`, or `-`"""
    if math.isnan(o.effect):
        return "-"
    return f"{o.effect:.3g}" + (f" [{o.low:.3g}, {o.high:.3g}]" if o.low < o.high else "")


def to_markdown(caption: str, *tables: pd.DataFrame, notes: Sequence[str] = ()) -> str:
    return "\n\n".join([caption, *(table.to_markdown(index=False, disable_numparse=True) for table in tables), *notes]) + "\n"


def to_tex(label: str, caption: str, claims: pd.DataFrame, tests: pd.DataFrame, notes: Sequence[str] = ()) -> str:
    """Two table environments for \\input, verdicts and tests; needs booktabs."""
    def table(frame: pd.DataFrame, columns: str, caption: str, label: str) -> list[str]:
        lines = [" & ".join(str(cell).translate(TEX) for cell in row) + r" \\" for row in [frame.columns, *frame.to_numpy()]]
        return [r"\begin{table}[tbp]", r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
                rf"\caption{{{caption.translate(TEX)}}}", rf"\label{{tab:{label}}}", r"\medskip",
                rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule",
                r"\end{tabular}", r"\end{table}"]

    def ragged(share: float) -> str:
        return rf"p{{{share}\linewidth}}"

    return "\n".join([
        "% needs \\usepackage{booktabs}",
        *table(claims, "l" + "".join(map(ragged, (0.44, 0.13, 0.29))), caption, label),
        *table(tests, "l" + "".join(map(ragged, (0.33, 0.16))) + "lll" + ragged(0.1),
               " ".join(["The tests behind the verdicts.", *notes]), f"{label}-tests"), ""])


def verdicts(frame: pd.DataFrame) -> pd.DataFrame:
    """For people, one row a claim of what `judge` found."""
    return frame.drop_duplicates("claim")[["claim", "says", "verdict", "sentence"]].set_axis(
        ["Claim", "What is claimed", "Verdict", "Why"], axis=1)


def write_claims(numbers: Numbers, rules: Rules, out: Path, theory: Values | None = None) -> list[Path]:
    """claims.csv, .md, .tex and .html into out/<suite>/; the paths written."""
    frame, suite, written = judge(numbers, rules, theory), numbers.plan.suite, []
    tests = frame[frame.rule != "-"]
    tests = tests.assign(**{name: [f"{p:.2g}" if math.isfinite(p) and found != "not judged" else "-"
                                   for p, found in zip(tests[name], tests.finding)] for name in ("p", "p_holm")})
    caption = (f"Claims of Hierarchical Distillation (arXiv 2511.08930). {suite.title}, {numbers.over}. The rules of "
               f"workflow/claims.yaml decide: a test holds, or is reversed, where its p, corrected by Holm over all tests "
               f"of its source (suite or theory), is below {rules.level:g}. AWD is a reconstruction.")
    people = (verdicts(frame),
              tests[["claim", "rule", "found", "p", "p_holm", "chains", "finding"]].set_axis(
                  ["Claim", "Test", "Effect, 95% interval", "p", "p, Holm", "Chains", "Finding"], axis=1))
    for suffix, text in {"csv": frame.to_csv(index=False, lineterminator="\n"),
                         "md": to_markdown(caption, *people, notes=numbers.notes),
                         "tex": to_tex(f"{numbers.plan.name}-claims", caption, *people, notes=numbers.notes),
                         "html": to_page(caption, people, numbers.notes, kind="text")}.items():
        written.append(out / numbers.plan.name / f"claims.{suffix}")
        write_atomic(written[-1], text)
    return written
