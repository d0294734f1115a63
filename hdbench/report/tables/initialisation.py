"""What stage 2 starts from."""

from __future__ import annotations

from hdbench.report import columns
from hdbench.report.columns import Column
from hdbench.report.numbers import Entry, Numbers
from hdbench.report.tables.base import Table
from hdbench.suite.arms import equal_total, head_of, same_from_trajectory, trajectory_alone
from hdbench.suite.plan import Plan


class Initialisation(Table):
    """Stage 2 from a trajectory student and from the teacher, head by head."""

    name = "initialisation"
    caption = "Initialisation of stage 2 at equal steps of stage 2 and at equal total compute."

    def shows(self, plan: Plan, arm: str) -> bool:
        return bool(plan.arms[arm].refine) and arm not in plan.recipes

    def order(self, plan: Plan, arm: str) -> tuple[int, bool, bool]:
        """By head, in each from trajectory students, then from the teacher, equal totals last."""
        heads = list(dict.fromkeys(head_of(config) for config in plan.arms.values()))
        config = plan.arms[arm]
        return heads.index(head_of(config)), not config.trajectory, equal_total(plan, arm)

    def columns(self, numbers: Numbers) -> list[Column]:
        plan = numbers.plan

        def control(e: Entry) -> str:
            if plan.arms[e.arm].trajectory or same_from_trajectory(plan, e.arm) in (None, e.arm):
                return "none"
            return "equal total compute" if equal_total(plan, e.arm) else "equal stage-2 steps"

        def trajectory_student(e: Entry) -> Entry | None:
            alone = trajectory_alone(plan, e.arm)
            return numbers.entries(alone)[0] if alone else None

        return [
            columns.head(numbers),
            columns.start(numbers),
            columns.text("control", "Control", control),
            *columns.fidelity(numbers, trajectory_student, "Start: "),
            columns.stage_two_steps(numbers),
            columns.training(numbers),
            columns.chains(numbers),
            *columns.quality(numbers),
            *columns.against(numbers, same_from_trajectory, "TD start"),
        ]
