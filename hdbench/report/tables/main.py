"""Every arm."""

from __future__ import annotations

from hdbench.report import columns
from hdbench.report.columns import Column
from hdbench.report.numbers import Numbers
from hdbench.report.tables.base import Table
from hdbench.suite.plan import Plan


class Main(Table):
    """Quality of every arm of the suite's own; recipes and `sampling` are rows of `methods`."""

    name = "main"
    caption = "Every arm of the suite, one row for each number of sampling steps."

    def shows(self, plan: Plan, arm: str) -> bool:
        return arm not in plan.recipes and not plan.arms[arm].sampling

    def columns(self, numbers: Numbers) -> list[Column]:
        return [
            columns.method(numbers),
            columns.steps(),
            columns.nfe(),
            columns.chains(numbers),
            *columns.quality(numbers),
            *columns.scores(numbers),
            *columns.power(numbers),
            columns.training(numbers),
            *columns.tuning(numbers),
            columns.speed(numbers),
        ]
