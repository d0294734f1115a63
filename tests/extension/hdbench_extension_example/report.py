"""A table and a figure."""

from __future__ import annotations

import matplotlib.pyplot as plt

from hdbench.report import columns
from hdbench.report.columns import Column
from hdbench.report.figures.base import Figure
from hdbench.report.figures.sources import Sources
from hdbench.report.figures.style import nothing
from hdbench.report.numbers import Numbers
from hdbench.report.tables.base import Table
from hdbench.suite.plan import Plan


def measures_brightness(plan: Plan) -> bool:
    return "brightness" in plan.suite.evaluation.metrics


class BrightnessTable(Table):
    """The brightness of every arm."""

    name = "brightness"
    caption = "Brightness of samples."

    def lacks(self, plan: Plan) -> str:
        return "" if measures_brightness(plan) else "the suite does not measure brightness"

    def shows(self, plan: Plan, arm: str) -> bool:
        return True

    def columns(self, numbers: Numbers) -> list[Column]:
        return [
            columns.method(numbers),
            columns.steps(),
            columns.metric(numbers, "brightness", "Brightness N"),
        ]


class BrightnessFigure(Figure):
    """The brightness of every arm as a bar."""

    name = "brightness"
    tables = ("brightness",)  # whose arms it shows

    def draw(self, sources: Sources) -> plt.Figure:
        if not measures_brightness(sources.plan):
            return nothing(sources, "the suite does not measure brightness")
        numbers = sources.numbers
        key = numbers.counted("brightness")
        rows = numbers.frame[numbers.frame.metric == key].groupby("arm").value.mean()
        figure, axes = plt.subplots(figsize=(4, 2), layout="constrained")
        axes.barh(list(rows.index), rows.to_numpy())
        axes.set_xlabel("brightness")
        return figure
