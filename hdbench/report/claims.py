"""Verdicts on the paper's claims, from collected metrics by the rules of workflow/claims.yaml."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hdbench.core.config import nearest
from hdbench.core.errors import UserError
from hdbench.metrics.records import interval
from hdbench.report import document
from hdbench.report.document import Document, for_people, wrapped
from hdbench.report.numbers import Entry, Numbers, tables_folder
from hdbench.report.registration import EXPLORATORY, Registration
from hdbench.report.rules import Claim, Rules, Source, Unit, Values, rule_text
from hdbench.report.verdicts import Judgement, judge_claim
from hdbench.suite import trained_on
from hdbench.suite.plan import Plan


def find_entry(numbers: Numbers, name: str) -> Entry | None:
    """The suite's row of `arm` (its first number of steps) or `arm@steps`; None without one."""
    arm, _, steps = name.partition("@")
    entries = numbers.entries(arm) if arm in numbers.plan.arms else []
    return next((entry for entry in entries if not steps or entry.steps == int(steps)), None)


def values_of(numbers: Numbers) -> Values:
    """Those of a suite, by the metric's name without its count; fd_test: the suite's distance."""

    def values(name: str, metric: str, unit: Unit = "chain") -> pd.Series | None:
        entry = find_entry(numbers, name)
        if entry is None:
            return None
        metric = numbers.distance if metric == "fd_test" else metric
        names = (numbers.counted(metric), metric)
        read = numbers.by_stage2_seed if unit == "stage2_seed" else numbers.by_chain
        there = (name for name in names if len(numbers.by_chain(entry, name)))
        return next((read(entry, name) for name in there), None)

    return values


RESULT = {
    "claim": "str",
    "verdict": "str",
    "verdict_secondary": "str",
    "says": "str",
    "sentence": "str",
    "rule": "str",
    "effect": "float64",
    "low": "float64",
    "high": "float64",
    "low_alone": "float64",
    "high_alone": "float64",
    "level": "float64",
    "margin": "str",
    "unit": "str",
    "chains": "Int64",
    "detectable": "float64",
    "needed": "Int64",
    "found": "str",
    "finding": "str",
    "finding_secondary": "str",
}


def judge(
    numbers: Numbers, rules: Rules, theory: Values | None = None, flops: Values | None = None
) -> pd.DataFrame:
    """One row a test (a claim without tests has one), with the columns `RESULT`.

    Effects, intervals and `detectable` (half the interval) are differences, or factors of ratios
    and spreads.  `low` and `high` are at the claim's level, `low_alone` and `high_alone` at that of
    one of its tests; `chains` are seeds of the test's unit.  `theory` and `flops` are where claims
    with these sources take their values from; without them they are not testable.  The level is
    divided over the claims of a source that can err, so a finding on the theory is the same beside
    any suite.  UserError for a claim of the suite that the rules lack.
    """
    sources: dict[Source, Values | None] = {
        "suite": values_of(numbers),
        "theory": theory,
        "flops": flops,
    }
    judged = claims_judged(numbers.plan, rules, [name for name, given in sources.items() if given])
    refused = {name: refused_by_metric(numbers, rules.claims[name]) for name in judged}
    judged = [name for name in judged if not refused[name]]
    rows = []
    for name, claim in rules.claims.items():
        family = [
            other
            for other in judged
            if rules.claims[other].source == claim.source and rules.claims[other].by_chance
        ]
        applies = "" if name in judged else refused.get(name) or _elsewhere(claim)
        values = sources[claim.source] or (lambda name, metric, unit: None)
        judgement = judge_claim(claim, rules, values, len(family), applies)
        rows += rows_of(name, judgement)
    return pd.DataFrame(rows, columns=list(RESULT)).astype(RESULT)


def claims_judged(plan: Plan, rules: Rules, sources: Collection[Source]) -> list[str]:
    """The claims that are judged beside a suite: its own, and all of the other given sources."""
    declared = rules.claims if plan.suite.claims is None else plan.suite.claims
    for name in declared:
        if name not in rules.claims and not isinstance(rules, Registration):
            raise UserError(
                f"suite {plan.stem}: claims: no claim {name!r}" + nearest(name, rules.claims)
            )
    return [
        name
        for name, claim in rules.claims.items()
        if claim.source in sources
        and (claim.source != "suite" or name in declared)
        and (claim.suites is None or plan.name in claim.suites)
    ]


def refused_by_metric(numbers: Numbers, claim: Claim) -> str:
    """Why metrics that arms were trained on keep a claim from being judged; empty if none does."""
    if claim.source != "suite":
        return ""
    for test in claim.tests:
        metric = numbers.distance if test.metric == "fd_test" else test.metric
        arms = [name.partition("@")[0] for name in test.arms]
        if sentence := trained_on.refusal(numbers.plan, arms, metric):
            return sentence
    return ""


def _elsewhere(claim: Claim) -> str:
    """Why a claim is not judged beside a suite."""
    if claim.source != "suite":
        return (
            f"Its metrics are not given: `hdbench {claim.source}` makes them, and "
            f"--{claim.source} names their file."
        )
    if claim.suites:
        return f"It is about the suite {' or '.join(claim.suites)}."
    return "This suite is not made for it."


def rows_of(name: str, judgement: Judgement) -> list[dict[str, Any]]:
    """A claim's rows."""
    common = {
        "claim": name,
        "verdict": judgement.verdict,
        "verdict_secondary": judgement.secondary,
        "says": judgement.claim.says,
        "sentence": judgement.reason(),
    }
    words = zip(judgement.findings(), judgement.findings(secondary=True), strict=True)
    rows = [
        common
        | row_of(judgement, index)
        | {
            "needed": judgement.needed_of(index) if word == "undecided" else None,
            "finding": word,
            "finding_secondary": narrower,
        }
        for index, (word, narrower) in enumerate(words)
    ]
    nothing = {"rule": "-", "found": "-", "finding": "not made", "finding_secondary": "not made"}
    return rows or [common | nothing]


def row_of(judgement: Judgement, index: int) -> dict[str, Any]:
    """A test's effect, intervals and margin, on the scale of its metric."""
    m, margin = judgement.tests[index], judgement.margins[index]
    row = {"rule": rule_text(m.test), "unit": m.test.unit, "chains": m.seeds, "found": "-"}
    if margin is not None:
        row["margin"] = margin_text(judgement, index)
    if (effect := m.effect) is None:
        return row
    levels = judgement.levels
    level, alone = max(levels.support, levels.refute), min(levels.support, levels.refute)
    back = np.exp if m.test.effect in ("ratio", "spread") else float
    (low, high), (low_alone, high_alone) = (effect.interval(p) for p in (level, alone))
    half = (high - low) / 2
    row |= {
        "effect": back(effect.estimate),
        "low": back(low),
        "high": back(high),
        "low_alone": back(low_alone),
        "high_alone": back(high_alone),
        "level": math.nan if m.test.unit == "exact" else level,
        "detectable": back(half) if math.isfinite(half) and half > 0 else math.nan,
    }
    if math.isfinite(row["effect"]):
        bounds = f" [{row['low']:.3g}, {row['high']:.3g}]" if 0 < half < math.inf else ""
        row["found"] = f"{row['effect']:.3g}{bounds}"
    return row


def margin_text(judgement: Judgement, index: int) -> str:
    """`10% of teacher@25, 4.0 ± 1.1 (5%)`: the mean over the seeds with its 95% t-interval."""
    m, margin = judgement.tests[index], judgement.margins[index]
    assert margin is not None
    text = margin.text()
    _, share = margin.ends()
    if share and m.reference is not None:
        text += f", {for_people(interval(share * m.reference))}"
    if margin.secondary is None:
        return text
    return f"{text} ({margin.text(secondary=True).partition(' of ')[0]})"


def verdicts(frame: pd.DataFrame) -> pd.DataFrame:
    """For people, one row a claim of what `judge` found."""
    return frame.drop_duplicates("claim")[["claim", "says", "verdict", "sentence"]].set_axis(
        ["Claim", "What is claimed", "Verdict", "Why"], axis=1
    )


def write_claims(
    numbers: Numbers,
    rules: Rules,
    out: Path | None,
    theory: Values | None = None,
    status: str = EXPLORATORY,
    flops: Values | None = None,
) -> list[Path]:
    """claims.csv, .md, .tex and .html into out/<suite>/; the paths written."""
    shown = claims_document(numbers, rules, judge(numbers, rules, theory, flops), status)
    folder = tables_folder(numbers.plan, numbers.results, out)
    return document.write(shown, folder / "claims")


TESTS = {
    "claim": ("Claim", "l"),
    "rule": ("Test", wrapped(0.22)),
    "found": ("Effect, interval", wrapped(0.1)),
    "margin": ("Margin", wrapped(0.13)),
    "chains": ("Seeds", wrapped(0.06)),
    "detectable": ("Decides beyond", wrapped(0.08)),
    "needed": ("Seeds needed", wrapped(0.08)),
    "finding": ("Finding", wrapped(0.13)),
}


def claims_document(numbers: Numbers, rules: Rules, frame: pd.DataFrame, status: str) -> Document:
    """Verdicts, and below them the tests, of what `judge` found."""
    plan = numbers.plan
    people = verdicts(frame)
    tests = frame[frame.rule != "-"]
    shown = tests.assign(
        detectable=[f"{x:.3g}" if math.isfinite(x) else "-" for x in tests.detectable],
        needed=[
            "-" if word != "undecided" or seeds < 2 else "> 10,000" if pd.isna(n) else str(n)
            for n, seeds, word in zip(tests.needed, tests.chains, tests.finding, strict=True)
        ],
        margin=tests.margin.fillna("-"),
        finding=[
            word if word == narrower else f"{word} ({narrower})"
            for word, narrower in zip(tests.finding, tests.finding_secondary, strict=True)
        ],
    )[list(TESTS)]
    return Document(
        label=f"{plan.name}-claims",
        caption=f"Claims of Hierarchical Distillation (arXiv 2511.08930). {plan.suite.title}, "
        f"{numbers.over}. {status} Confidence sequences decide, which hold at every number "
        f"of seeds, at level {rules.level:g} divided over the claims of a source (suite or "
        "theory). AWD is a reconstruction.",
        columns=list(people),
        rows=people.to_numpy().tolist(),
        align=["l", *map(wrapped, (0.38, 0.13, 0.35))],
        notes=numbers.notes,
        records=frame,
        layout="text",
        then=[
            Document(
                label=f"{plan.name}-claims-tests",
                caption=" ".join(
                    [
                        "The tests behind the verdicts: intervals at the claim's level (unbounded "
                        "where none is shown; those at the share of one test are in csv); an "
                        "effect nearer to its bound than `decides beyond` is left open; seeds "
                        "needed if means and scatters stay as they are; in brackets the narrower "
                        "margin and the finding by it.",
                        *numbers.notes,
                    ]
                ),
                columns=[title for title, _ in TESTS.values()],
                rows=shown.astype(str).to_numpy().tolist(),
                align=[align for _, align in TESTS.values()],
            )
        ],
    )
