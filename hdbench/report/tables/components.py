"""Parts of hierarchical distillation."""

from __future__ import annotations

from hdbench.report import columns
from hdbench.report.columns import Column
from hdbench.report.numbers import Numbers
from hdbench.report.tables.base import Table
from hdbench.suite.arms import (
    base_arm,
    equal_total,
    has_base_refine,
    has_base_refine_but_head,
    is_base_trajectory,
    is_teacher,
)
from hdbench.suite.plan import Plan


class Components(Table):
    """The teacher, either stage of the base arm alone, both, and both with each head."""

    name = "components"
    caption = "What each part of hierarchical distillation adds."

    def shows(self, plan: Plan, arm: str) -> bool:
        return arm not in plan.recipes and self.order(plan, arm) is not None

    def order(self, plan: Plan, arm: str) -> int | None:
        """Place of the part that an arm is; None for another arm."""
        config = plan.declared[arm]
        base = plan.suite.base
        if is_teacher(config):
            return 0
        if not config.refine:
            return 1 if is_base_trajectory(plan, arm) else None
        if equal_total(plan, arm) or not base.refine:
            return None
        if not (config.trajectory or config.baseline or config.real):
            return 2 if has_base_refine(plan, arm) else None
        like_base = is_base_trajectory(plan, arm) and has_base_refine_but_head(plan, arm)
        return 3 if like_base else None

    def columns(self, numbers: Numbers) -> list[Column]:
        arms = numbers.plan.arms
        return [
            columns.method(numbers),
            columns.text("td", "TD", lambda e: "yes" if arms[e.arm].trajectory else "no"),
            columns.text("dmd", "DMD", lambda e: "yes" if arms[e.arm].refine else "no"),
            columns.head(numbers),
            columns.nfe(),
            columns.chains(numbers),
            *columns.quality(numbers),
            *columns.power(numbers)[-1:],
            *columns.fidelity(numbers),
            *columns.against(numbers, lambda plan, arm: base_arm(plan), "base"),
        ]
