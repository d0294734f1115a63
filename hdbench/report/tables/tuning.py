"""Methods as declared, and as tuned by the one rule."""

from __future__ import annotations

from dataclasses import replace

from hdbench.metrics import METRICS
from hdbench.metrics.records import MISSING
from hdbench.report import columns
from hdbench.report.columns import Column, Value
from hdbench.report.numbers import Entry, Numbers
from hdbench.report.tables.base import Table
from hdbench.suite.arms import describe
from hdbench.suite.plan import Plan


class Tuning(Table):
    """Every arm that was tuned, with declared and with tuned settings side by side."""

    name = "tuning"
    caption = (
        "Methods with declared and with tuned settings, chosen on chains that are not reported."
    )

    def lacks(self, plan: Plan) -> str:
        return "" if pairs_of(plan) else "no arm of the suite is there as declared and as tuned"

    def shows(self, plan: Plan, arm: str) -> bool:
        return arm in pairs_of(plan)

    def columns(self, numbers: Numbers) -> list[Column]:
        plan = numbers.plan
        tuned = pairs_of(plan)

        def counterpart(e: Entry) -> Entry | None:
            same = (other for other in numbers.entries(tuned[e.arm]) if other.steps == e.steps)
            return next(same, None)

        def of_tuned(column: Column) -> Column:
            def cell(e: Entry) -> Value:
                other = counterpart(e)
                return MISSING if other is None else column.cell(other)

            return replace(column, key=f"tuned_{column.key}", cell=cell, expected=False)

        def change(e: Entry) -> Value:
            other = counterpart(e)
            return MISSING if other is None else numbers.difference(other, e, numbers.distance)

        def settings(e: Entry) -> str:
            values = plan.suite.tuned[tuned[e.arm]].choice.settings
            return ", ".join(f"{path} {value}" for path, value in values.items()) or "as declared"

        measured = [columns.distance(numbers)]
        if "fd_calibrated_{split}" in plan.suite.evaluation.metrics:
            measured += columns.further(numbers, ["fd_calibrated_{split}"])
        pairs = [
            shown
            for column in measured
            for shown in (column, replace(of_tuned(column), title=f"{column.title}, tuned"))
        ]
        title = METRICS[numbers.distance].title
        key = numbers.counted(f"difference_{numbers.distance}")
        return [
            columns.method(numbers),
            columns.steps(),
            columns.chains(numbers),
            *pairs,
            Column(key=key, title=f"Δ {title} of tuning", cell=change, signed=True),
            columns.text("settings", "Tuned settings", settings),
            *(of_tuned(column) for column in columns.tuning(numbers)),
            columns.text(
                "interior",
                "Rate interior",
                lambda e: "yes" if plan.suite.tuned[tuned[e.arm]].choice.interior else "no",
            ),
        ]


def pairs_of(plan: Plan) -> dict[str, str]:
    """By arm as declared, the arm that differs from it in what was chosen alone."""
    return {
        tuned.arm: name
        for name, tuned in plan.suite.tuned.items()
        if tuned.arm in plan.arms and describe(plan, name) == f"{describe(plan, tuned.arm)}, tuned"
    }
