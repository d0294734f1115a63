"""What a suite says of its tables and claims, checked before any compute."""

from __future__ import annotations

from hdbench.report.claims import claims_judged
from hdbench.report.rules import read_rules
from hdbench.report.tables import tables_of
from hdbench.suite.plan import Plan


def check_reports(plan: Plan) -> tuple[str, ...]:
    """Names of the suite's tables; UserError for an unknown table, option or claim."""
    if plan.suite.claims is not None:
        claims_judged(plan, read_rules(), ())
    return tuple(tables_of(plan))
