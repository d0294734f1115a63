"""Verdicts on the paper's claims, computed from collected metrics by the rules of workflow/claims.yaml, never typed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hdbench.core.config import nearest
from hdbench.core.errors import UserError
from hdbench.core.files import write_atomic
from hdbench.report.document import TEX, to_page
from hdbench.report.numbers import Entry, Numbers, tables_folder
from hdbench.report.rules import (
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


def find_entry(numbers: Numbers, name: str) -> Entry | None:
    """The row of `arm` (its first number of steps) or `arm@steps`; None if the suite has no such row."""
    arm, _, steps = name.partition("@")
    found = numbers.entries(arm) if arm in numbers.plan.arms else []
    return next((entry for entry in found if not steps or entry.steps == int(steps)), None)


def values_of(numbers: Numbers) -> Values:
    """Those of a suite, the metric with its sample count or without; fd_test is the distance of the suite's protocol."""

    def values(name: str, metric: str) -> pd.Series | None:
        entry, metric = (
            find_entry(numbers, name),
            numbers.distance if metric == "fd_test" else metric,
        )
        found = (numbers.of(entry, m).value for m in (numbers.counted(metric), metric) if entry)
        return next((series for series in found if len(series)), None)

    return values


def judge(numbers: Numbers, rules: Rules, theory: Values | None = None) -> pd.DataFrame:
    """One row a test (a claim without tests has one): claim, verdict and its sentence, rule, effect, interval, p, finding.

    `theory` is where claims with this source take their values from; without it they are not testable.  Each source's tests
    are corrected for themselves, so that a finding on the theory is the same beside any suite.
    """
    sources = {"suite": values_of(numbers), "theory": theory or (lambda name, metric: None)}
    plan, given = (
        numbers.plan,
        {
            "suite": rules.claims
            if numbers.plan.suite.claims is None
            else numbers.plan.suite.claims,
            "theory": rules.claims if theory else (),
        },
    )
    for name in given["suite"]:
        if name not in rules.claims:
            raise UserError(
                f"suite {plan.stem}: claims: no claim {name!r}" + nearest(name, rules.claims)
            )
    applies = {
        name: name in given[claim.source] and (claim.suites is None or plan.name in claim.suites)
        for name, claim in rules.claims.items()
    }
    made = [
        (name, outcome(sources[claim.source], test))
        for name, claim in rules.claims.items()
        for test in claim.tests
    ]
    corrected = {
        source: iter(
            holm([o.p for name, o in made if applies[name] and rules.claims[name].source == source])
        )
        for source in sources
    }
    tests = [
        (name, o, next(corrected[rules.claims[name].source]) if applies[name] else math.nan)
        for name, o in made
    ]
    rows = []
    for name, claim in rules.claims.items():
        own = [
            (o, p, finding(o, p, rules.level) if applies[name] else "not judged")
            for other, o, p in tests
            if other == name
        ]
        verdict = verdict_of(claim, [found for *_, found in own])
        common = {
            "claim": name,
            "verdict": verdict,
            "says": claim.says,
            "sentence": sentence(claim, own, applies[name], verdict),
        }
        rows += [
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
                "finding": found,
            }
            for o, p, found in own
        ] or [common | {"rule": "-", "found": "-", "finding": "not made"}]
    columns = {
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
    return pd.DataFrame(rows, columns=list(columns)).astype(columns)


def to_markdown(caption: str, *tables: pd.DataFrame, notes: Sequence[str] = ()) -> str:
    return (
        "\n\n".join(
            [
                caption,
                *(table.to_markdown(index=False, disable_numparse=True) for table in tables),
                *notes,
            ]
        )
        + "\n"
    )


def to_tex(
    label: str, caption: str, claims: pd.DataFrame, tests: pd.DataFrame, notes: Sequence[str] = ()
) -> str:
    """Two table environments for \\input, verdicts and tests; needs booktabs."""

    def table(frame: pd.DataFrame, columns: str, caption: str, label: str) -> list[str]:
        lines = [
            " & ".join(str(cell).translate(TEX) for cell in row) + r" \\"
            for row in [frame.columns, *frame.to_numpy()]
        ]
        return [
            r"\begin{table}[tbp]",
            r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{caption.translate(TEX)}}}",
            rf"\label{{tab:{label}}}",
            r"\medskip",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]

    def ragged(share: float) -> str:
        return rf"p{{{share}\linewidth}}"

    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            *table(claims, "l" + "".join(map(ragged, (0.44, 0.13, 0.29))), caption, label),
            *table(
                tests,
                "l" + "".join(map(ragged, (0.33, 0.16))) + "lll" + ragged(0.1),
                " ".join(["The tests behind the verdicts.", *notes]),
                f"{label}-tests",
            ),
            "",
        ]
    )


def verdicts(frame: pd.DataFrame) -> pd.DataFrame:
    """For people, one row a claim of what `judge` found."""
    return frame.drop_duplicates("claim")[["claim", "says", "verdict", "sentence"]].set_axis(
        ["Claim", "What is claimed", "Verdict", "Why"], axis=1
    )


def write_claims(
    numbers: Numbers, rules: Rules, out: Path | None, theory: Values | None = None
) -> list[Path]:
    """claims.csv, .md, .tex and .html into out/<suite>/; the paths written."""
    frame, suite, written = judge(numbers, rules, theory), numbers.plan.suite, []
    folder = tables_folder(numbers.plan, numbers.results, out)
    tests = frame[frame.rule != "-"]
    tests = tests.assign(
        **{
            name: [
                f"{p:.2g}" if math.isfinite(p) and found != "not judged" else "-"
                for p, found in zip(tests[name], tests.finding)
            ]
            for name in ("p", "p_holm")
        }
    )
    caption = (
        f"Claims of Hierarchical Distillation (arXiv 2511.08930). {suite.title}, {numbers.over}. The rules of "
        f"workflow/claims.yaml decide: a test holds, or is reversed, where its p, corrected by Holm over all tests "
        f"of its source (suite or theory), is below {rules.level:g}. AWD is a reconstruction."
    )
    people = (
        verdicts(frame),
        tests[["claim", "rule", "found", "p", "p_holm", "chains", "finding"]].set_axis(
            ["Claim", "Test", "Effect, 95% interval", "p", "p, Holm", "Chains", "Finding"], axis=1
        ),
    )
    for suffix, text in {
        "csv": frame.to_csv(index=False, lineterminator="\n"),
        "md": to_markdown(caption, *people, notes=numbers.notes),
        "tex": to_tex(f"{numbers.plan.name}-claims", caption, *people, notes=numbers.notes),
        "html": to_page(caption, people, numbers.notes, kind="text"),
    }.items():
        written.append(folder / f"claims.{suffix}")
        write_atomic(written[-1], text)
    return written
