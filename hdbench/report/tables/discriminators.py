"""Discriminator heads side by side."""

from __future__ import annotations

from hdbench.report import columns
from hdbench.report.columns import Column
from hdbench.report.numbers import Numbers
from hdbench.report.tables.base import Table
from hdbench.suite.arms import alike_but_head, head_of, same_without_head
from hdbench.suite.plan import Plan


class Discriminators(Table):
    """Stage 2 wherever the suite has it with several heads and all else equal."""

    name = "discriminators"
    caption = "Discriminator heads of equal size, by initialisation."

    def shows(self, plan: Plan, arm: str) -> bool:
        if not plan.arms[arm].refine or arm in plan.recipes:
            return False
        return len({head_of(plan.arms[other]) for other in alike_but_head(plan, arm)}) > 1

    def columns(self, numbers: Numbers) -> list[Column]:
        return [
            columns.head(numbers),
            columns.start(numbers),
            columns.stage_two_steps(numbers),
            columns.head_parameters(numbers),
            columns.chains(numbers),
            *columns.quality(numbers),
            *columns.against(numbers, same_without_head, "no head"),
        ]
