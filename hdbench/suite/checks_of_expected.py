"""What a suite's `expected` names is there."""

from __future__ import annotations

from hdbench.core.config import nearest
from hdbench.core.errors import UserError
from hdbench.evaluation.protocols import PROTOCOLS
from hdbench.metrics import metric_of
from hdbench.suite.plan import Plan


def check_expected(plan: Plan, source: str) -> None:
    """UserError for what is of no row, metric or trained stage of the suite, its file `source`."""
    expected = plan.suite.expected
    for number, entry in enumerate(expected.metrics if expected else ()):
        key = f"{source}: expected.metrics.{number}"
        if entry.arm not in plan.arms:
            raise UserError(
                f"{key}.arm = {entry.arm!r}: unknown arm" + nearest(entry.arm, plan.arms)
            )
        if entry.steps not in (steps := plan.arms[entry.arm].steps):
            raise UserError(
                f"{key}.steps = {entry.steps}: arm {entry.arm!r} has {list(steps)}; name one"
            )
        known = (*PROTOCOLS[plan.suite.evaluation.protocol].metrics, *plan.suite.evaluation.metrics)
        kind = metric_of(entry.metric)
        if kind is None or kind.name not in known or not kind.better:
            raise UserError(
                f"{key}.metric = {entry.metric!r}: the suite measures nothing of that name of "
                "which one end is better" + nearest(entry.metric, known)
            )
    for number, entry in enumerate(expected.curves if expected else ()):
        key = f"{source}: expected.curves.{number}"
        if entry.arm not in plan.arms:
            raise UserError(
                f"{key}.arm = {entry.arm!r}: unknown arm" + nearest(entry.arm, plan.arms)
            )
        arm = plan.arms[entry.arm]
        training = plan.suite.teacher.training if entry.stage == "teacher" else None
        if not (training or getattr(arm, entry.stage, None)) or arm.real:
            raise UserError(
                f"{key}.stage = {entry.stage!r}: arm {entry.arm!r} trains no such stage; name "
                "another"
            )
