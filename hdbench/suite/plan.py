"""A plan: all stages of a suite, and the rows that they serve."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from hdbench.core.config import nearest
from hdbench.core.errors import UserError
from hdbench.suite.schema import Arm, Recipe, Suite
from hdbench.suite.stage import Stage


@dataclass(frozen=True, kw_only=True)
class Row:
    """One evaluation of one arm: `stages` holds the ids on its chain by kind."""

    arm: str
    seed: int | None  # None: real images belong to no chain
    steps: int
    nfe: int  # network evaluations a sample, both halves of guidance counted
    stages: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All stages of a suite, each once, parents first, and the rows that they serve."""

    name: str
    suite: Suite
    arms: dict[str, Arm]
    sources: tuple[
        Path, ...
    ]  # the suite's file, those that it extends, and the recipes that it names
    recipes: dict[str, Recipe] = field(default_factory=dict)  # by arm
    declared: dict[str, Arm] = field(
        default_factory=dict
    )  # the arms with `equal_total` as it was written
    stages: dict[str, Stage] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def stage(self, stage_id: str) -> Stage:
        if stage_id not in self.stages:
            raise UserError(
                f"suite {self.name} has no stage {stage_id}{nearest(stage_id, self.stages)}"
            )
        return self.stages[stage_id]

    def arms_of(self, stage_id: str) -> list[str]:
        """The arms that need a stage, in the suite's order."""
        return list(dict.fromkeys(row.arm for row in self.rows if stage_id in row.stages.values()))
