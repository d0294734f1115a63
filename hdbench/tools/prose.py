"""Numbers in documents: `<!-- hdbench KEY -->...<!-- / -->` shows a number of a suite by its key.

SUITE METRIC ARM                      36.4 ± 3.9, mean and 95% interval over chains
SUITE METRIC ARM@STEPS                of an arm in these sampling steps
SUITE METRIC ARM - ARM                paired difference
SUITE ratio METRIC ARM / ARM          paired ratio
SUITE compare METRIC ARM - ARM        `lower (-10.7 ± 8.9)`, or higher, or not told apart
SUITE lowest METRIC [ARM ...]         the arm with the lowest, and which are not told apart from it;
                                      by default of all in one step
SUITE updates                         fewest and most updates of a recipe's generator in stage 2
SUITE verdict|finding CLAIM           of a claim
SUITE chains|core_hours               how many there are, and what they took
SUITE claims                          the table of verdicts
SUITE methods                         every recipe with its source and distance by sampling steps
probes [compare] METRIC ARM [- ARM]   of the probes; the difference within seeds

Words are decided by the 95% interval of the paired difference, not by hand: without zero in it one
is lower or higher, else they are not told apart.  One chain decides nothing beyond itself, and the
words say so.
"""

from __future__ import annotations

import functools
import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd

from hdbench.core.config import nearest
from hdbench.core.errors import UserError
from hdbench.core.files import write_atomic
from hdbench.experiments.probes.report import reported
from hdbench.experiments.report import Intervals
from hdbench.experiments.sources import experiments_of
from hdbench.metrics.records import Interval, interval, read_metrics
from hdbench.report.claims import find_entry, judge, values_of, verdicts
from hdbench.report.columns import dagger
from hdbench.report.document import for_people
from hdbench.report.numbers import Entry, Numbers
from hdbench.report.registration import rules_for
from hdbench.report.tables import TABLES
from hdbench.suite.arms import describe, head_of
from hdbench.suite.load import load_plan
from hdbench.suite.reading import RECIPES

SPAN = re.compile(r"<!-- hdbench (?P<key>[^>]*?) -->(?P<text>.*?)<!-- / -->", re.DOTALL)


def fill(text: str, tables: Path, source: str) -> str:
    """The document, its spans rendered from tables/<suite>/metrics.csv.

    UserError for a key that names nothing.
    """
    if text.count("<!-- hdbench ") != len(SPAN.findall(text)):
        raise UserError(f"{source}: a span of numbers is not closed; end it with <!-- / -->")

    def rendered(span: re.Match) -> str:
        return f"<!-- hdbench {span['key']} -->{value(span['key'], tables, source)}<!-- / -->"

    return SPAN.sub(rendered, text)


def write(path: Path, tables: Path) -> bool:
    """Fill the document in place; whether it changed."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give a Markdown file") from None
    filled = fill(text, tables, str(path))
    write_atomic(path, filled)
    return filled != text


def value(key: str, tables: Path, source: str = "document") -> str:
    """What a span shows."""
    suite, _, rest = key.partition(" ")
    if suite == "probes":
        return _of_probes(rest.split(), tables, key, source)
    numbers = _numbers(suite, tables)
    match rest.split():
        case ["chains"]:
            return str(len(numbers.plan.suite.seeds))
        case ["core_hours"]:
            run = json.loads((tables / suite / "run.json").read_text(encoding="utf-8"))
            return f"{run['core_seconds'] / 3600:.1f}"
        case ["claims"]:
            return _block(verdicts(_judged(suite, tables)))
        case ["methods"]:
            return _block(_methods(numbers))
        case ["verdict" | "finding" as what, claim]:
            frame = _judged(suite, tables)
            rows = frame[frame.claim == claim]
            if rows.empty:
                raise UserError(
                    f"{source}: {key}: no claim {claim!r}" + nearest(claim, set(frame.claim))
                )
            return rows.verdict.iloc[0] if what == "verdict" else rows.found.iloc[0]
        case ["updates"]:
            return _updates(numbers)
        case ["compare", metric, arm, "-", other]:
            entries = [_entry(numbers, name, key, source) for name in (arm, other)]
            return _compared(numbers.difference(*entries, metric=metric), numbers.alone)
        case ["lowest", metric, *arms]:
            return _lowest(numbers, metric, [_entry(numbers, arm, key, source) for arm in arms])
        case [metric, arm]:
            entry = _entry(numbers, arm, key, source)
            known = set(numbers.frame.metric)
            name = next((name for name in (metric, numbers.counted(metric)) if name in known), None)
            return _shown(numbers(entry, name) if name else numbers.part(entry, metric))
        case [metric, arm, "-", other]:
            entries = [_entry(numbers, name, key, source) for name in (arm, other)]
            return _shown(numbers.difference(*entries, metric=metric), signed=True)
        case ["ratio", metric, arm, "/", other]:
            for name in (arm, other):
                _entry(numbers, name, key, source)
            return _ratio(numbers, metric, arm, other)
    raise UserError(f"{source}: {key}: not a key of a number; see hdbench/tools/prose.py")


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


def _of_probes(words: list[str], tables: Path, key: str, source: str) -> str:
    intervals, known = _probes(tables)
    compare = words[:1] == ["compare"]
    words = words[compare:]
    match words:
        case [metric, arm] | [metric, arm, "-", _] if not compare or len(words) == 4:
            for name in words[1::2]:
                if (name, metric) not in known:
                    raise UserError(
                        f"{source}: {key}: no {metric} of {name!r}"
                        + nearest(name, {arm for arm, _ in known})
                    )
            if words[3:]:
                difference = intervals.difference(arm, words[3], metric)
                return _compared(difference) if compare else _shown(difference, signed=True)
            return _shown(intervals(arm, metric))
    raise UserError(f"{source}: {key}: not a key of a number; see hdbench/tools/prose.py")


def _methods(numbers: Numbers) -> pd.DataFrame:
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
            name = f"[{name}]({RECIPES}/{plan.suite.arms[arm]['recipe']}.yaml)"
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
