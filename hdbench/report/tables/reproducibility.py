"""How far chains that differ in their seeds alone scatter."""

from __future__ import annotations

from hdbench.report import columns
from hdbench.report.columns import Column
from hdbench.report.numbers import Numbers
from hdbench.report.tables.base import Table
from hdbench.suite.plan import Plan


class Reproducibility(Table):
    """The scatter of single chains, and which part of it finite sampling explains.

    Chains sample from noises of their own, so what sampling does not explain is of training: of the
    teacher and the stages after it and, where `splits` is "chain", of the split of the originals
    and the classifier.
    """

    name = "reproducibility"
    caption = (
        "What differs between chains that differ in their seeds alone, and how much of it is "
        "finite sampling."
    )

    def shows(self, plan: Plan, arm: str) -> bool:
        return not plan.arms[arm].real and arm not in plan.recipes

    def columns(self, numbers: Numbers) -> list[Column]:
        return [
            columns.method(numbers),
            columns.nfe(),
            columns.chains(numbers),
            columns.distance(numbers),
            columns.component(numbers, "lowest", "Lowest"),
            columns.component(numbers, "highest", "Highest"),
            columns.component(numbers, "total", "SD of chains"),
            columns.component(numbers, "sampling", "of it sampling"),
            columns.component(numbers, "training", "of it training"),
        ]
