"""What a figure is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import ClassVar

import matplotlib.pyplot as plt

from hdbench.report.figures.sources import Sources
from hdbench.report.tables import TABLES
from hdbench.suite.plan import Plan


class Figure(ABC):
    """A kind of figure of a suite: what it shows, and how; one file each."""

    name: ClassVar[str]
    tables: ClassVar[tuple[str, ...]] = ("main",)  # whose rows it shows; without any, all arms

    @abstractmethod
    def draw(self, sources: Sources) -> plt.Figure:
        """The drawing; where there is nothing to draw, `style.nothing`."""

    def part(self, plan: Plan) -> Plan:
        """The plan with the arms that it shows and the real images alone."""
        if not self.tables:
            return plan
        shown = {arm for table in self.tables for arm in TABLES[table]().rows(plan)}
        arms = {name: arm for name, arm in plan.arms.items() if arm.real or name in shown}
        return replace(plan, arms=arms, rows=[row for row in plan.rows if row.arm in arms])
