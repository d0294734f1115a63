"""What a table is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from hdbench.report.columns import Column
from hdbench.report.document import Document
from hdbench.report.numbers import Numbers
from hdbench.suite.arms import base_arm
from hdbench.suite.plan import Plan
from hdbench.suite.tables import TableOptions


class Table(ABC):
    """A kind of table of a suite: which arms it shows, and its columns; one file each.

    A suite's entry `tables.<name>` states what differs from the defaults here; `rows`, `compared`
    and `title` are what holds for a suite.
    """

    name: ClassVar[str]
    caption: ClassVar[str]

    @abstractmethod
    def shows(self, plan: Plan, arm: str) -> bool:
        """Whether an arm is a row where the suite does not say otherwise."""

    @abstractmethod
    def columns(self, numbers: Numbers) -> list[Column]:
        """Its columns, all of them functions of an entry."""

    def document(self, numbers: Numbers) -> Document | None:
        """The whole table, of a kind whose rows are no arms; None: `rows` and `columns` make it."""
        return None

    def order(self, plan: Plan, arm: str) -> Any:
        """Sort key of rows; equal ones are in the suite's order."""
        return rank(plan, arm)

    def against(self, plan: Plan) -> tuple[str, ...]:
        """Arms to which it shows paired differences where the suite does not name any."""
        base = base_arm(plan)
        return (base,) if base else ()

    def lacks(self, plan: Plan) -> str:
        """Why a suite cannot have it, as a sentence, or an empty text."""
        return ""

    def options(self, plan: Plan) -> TableOptions:
        """What the suite says of it."""
        tables = plan.suite.tables
        return (tables.get(self.name) if isinstance(tables, dict) else None) or TableOptions()

    def rows(self, plan: Plan) -> tuple[str, ...]:
        """Arms in the order of its rows."""
        options = self.options(plan)
        if options.rows is not None:
            return options.rows
        shown = [
            arm
            for arm in plan.arms
            if (self.shows(plan, arm) or arm in options.also) and arm not in options.without
        ]
        return tuple(sorted(shown, key=lambda arm: self.order(plan, arm)))

    def compared(self, plan: Plan) -> tuple[str, ...]:
        """Arms to which it shows paired differences."""
        options = self.options(plan)
        return self.against(plan) if options.against is None else options.against

    def title(self, plan: Plan) -> str:
        """The caption's first sentence."""
        return self.options(plan).caption or self.caption


def rank(plan: Plan, arm: str) -> int:
    """Real images, teachers, public networks, then all others."""
    config = plan.arms[arm]
    if config.real:
        return 0
    if config.baseline:
        return 2
    return 3 if config.trajectory or config.refine else 1
