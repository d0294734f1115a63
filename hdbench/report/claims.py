"""Verdicts on the paper's claims, from collected metrics by the rules of workflow/claims.yaml."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hdbench.core.config import nearest
from hdbench.core.errors import UserError
from hdbench.report import document
from hdbench.report.document import Document, wrapped
from hdbench.report.numbers import Entry, Numbers, tables_folder
from hdbench.report.rules import (
    Claim,
    Outcome,
    Rules,
    Values,
    finding,
    holm,
    number,
    outcome,
    rule_text,
    sentence,
    verdict_of,
)
from hdbench.suite.plan import Plan


def find_entry(numbers: Numbers, name: str) -> Entry | None:
    """The suite's row of `arm` (its first number of steps) or `arm@steps`; None without one."""
    arm, _, steps = name.partition("@")
    entries = numbers.entries(arm) if arm in numbers.plan.arms else []
    return next((entry for entry in entries if not steps or entry.steps == int(steps)), None)


def values_of(numbers: Numbers) -> Values:
    """Those of a suite, by the metric's name without its count; fd_test: the suite's distance."""

    def values(name: str, metric: str) -> pd.Series | None:
        entry = find_entry(numbers, name)
        if entry is None:
            return None
        metric = numbers.distance if metric == "fd_test" else metric
        series = (numbers.of(entry, key).value for key in (numbers.counted(metric), metric))
        return next((values for values in series if len(values)), None)

    return values


RESULT = {
    "claim": "str",
    "verdict": "str",
    "says": "str",
    "sentence": "str",
    "rule": "str",
    "effect": "float64",
    "low": "float64",
    "high": "float64",
    "p": "float64",
    "p_holm": "float64",
    "chains": "Int64",
    "found": "str",
    "finding": "str",
}


def judge(numbers: Numbers, rules: Rules, theory: Values | None = None) -> pd.DataFrame:
    """One row a test (a claim without tests has one), with the columns `RESULT`.

    `theory` is where claims with this source take their values from; without it they are not
    testable.  Each source's tests are corrected for themselves, so a finding on the theory is the
    same beside any suite.  UserError for a claim of the suite that the rules lack.
    """
    sources: dict[str, Values] = {
        "suite": values_of(numbers),
        "theory": theory or (lambda name, metric: None),
    }
    judged = claims_judged(numbers.plan, rules, theory is not None)
    outcomes = {
        name: [outcome(sources[claim.source], test) for test in claim.tests]
        for name, claim in rules.claims.items()
    }
    corrected = {}
    for source in sources:
        of_source = [name for name in judged if rules.claims[name].source == source]
        corrected[source] = iter(holm([test.p for name in of_source for test in outcomes[name]]))
    rows = []
    for name, claim in rules.claims.items():
        tests = [
            (test, next(corrected[claim.source]) if name in judged else math.nan)
            for test in outcomes[name]
        ]
        rows += rows_of(name, claim, tests, name in judged, rules.level)
    return pd.DataFrame(rows, columns=list(RESULT)).astype(RESULT)


def claims_judged(plan: Plan, rules: Rules, theory: bool) -> list[str]:
    """The claims that are judged beside a suite: its own, and with `theory` those on the theory."""
    declared = rules.claims if plan.suite.claims is None else plan.suite.claims
    for name in declared:
        if name not in rules.claims:
            raise UserError(
                f"suite {plan.stem}: claims: no claim {name!r}" + nearest(name, rules.claims)
            )
    given = {"suite": declared, "theory": rules.claims if theory else ()}
    return [
        name
        for name, claim in rules.claims.items()
        if name in given[claim.source] and (claim.suites is None or plan.name in claim.suites)
    ]


def rows_of(
    name: str, claim: Claim, tests: Sequence[tuple[Outcome, float]], judged: bool, level: float
) -> list[dict[str, Any]]:
    """A claim's rows from its tests and their corrected p."""
    judgements = [(o, p, finding(o, p, level) if judged else "not judged") for o, p in tests]
    verdict = verdict_of(claim, [word for *_, word in judgements])
    common = {
        "claim": name,
        "verdict": verdict,
        "says": claim.says,
        "sentence": sentence(claim, judgements, judged, verdict),
    }
    if not judgements:
        return [common | {"rule": "-", "found": "-", "finding": "not made"}]
    return [
        common
        | {
            "rule": rule_text(o.test),
            "effect": o.effect,
            "low": o.low,
            "high": o.high,
            "p": o.p,
            "p_holm": p,
            "chains": o.chains,
            "found": number(o),
            "finding": word,
        }
        for o, p, word in judgements
    ]


def verdicts(frame: pd.DataFrame) -> pd.DataFrame:
    """For people, one row a claim of what `judge` found."""
    return frame.drop_duplicates("claim")[["claim", "says", "verdict", "sentence"]].set_axis(
        ["Claim", "What is claimed", "Verdict", "Why"], axis=1
    )


def write_claims(
    numbers: Numbers, rules: Rules, out: Path | None, theory: Values | None = None
) -> list[Path]:
    """claims.csv, .md, .tex and .html into out/<suite>/; the paths written."""
    shown = claims_document(numbers, rules, judge(numbers, rules, theory))
    folder = tables_folder(numbers.plan, numbers.results, out)
    return document.write(shown, folder / "claims")


def claims_document(numbers: Numbers, rules: Rules, frame: pd.DataFrame) -> Document:
    """Verdicts, and below them the tests, of what `judge` found."""
    plan = numbers.plan
    people = verdicts(frame)
    tests = frame[frame.rule != "-"]
    shown = {
        name: [
            f"{p:.2g}" if math.isfinite(p) and word != "not judged" else "-"
            for p, word in zip(tests[name], tests.finding, strict=True)
        ]
        for name in ("p", "p_holm")
    }
    tests = tests.assign(**shown)[["claim", "rule", "found", "p", "p_holm", "chains", "finding"]]
    return Document(
        label=f"{plan.name}-claims",
        caption=f"Claims of Hierarchical Distillation (arXiv 2511.08930). {plan.suite.title}, "
        f"{numbers.over}. The rules of workflow/claims.yaml decide: a test holds, or is reversed, "
        "where its p, corrected by Holm over all tests of its source (suite or theory), is below "
        f"{rules.level:g}. AWD is a reconstruction.",
        columns=list(people),
        rows=people.to_numpy().tolist(),
        align=["l", *map(wrapped, (0.44, 0.13, 0.29))],
        notes=numbers.notes,
        records=frame,
        layout="text",
        then=[
            Document(
                label=f"{plan.name}-claims-tests",
                caption=" ".join(["The tests behind the verdicts.", *numbers.notes]),
                columns=[
                    "Claim",
                    "Test",
                    "Effect, 95% interval",
                    "p",
                    "p, Holm",
                    "Chains",
                    "Finding",
                ],
                rows=tests.astype(str).to_numpy().tolist(),
                align=["l", wrapped(0.33), wrapped(0.16), "l", "l", "l", wrapped(0.1)],
            )
        ],
    )
