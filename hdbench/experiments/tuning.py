"""The rule by which heads are tuned: of a head's arms the one with the smallest fd_train on the validation chain."""

from __future__ import annotations

from math import isfinite

import pandas as pd

from hdbench.core.errors import UserError
from hdbench.metrics.records import with_count
from hdbench.suite.arms import head_of
from hdbench.suite.plan import Plan

METRIC = "fd_train"
TUNED = ("learning_rate", "relative_weight")  # of the head


def settings(plan: Plan, arm: str) -> dict[str, float]:
    gan = plan.arms[arm].refine.objective.gan
    return {name: getattr(gan, name) for name in TUNED}


def grid(plan: Plan) -> dict[str, list[str]]:
    """The arms of each head, in the suite's order."""
    found: dict[str, list[str]] = {}
    for name, arm in plan.arms.items():
        if head_of(arm) not in (None, "none"):
            found.setdefault(head_of(arm), []).append(name)
    return found


def chosen(plan: Plan, frame: pd.DataFrame) -> dict[str, str]:
    """Of each head the best arm; UserError if the suite has several chains, or an arm has no finite number of its own."""
    if len(plan.suite.seeds) > 1:
        raise UserError(
            f"suite {plan.name}: seeds = {list(plan.suite.seeds)}: heads are tuned on one chain; name another "
            "suite"
        )
    digests = {row.arm: plan.stage(row.stages["evaluate"]).digest for row in plan.rows}
    own = frame[
        (frame.suite == plan.name)
        & (frame.metric == with_count(METRIC, plan.suite.evaluation.samples))
    ]
    is_earlier = not set(own.digest) & set(digests.values())  # a committed run of an earlier version
    values = {
        row.arm: row.value
        for row in own.itertuples()
        if (is_earlier or digests.get(row.arm) == row.digest) and isfinite(row.value)
    }
    best = {}
    for head, arms in grid(plan).items():
        if missing := [arm for arm in arms if arm not in values]:
            raise UserError(
                f"suite {plan.name}: no {METRIC} of {', '.join(missing)}; run the suite first (an arm that has "
                "diverged has none: take its settings out of the grid of all heads)"
            )
        best[head] = min(arms, key=values.__getitem__)
    return best
