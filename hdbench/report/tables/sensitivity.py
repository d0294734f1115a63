"""Which metric sees which change."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from hdbench.core.errors import UserError
from hdbench.metrics import metric_of
from hdbench.metrics.records import Interval
from hdbench.report.columns import ARROWS, Column
from hdbench.report.document import Cell, Document, for_people, number
from hdbench.report.numbers import Numbers
from hdbench.report.tables.base import Table
from hdbench.stages import artifact
from hdbench.stages.sensitivity import SENSITIVITY, UNCHANGED
from hdbench.suite.plan import Plan
from hdbench.suite.stage import Stage

SEEN = 3.0  # standard errors


class Sensitivity(Table):
    """A row a metric, a column a change that is planted in real images."""

    name = "sensitivity"
    caption = "Which metric sees which change of real images."

    def lacks(self, plan: Plan) -> str:
        return "" if stage_of(plan) else "the suite has no evaluation.sensitivity"

    def shows(self, plan: Plan, arm: str) -> bool:
        return False

    def rows(self, plan: Plan) -> tuple[str, ...]:
        """The metrics' names."""
        stage = stage_of(plan)
        return stage.config.metrics if stage else ()

    def columns(self, numbers: Numbers) -> list[Column]:
        return []

    def document(self, numbers: Numbers) -> Document:
        plan = numbers.plan
        stage = stage_of(plan)
        caption = f"{self.title(plan).strip().rstrip('.')}. {plan.suite.title}."
        label = f"{plan.name}-{self.name}"
        try:
            path, _ = artifact.load(numbers.results, stage.id)
        except UserError:
            note = f"Not available: {stage.id} has not run here."
            return Document(label=label, caption=caption, columns=["Metric"], rows=[], notes=[note])
        records = with_changes(pd.read_csv(path / SENSITIVITY))
        return Document(
            label=label,
            caption=caption,
            columns=["Metric", "Unchanged", *records.change.drop_duplicates()[1:]],
            rows=[row(metric, group) for metric, group in records.groupby("metric", sort=False)],
            notes=notes(stage.config.samples, plan.suite.seeds[0]),
            records=records,
        )


def stage_of(plan: Plan) -> Stage | None:
    return next((stage for stage in plan.stages.values() if stage.kind == "sensitivity"), None)


def with_changes(frame: pd.DataFrame) -> pd.DataFrame:
    """With `difference` to the unchanged images, and `z`, that over both standard errors.

    A metric that has no value for some change has NaN there.
    """
    changes, metrics = (frame[key].drop_duplicates() for key in ("change", "metric"))
    every = pd.MultiIndex.from_product([metrics, changes], names=["metric", "change"])
    frame = frame.set_index(["metric", "change"]).reindex(every)
    unchanged = frame.xs(UNCHANGED, level="change").reindex(every, level="metric")
    difference = frame.value - unchanged.value
    error = np.hypot(frame.se, unchanged.se)
    z = (difference / error).where(difference != 0, 0.0)
    return frame.assign(difference=difference, z=z).reset_index()


def row(metric: str, group: pd.DataFrame) -> list[str | Cell]:
    """The metric, its value on unchanged images, and z of each change."""
    kind = metric_of(metric)
    title = kind.title_of(metric) + ARROWS[kind.better] if kind else metric
    first = group[group.change == UNCHANGED].iloc[0]
    value = for_people(Interval(first.value, 1.96 * first.se))
    return [title, Cell(value, math=True), *map(cell, group.z[group.change != UNCHANGED])]


def cell(z: float) -> Cell:
    """In standard errors, bold where it is seen; "-" where it is not known."""
    if math.isnan(z):
        return Cell("-")
    text = "±∞" if math.isinf(z) else number(z, 1 if abs(z) < 10 else 0, signed=True)
    return Cell(text, "bold" if abs(z) >= SEEN else "", math=True)


def notes(n: int, chain: int) -> list[str]:
    return [
        f"Unchanged: {n:,} images of train that no reference holds, with 95% intervals. Other "
        "columns: the change of the metric over its standard error between two independent sets of "
        f"{n:,} images; bold from {SEEN:g} on. At k times as many images of as many more originals "
        "about sqrt(k) times that.",
        "Standard errors are those of a sample of originals: images that were made from one are "
        f"not independent. Data, classifier and reference are those of chain {chain} alone.",
        "Every change is planted in the same images, but for the last two columns, which are other "
        "images: those of the reference itself, and those of test, whose shapes are not in train.",
    ]
