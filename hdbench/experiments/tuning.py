"""How heads are tuned: each has its arm with the smallest fd_train on the validation seed."""

from __future__ import annotations

from math import isfinite

import pandas as pd

from hdbench.core.errors import UserError
from hdbench.experiments.units import choose
from hdbench.metrics.records import with_count
from hdbench.suite.arms import head_of
from hdbench.suite.plan import Plan

METRIC = "fd_train"
TUNED = ("learning_rate", "relative_weight")  # of the head


def settings(plan: Plan, arm: str) -> dict[str, float]:
    """The tuned values of an arm's head."""
    gan = plan.arms[arm].refine.objective.gan
    return {name: getattr(gan, name) for name in TUNED}


def grid(plan: Plan) -> dict[str, list[str]]:
    """The arms of each head, in the suite's order."""
    arms: dict[str, list[str]] = {}
    for name, arm in plan.arms.items():
        if head_of(arm) not in (None, "none"):
            arms.setdefault(head_of(arm), []).append(name)
    return arms


def chosen(plan: Plan, frame: pd.DataFrame) -> dict[str, str]:
    """The best arm of each head.

    UserError if the suite has several seeds, or an arm has no finite number of this suite.
    """
    if len(plan.suite.seeds) > 1:
        raise UserError(
            f"suite {plan.name}: seeds = {list(plan.suite.seeds)}: heads are tuned on one seed; "
            "name another suite"
        )
    values = distances(plan, frame)
    arms = grid(plan)
    for candidates in arms.values():
        if missing := [arm for arm in candidates if arm not in values]:
            raise UserError(
                f"suite {plan.name}: no {METRIC} of {', '.join(missing)}; run the suite first (an "
                "arm that has diverged has none: take its settings out of the grid of all heads)"
            )
    return choose(
        (head, arm, -values[arm]) for head, candidates in arms.items() for arm in candidates
    )


def distances(plan: Plan, frame: pd.DataFrame) -> dict[str, float]:
    """`METRIC` by arm where it is finite: of present evaluations, or all if there are none."""
    rows = numbers(plan, frame)
    if not is_of_another_version(plan, frame):
        rows = rows[rows.digest == rows.arm.map(digests(plan))]
    return {row.arm: row.value for row in rows.itertuples() if isfinite(row.value)}


def is_of_another_version(plan: Plan, frame: pd.DataFrame) -> bool:
    """Whether the frame has numbers of the suite, but none of its present evaluations."""
    rows = numbers(plan, frame)
    return len(rows) > 0 and not set(rows.digest) & set(digests(plan).values())


def numbers(plan: Plan, frame: pd.DataFrame) -> pd.DataFrame:
    """The suite's rows of `METRIC`."""
    metric = with_count(METRIC, plan.suite.evaluation.samples)
    return frame[(frame.suite == plan.name) & (frame.metric == metric)]


def digests(plan: Plan) -> dict[str, str]:
    """Those of the present evaluations, by arm."""
    return {row.arm: plan.stage(row.stages["evaluate"]).digest for row in plan.rows}
