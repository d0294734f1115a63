"""Methods of one-step distillation."""

from __future__ import annotations

from hdbench.report import columns
from hdbench.report.columns import Column
from hdbench.report.numbers import Entry, Numbers
from hdbench.report.tables.base import Table, rank
from hdbench.suite.arms import (
    base_arm,
    describe,
    equal_total,
    has_base_refine,
    is_base_trajectory,
    is_teacher,
)
from hdbench.suite.plan import Plan


class Methods(Table):
    """The base arm, its first stage, its control of equal compute, public networks and recipes."""

    name = "methods"
    caption = "The methods of this suite."

    def shows(self, plan: Plan, arm: str) -> bool:
        config = plan.declared[arm]
        control = equal_total(plan, arm) and not config.trajectory
        return (
            arm in plan.recipes
            or arm == base_arm(plan)
            or bool(config.baseline)
            or bool(config.sampling)
            or is_teacher(config)
            or (not config.refine and is_base_trajectory(plan, arm))
            or (control and has_base_refine(plan, arm))
        )

    def order(self, plan: Plan, arm: str) -> tuple[bool, int]:
        return arm in plan.recipes, rank(plan, arm)

    def columns(self, numbers: Numbers) -> list[Column]:
        plan = numbers.plan
        recipes = plan.recipes

        def source(e: Entry) -> str:
            return recipes[e.arm].source if e.arm in recipes else "-"

        differences = [
            column
            for other in self.compared(plan)
            for column in columns.against(
                numbers, lambda plan, _, other=other: other, describe(plan, other), f"_{other}"
            )
        ]
        return [
            columns.method(numbers),
            columns.text("source", "Source", source),
            columns.steps(),
            columns.nfe(),
            columns.chains(numbers),
            *columns.quality(numbers),
            *columns.power(numbers),
            *differences,
            columns.training(numbers),
            *columns.tuning(numbers),
            columns.cost(numbers, "training_core_seconds", "Core-s"),
            columns.flops(numbers),
            columns.speed(numbers),
        ]
