"""All kinds of tables, and those of a suite."""

from __future__ import annotations

from hdbench.core.config import nearest
from hdbench.core.errors import UserError
from hdbench.core.registry import Registry
from hdbench.report.tables.base import Table
from hdbench.report.tables.categories import Categories
from hdbench.report.tables.components import Components
from hdbench.report.tables.cost import Cost
from hdbench.report.tables.discriminators import Discriminators
from hdbench.report.tables.factors import Distances, Factors
from hdbench.report.tables.initialisation import Initialisation
from hdbench.report.tables.main import Main
from hdbench.report.tables.methods import Methods
from hdbench.report.tables.reproducibility import Reproducibility
from hdbench.report.tables.sensitivity import Sensitivity
from hdbench.report.tables.tuning import Tuning
from hdbench.suite.plan import Plan

TABLES: Registry[Table] = Registry(
    "hdbench.tables",
    base=Table,
    builtin=[
        Main,
        Components,
        Discriminators,
        Initialisation,
        Methods,
        Cost,
        Reproducibility,
        Categories,
        Factors,
        Distances,
        Sensitivity,
        Tuning,
    ],
)


def tables_of(plan: Plan) -> dict[str, Table]:
    """The tables that a suite is rendered as, by name.

    All that it can have, or those that it lists; it leaves one out by null.  UserError for a name
    that no table has, and for a table that the suite names and cannot have.
    """
    kinds = TABLES.load()
    named = plan.suite.tables
    for name in named:
        where = f"{plan.sources[0]}: tables.{name}"
        if name not in kinds:
            raise UserError(f"{where}: unknown table" + nearest(name, kinds))
        left_out = isinstance(named, dict) and named[name] is None
        if not left_out and (reason := kinds[name]().lacks(plan)):
            raise UserError(f"{where}: {reason}; remove it")
    wanted = {name: kind() for name, kind in kinds.items() if _wanted(name, named)}
    return {
        name: table
        for name, table in wanted.items()
        if not table.lacks(plan) and (table.rows(plan) or name in named)
    }


def _wanted(name: str, named: dict | tuple) -> bool:
    return named.get(name, True) is not None if isinstance(named, dict) else name in named
