"""Categories of prompts by themselves."""

from __future__ import annotations

from hdbench.report import columns
from hdbench.report.columns import Column
from hdbench.report.numbers import Numbers
from hdbench.report.tables.base import Table
from hdbench.suite.plan import Plan


class Categories(Table):
    """Distance and accuracy of each category of the prompts that samples are made for."""

    name = "categories"
    caption = "Each category of prompts by itself."

    def lacks(self, plan: Plan) -> str:
        return "" if plan.suite.text else "only samples of prompts have categories"

    def shows(self, plan: Plan, arm: str) -> bool:
        return arm not in plan.recipes

    def columns(self, numbers: Numbers) -> list[Column]:
        return [
            columns.method(numbers),
            columns.nfe(),
            columns.chains(numbers),
            columns.distance(numbers),
            *columns.parts(numbers, f"{numbers.distance}_"),
            *columns.scores(numbers),
            *columns.parts(numbers, "accuracy_", "Accuracy: "),
        ]
