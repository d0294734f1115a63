"""Names in rules of claims: of arms and metrics that there are, or a sentence with the nearest."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from hdbench.core.config import nearest
from hdbench.core.errors import UserError
from hdbench.metrics import METRICS, metric_of
from hdbench.report.rules import Rules, arms_of
from hdbench.suite.plan import Plan
from hdbench.suite.reading import SUITES, read_suite


def check_arms(rules: Rules, path: Path, plan: Plan) -> None:
    """That the arms that claims name are of this suite or of another in workflow/suites.

    What names an arm of another suite is not testable in this one; what names none is a mistake.
    """
    claims = {
        arm: name for name, claim in rules.claims.items() for arm in arms_of({name: claim}, rules)
    }
    if others := [arm for arm in claims if arm not in plan.arms]:
        suites = map(read_suite, SUITES.glob("*.yaml"))
        known = {*plan.arms, *(arm for suite in suites for arm in suite.get("arms") or ())}
        if unknown := [arm for arm in others if arm not in known]:
            raise UserError(
                f"{path}: claims.{claims[unknown[0]]}: no suite has an arm {unknown[0]!r}"
                + nearest(unknown[0], known)
            )


def check_metric_names(rules: Rules, path: Path, frame: pd.DataFrame) -> None:
    """That the metrics of the suite's claims are known, or among the costs of these numbers.

    Numbers without costs say nothing of these.
    """
    if not (costs := set(frame.metric[frame.protocol == "cost"])):
        return
    for name, claim in rules.claims.items():
        for test in claim.tests if claim.source == "suite" else ():
            if not metric_of(test.metric) and test.metric not in costs:
                raise UserError(
                    f"{path}: claims.{name}: no metric {test.metric!r}"
                    + nearest(test.metric, {*METRICS, *costs})
                )
