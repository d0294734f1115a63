"""What figures read: numbers, artifacts and training histories, and lists of what is missing."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from hdbench.metrics.records import COLUMNS, Interval
from hdbench.report.columns import dagger
from hdbench.report.numbers import Entry, Numbers
from hdbench.stages import artifact
from hdbench.suite.arms import describe, head_of
from hdbench.suite.plan import Plan, Row


class Sources:
    """Numbers and artifacts of rows, and lists of what was not there."""

    def __init__(self, plan: Plan, results: Path, numbers: Numbers | None = None):
        self.plan = plan
        self.results = results
        self.missing: list[str] = []
        self.remarks: list[str] = []
        empty = pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS)
        self.numbers = numbers or Numbers(plan, empty, results)

    def folder(self, stage: str, name: str) -> Path | None:
        """The artifact's folder, or None, with `name` noted as missing."""
        if artifact.exists(self.results, stage):
            return artifact.load(self.results, stage)[0]
        self.note_missing(name)
        return None

    def note_missing(self, name: str) -> None:
        if name not in self.missing:
            self.missing.append(name)

    def rows(self, arm: str, steps: int | None = None) -> list[Row]:
        return [row for row in self.plan.rows if row.arm == arm and steps in (None, row.steps)]

    def label(self, arm: str) -> str:
        return describe(self.plan, arm) + dagger(head_of(self.plan.arms[arm]))

    def name(self, entry: Entry) -> str:
        config = self.plan.arms[entry.arm]
        one_step = config.real or config.refine
        return self.label(entry.arm) + ("" if one_step else f", {steps_text(entry.steps)}")

    def numbers_of(self, entries: Iterable[Entry], *metrics: str) -> dict[Entry, list[Interval]]:
        """These metrics by entry; what lacks one is left out and noted, fewer chains are noted."""
        shown = {}
        for entry in entries:
            name = self.name(entry)
            values = self.numbers.of(entry)
            have, all_chains = self.numbers.chains(entry)
            intervals = [self.numbers(entry, metric) for metric in metrics]
            if not all(math.isfinite(interval.value) for interval in intervals):
                broken = not values.value[values.metric.isin(metrics)].map(math.isfinite).all()
                self.note_missing(name + " (not a number)" * broken)
                continue
            shown[entry] = intervals
            remark = f"{name}, {have} of {all_chains}"
            if have < all_chains and remark not in self.remarks:
                self.remarks.append(remark)
        return shown

    def notes(self, arms: Iterable[str], *said: str) -> str:
        """The note under a figure."""
        parts = [self.plan.suite.title, *said]
        if any("†" in self.label(arm) for arm in arms):
            parts.append("†\u00a0Reconstruction: the paper gives no formula")
        lists = {"Fewer chains: ": self.remarks, "Not available: ": self.missing}
        for text, names in lists.items():
            if names:
                more = [f"and {len(names) - 8} more"] if len(names) > 8 else []
                parts.append(text + "; ".join([*names[:8], *more]))
        return ". ".join([*parts, *(note.rstrip(".") for note in self.numbers.notes)]) + "."

    def intervals_are(self, of: str = "", real: bool = True) -> str:
        if self.numbers.alone:
            return f"95% intervals{of}: over samples, {self.numbers.over}"
        return (
            f"95% intervals{of}: t-intervals over {self.numbers.over}"
            + ", of real images over samples" * real
        )


def steps_text(steps: int) -> str:
    return f"{steps} step{'s' if steps > 1 else ''}"


def histories(sources: Sources, arm: str, kind: str) -> dict[int, pd.DataFrame]:
    """By chain what that stage of an arm has recorded, by step; only of chains that have it."""
    recorded = {}
    for row in {row.stages[kind]: row for row in sources.rows(arm) if kind in row.stages}.values():
        if folder := sources.folder(row.stages[kind], f"{sources.label(arm)}, chain {row.seed}"):
            recorded[row.seed] = pd.read_csv(folder / "history.csv", index_col="step")
    return recorded


def scalar_of(recorded: dict[int, pd.DataFrame], scalar: str) -> pd.DataFrame:
    """One column a chain; empty where none has that scalar."""
    return pd.DataFrame(
        {seed: history[scalar] for seed, history in recorded.items() if scalar in history}
    )
