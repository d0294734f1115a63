"""Whether what is measured so far is what the suite's `expected` says."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tabulate import tabulate

from hdbench.metrics import metric_of
from hdbench.stages import artifact
from hdbench.suite.expected import ExpectedCurve, ExpectedMetric
from hdbench.suite.plan import Plan
from hdbench.tools.numbers import WIDTH
from hdbench.tools.status.history import history_of


class Comparison(NamedTuple):
    """One expected number with what each chain has come to, those that have it."""

    arm: str
    what: str
    expected: float
    values: list[float]
    is_on_track: bool
    source: str

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if not self.values:
            return "not yet"
        return "on track" if self.is_on_track else "off track"


def compare(plan: Plan, results: Path) -> list[Comparison]:
    """Every number of the suite's `expected`, in its order; only reads."""
    expected = plan.suite.expected
    if not expected:
        return []
    return [
        *(of_metric(plan, results, entry) for entry in expected.metrics),
        *(point for entry in expected.curves for point in of_curve(plan, results, entry)),
    ]


def of_metric(plan: Plan, results: Path, entry: ExpectedMetric) -> Comparison:
    """A metric of an arm's rows with these sampling steps."""
    values = [
        value
        for row in plan.rows
        if (row.arm, row.steps) == (entry.arm, entry.steps)
        for stage in plan.evaluations(row)
        for value in measured(results, stage, entry.metric)
    ]
    sign = -1 if metric_of(entry.metric).better == "higher" else 1
    worse = sign * (np.array(values) / entry.value - 1)
    steps = f"{entry.steps} step{'s' if entry.steps > 1 else ''}"
    what = f"{entry.metric} in {steps}"
    is_on_track = bool((worse <= entry.within).all())
    return Comparison(entry.arm, what, entry.value, values, is_on_track, source_of(entry))


def measured(results: Path, stage: str, metric: str) -> list[float]:
    """The metric in a finished evaluation, if it is there."""
    try:
        frame = pd.read_csv(artifact.folder(results, stage) / "metrics.csv", index_col="metric")
    except (OSError, ValueError):  # absent or broken, which its state says
        return []
    return [float(frame.value[metric])] if metric in frame.index else []


def of_curve(plan: Plan, results: Path, entry: ExpectedCurve) -> Iterator[Comparison]:
    """Each point of a curve: the mean of the steps of its window."""
    stages = dict.fromkeys(row.stages[entry.stage] for row in plan.rows if row.arm == entry.arm)
    histories = [history_of(results, plan.stage(stage), entry.scalar) for stage in stages]
    for step, value in entry.points:
        values = [
            float(history[entry.scalar].loc[step - entry.window + 1 : step].mean())
            for history in histories
            if entry.scalar in history and history.index[-1] >= step
        ]
        is_on_track = bool((abs(np.array(values) / value - 1) <= entry.within).all())
        what = f"{entry.stage}'s {entry.scalar} at step {step:,}"
        yield Comparison(entry.arm, what, value, values, is_on_track, source_of(entry))


def source_of(entry: ExpectedMetric | ExpectedCurve) -> str:
    """Where a number is from, and why it may not be reached."""
    return f"{entry.source}{'; ' if entry.doubt else ''}{entry.doubt}"


def table(comparisons: list[Comparison]) -> str:
    """The comparisons; below, the sources of those that are off track.  Empty without any."""
    if not comparisons:
        return ""
    cells = [
        [row.arm, row.what, f"{row.expected:.4g}", chains(row.values), row.verdict]
        for row in comparisons
    ]
    text = tabulate(
        cells,
        ["arm", "expected", "", "so far", ""],
        disable_numparse=True,
        colalign=("left", "left", "right", "left", "left"),
        maxcolwidths=[None, 44, None, 24, None],
    )
    notes = [
        f"{row.arm}, {row.what}: {row.expected:.4g} is of {row.source}."
        for row in comparisons
        if row.verdict == "off track"
    ]
    return "\n".join([text, *(textwrap.fill(note, WIDTH) for note in notes)])


def chains(values: list[float]) -> str:
    """The chains' values."""
    return ", ".join(f"{value:.4g}" for value in values) or "-"
