"""Numbers in documents: `X.in.md` with placeholders `{{ KEY }}` is rendered as `X.md`.

METRIC of ARM                 36.4 ± 3.9, mean and 95% interval over chains
METRIC of ARM@STEPS           of an arm in these sampling steps
METRIC of ARM - ARM           paired difference
METRIC of ARM / ARM           paired ratio
compare METRIC of ARM - ARM   `lower (-10.7 ± 8.9)`, or higher, or not told apart
lowest METRIC [of ARM, ...]   the arm with the lowest, and which are not told apart from it;
                              by default of all in one step
updates                       fewest and most updates of a recipe's generator in stage 2
verdict|finding of CLAIM      of a claim
chains, core_hours            how many there are, and what they took
claims                        the table of verdicts
methods                       every recipe with its source and distance by sampling steps
rehearsal                     FLOPs and memory of stages that train, by formula and as rehearsed

` in SUITE` at the end says whose numbers they are; without it they are of the suite that the
document names on top, between lines of `---`, as `suite: NAME`.  `probes` is one, whose arms are
heads and whose differences are within seeds.

Words are decided by the 95% interval of the paired difference, not by hand: without zero in it one
is lower or higher, else they are not told apart.  One chain decides nothing beyond itself, and the
words say so.
"""

from __future__ import annotations

import functools
import math
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd

from hdbench.core.config import nearest
from hdbench.core.errors import UserError
from hdbench.core.files import read_text
from hdbench.core.outputs import write_outputs
from hdbench.experiments.probes.report import reported
from hdbench.experiments.report import Intervals
from hdbench.experiments.sources import experiments_of
from hdbench.metrics.records import Interval, interval, read_metrics
from hdbench.report.claims import find_entry, judge, values_of, verdicts
from hdbench.report.columns import dagger
from hdbench.report.document import for_people
from hdbench.report.numbers import Entry, Numbers
from hdbench.report.provenance import read_run
from hdbench.report.registration import rules_for
from hdbench.report.tables import TABLES
from hdbench.suite.arms import describe, head_of
from hdbench.suite.load import load_plan
from hdbench.suite.reading import RECIPES
from hdbench.tools.memory.report import comparison
from hdbench.tools.rehearsal.counts import COMMITTED, counts_of

SUFFIX = ".in.md"
HEAD = re.compile(r"---\nsuite: (?P<suite>\S+)\n---\n+")
PLACEHOLDER = re.compile(r"\{\{ (?P<key>[^{}]+) \}\}")


def sources(folder: Path = Path()) -> list[Path]:
    """The sources of the documents of a repository: of the README and below `docs`."""
    return [folder / f"README{SUFFIX}", *sorted((folder / "docs").rglob(f"*{SUFFIX}"))]


def rendered_path(source: Path) -> Path:
    """`X.md` of `X.in.md`; UserError for another name."""
    if not source.name.endswith(SUFFIX):
        raise UserError(f"{source}: not the source of a document; give a file X{SUFFIX}")
    return source.with_name(source.name.removesuffix(SUFFIX) + ".md")


def fill(text: str, tables: Path, source: str) -> str:
    """The document, its placeholders filled from tables/<suite>/metrics.csv.

    UserError for a placeholder that names nothing.
    """
    head = HEAD.match(text)
    body = text[head.end() :] if head else text
    suite = head["suite"] if head else ""
    if body.count("{{") != len(PLACEHOLDER.findall(body)):
        raise UserError(f"{source}: a placeholder is not closed; write {{{{ KEY }}}} on one line")
    return PLACEHOLDER.sub(lambda match: value(match["key"], tables, source, suite), body)


def write(source: Path, tables: Path) -> bool:
    """Render X.in.md as X.md; whether that changed."""
    target = rendered_path(source)
    try:
        text = read_text(source)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{source}: cannot be read ({error}); give a file X{SUFFIX}") from None
    filled = fill(text, tables, str(source))
    before = target.read_bytes() if target.exists() else None
    write_outputs({target: filled.encode()})
    return filled.encode() != before


def value(key: str, tables: Path, source: str = "document", suite: str = "") -> str:
    """What a placeholder shows; `suite` unless the key names another."""
    question, _, named = key.partition(" in ")
    suite = named.strip() or suite
    if not suite:
        raise UserError(f"{source}: {key}: of which suite? write {{{{ {key} in SUITE }}}}")
    what, _, of = question.partition(" of ")
    words = (what.split(), of.replace(",", " ").split())
    if suite == "probes":
        return _of_probes(*words, tables, key, source)
    if words == (["rehearsal"], []):
        return _block(_rehearsal(suite, source))
    numbers = _numbers(suite, tables)
    match words:
        case ["chains"], []:
            return str(len(numbers.plan.suite.seeds))
        case ["core_hours"], []:
            return f"{read_run(tables / suite).core_seconds / 3600:.1f}"
        case ["claims"], []:
            return _block(verdicts(_judged(suite, tables)))
        case ["methods"], []:
            return _block(_methods(numbers, Path(source).parent))
        case ["updates"], []:
            return _updates(numbers)
        case ["verdict" | "finding" as kind], [claim]:
            return _of_claim(_judged(suite, tables), kind, claim, f"{source}: {key}")
        case ["lowest", metric], arms:
            return _lowest(numbers, metric, [_entry(numbers, arm, key, source) for arm in arms])
        case ["compare", metric], [arm, "-", other]:
            entries = [_entry(numbers, name, key, source) for name in (arm, other)]
            return _compared(numbers.difference(*entries, metric=metric), numbers.alone)
        case [metric], [arm]:
            entry = _entry(numbers, arm, key, source)
            known = set(numbers.frame.metric)
            name = next((name for name in (metric, numbers.counted(metric)) if name in known), None)
            return _shown(numbers(entry, name) if name else numbers.part(entry, metric))
        case [metric], [arm, "-", other]:
            entries = [_entry(numbers, name, key, source) for name in (arm, other)]
            return _shown(numbers.difference(*entries, metric=metric), signed=True)
        case [metric], [arm, "/", other]:
            for name in (arm, other):
                _entry(numbers, name, key, source)
            return _ratio(numbers, metric, arm, other)
    raise UserError(f"{source}: {key}: not a key of a number; see hdbench/tools/prose.py")


def _rehearsal(suite: str, source: str) -> pd.DataFrame:
    """The committed counts of a suite beside those of formulas."""
    plan = load_plan(suite)
    counts = counts_of(plan, Path())
    if counts is None:
        raise UserError(
            f"{source}: no rehearsal of {suite} in {COMMITTED}; run `hdbench rehearse --suite "
            f"{suite}` and put its table there"
        )
    rows = [
        [kind, objective if head in ("-", "none") else f"{objective}, {head}", *numbers]
        for kind, objective, head, *numbers in comparison(plan, counts)
    ]
    quantities = ["GFLOP by formula", "GFLOP", "GB by formula", "GB"]
    return pd.DataFrame(rows, columns=["rule", "objective, head", *quantities])


def _of_claim(judged: pd.DataFrame, kind: str, claim: str, place: str) -> str:
    """The verdict of a claim, or what was found."""
    rows = judged[judged.claim == claim]
    if rows.empty:
        raise UserError(f"{place}: no claim {claim!r}" + nearest(claim, set(judged.claim)))
    return rows.verdict.iloc[0] if kind == "verdict" else rows.found.iloc[0]


def _block(frame: pd.DataFrame) -> str:
    """A table of texts between blank lines."""
    return "\n\n" + frame.to_markdown(index=False, disable_numparse=True) + "\n\n"


def _compared(difference: Interval, alone: bool = False) -> str:
    """`lower (-10.7 ± 8.9)`: by whether the interval of the difference holds zero."""
    value, half = difference
    if not math.isfinite(value):
        return "-"
    word = "lower" if value < 0 else "higher"
    if alone:
        word += " in its one chain"
    elif _open(difference):
        word = "not told apart"
    return f"{word} ({_shown(difference, signed=True)})"


def _open(difference: Interval) -> bool:
    """Whether the interval holds zero, or there is none."""
    return not abs(difference.value) > difference.half_width


def _lowest(numbers: Numbers, metric: str, entries: list[Entry]) -> str:
    """The entry with the lowest value, and the value; without entries of all models in one step.

    Behind it those that its lead over does not decide: names of up to two, else how many.
    """
    models = (name for name, arm in numbers.plan.arms.items() if not arm.real)
    entries = entries or [e for arm in models for e in numbers.entries(arm) if e.steps == 1]
    values = {entry: numbers(entry, numbers.counted(metric)) for entry in entries}
    finite = [entry for entry in entries if math.isfinite(values[entry].value)]
    if not finite:
        return "-"
    lowest = min(finite, key=lambda entry: values[entry].value)
    others = [entry for entry in finite if entry != lowest]
    tied = [e for e in others if _open(numbers.difference(e, lowest, metric=metric))]
    said = f"{describe(numbers.plan, lowest.arm)}, {_shown(values[lowest])}"
    if numbers.alone:
        return f"{said}, in one chain"
    if not tied:
        return said
    named = ", ".join(describe(numbers.plan, entry.arm) for entry in tied)
    which = named if len(tied) <= 2 else f"{len(tied)} of the {len(others)} others"
    return f"{said} (not told apart from it: {which})"


def _updates(numbers: Numbers) -> str:
    """`114 to 1,207`, of the recipes with a second stage."""
    plan = numbers.plan
    stages = [row.stages.get("refine") for row in plan.rows if row.arm in plan.recipes]
    trainings = (plan.stage(stage).training for stage in stages if stage)
    counts = [training.planned_steps for training in trainings if training]
    return f"{min(counts):,} to {max(counts):,}" if counts else "-"


def _ratio(numbers: Numbers, metric: str, arm: str, other: str) -> str:
    """`1.17 [1.04, 1.32]`, paired over chains."""
    pair = [values_of(numbers)(name, metric, "chain") for name in (arm, other)]
    if any(values is None for values in pair):
        return "-"
    shared = pd.concat(pair, axis=1, join="inner").to_numpy(float)
    mean, half = interval(np.log(shared[:, 0] / shared[:, 1]))
    if not math.isfinite(mean):
        return "-"
    ratio, low, high = np.exp([mean, mean - half, mean + half])
    return f"{ratio:.2f} [{low:.2f}, {high:.2f}]"


def _of_probes(what: list[str], of: list[str], tables: Path, key: str, source: str) -> str:
    intervals, known = _probes(tables)
    match what, of:
        case ([metric], [head] | [head, "-", _]) | (["compare", metric], [head, "-", _]):
            for name in of[::2]:
                if (name, metric) not in known:
                    raise UserError(
                        f"{source}: {key}: no {metric} of {name!r}"
                        + nearest(name, {arm for arm, _ in known})
                    )
            if not of[1:]:
                return _shown(intervals(head, metric))
            difference = intervals.difference(head, of[2], metric)
            return _compared(difference) if what[1:] else _shown(difference, signed=True)
    raise UserError(f"{source}: {key}: not a key of a number; see hdbench/tools/prose.py")


def _methods(numbers: Numbers, folder: Path) -> pd.DataFrame:
    """Every method with its distances; its recipe is linked from a document in `folder`."""
    plan = numbers.plan
    fd = numbers.counted(numbers.distance)
    arms = [arm for arm in TABLES["methods"]().rows(plan) if not plan.arms[arm].real]
    steps = sorted(
        {entry.steps for arm in arms if arm in plan.recipes for entry in numbers.entries(arm)}
    )
    rows = []
    for arm in arms:
        recipe = plan.recipes.get(arm)
        entries = {entry.steps: entry for entry in numbers.entries(arm)}
        name = describe(plan, arm) + dagger(head_of(plan.arms[arm]))
        if not entries.keys() & set(steps):
            most = max(entries)
            name += f", {most} steps: {_shown(numbers(entries[most], fd))}"
        if recipe:
            path = RECIPES / f"{plan.suite.arms[arm]['recipe']}.yaml"
            name = f"[{name}]({os.path.relpath(path, folder)})"
            source = recipe.source.replace("arXiv ", "")
            source = (
                f"[{source}](https://arxiv.org/abs/{source})"
                if recipe.source.startswith("arXiv")
                else source
            )
        rows.append(
            [
                name,
                f"`{arm}`",
                source if recipe else "this suite",
                numbers.chains(numbers.entries(arm)[0])[0],
                *(_shown(numbers(entries[n], fd)) if n in entries else "" for n in steps),
            ]
        )
    return pd.DataFrame(
        rows,
        columns=[
            "Method",
            "Arm",
            "Source",
            "Chains",
            *(f"FD test, {n} step{'s' * (n > 1)}" for n in steps),
        ],
    )


def _shown(interval: Interval, signed: bool = False) -> str:
    return for_people(interval, signed=signed)


def _entry(numbers: Numbers, name: str, key: str, source: str) -> Entry:
    if (entry := find_entry(numbers, name)) is None:
        raise UserError(f"{source}: {key}: no arm {name!r}" + nearest(name, numbers.plan.arms))
    return entry


@functools.cache
def _numbers(suite: str, tables: Path) -> Numbers:
    return Numbers(
        load_plan(suite),
        read_metrics(tables / suite / "metrics.csv"),
        Path("results"),
        lenient=True,
    )


@functools.cache
def _probes(tables: Path) -> tuple[Intervals, set[tuple[str, str]]]:
    """Intervals of the reported numbers, and which arms have which metrics."""
    frame = read_metrics(tables / "probes" / "metrics.csv")
    known = frame.loc[frame.suite == "probes", ["arm", "metric"]]
    return reported(frame), set(known.itertuples(index=False, name=None))


@functools.cache
def _judged(suite: str, tables: Path):
    theory, flops = experiments_of(tables)
    numbers = _numbers(suite, tables)
    metrics = tables / suite / "metrics.csv"
    rules, _ = rules_for(numbers.plan, read_metrics(metrics), metrics, None, None)
    return judge(numbers, rules, theory, flops)


def forget() -> None:
    """Read files of metrics anew."""
    _numbers.cache_clear()
    _judged.cache_clear()
    _probes.cache_clear()
