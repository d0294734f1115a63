"""A plan: all stages of a suite, and the rows that they serve."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from hdbench.core.config import nearest
from hdbench.core.errors import UserError
from hdbench.suite.schema import Arm, Recipe, Suite
from hdbench.suite.stage import Stage

# kinds of which a suite or a chain has one stage, or one that stands for all
SHARED = (
    "data",
    "classifier",
    "clip",
    "text",
    "reference",
    "autoencoder",
    "latents",
    "sensitivity",
)


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
    sources: tuple[Path, ...]
    """The suite's file, those that it extends, and the recipes that it names."""
    recipes: dict[str, Recipe]
    """By arm, of those that name one."""
    declared: dict[str, Arm]
    """The arms with `equal_total` as it was written, also trials that diverged and are not run."""
    untuned: dict[str, Arm]
    """The declared arms, those that were tuned without what was chosen for them."""
    stages: dict[str, Stage] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    further: list[Row] = field(default_factory=list)
    """Of further seeds of stage 2 at a chain's teacher and trajectory."""

    @property
    def all_rows(self) -> list[Row]:
        return [*self.rows, *self.further]

    @property
    def stem(self) -> str:
        """What messages call the suite: its file's name."""
        return self.sources[0].stem

    @property
    def given(self) -> str:
        """What names the suite to a command: its name if it is shipped, else its path."""
        return self.name if self.name == self.stem else str(self.sources[0])

    def stage(self, stage_id: str) -> Stage:
        if stage_id not in self.stages:
            raise UserError(
                f"suite {self.stem} has no stage {stage_id}{nearest(stage_id, self.stages)}"
            )
        return self.stages[stage_id]

    def evaluations(self, row: Row) -> list[str]:
        """The stages that measure a row: of the protocol, then of further metrics."""
        return [stage for stage in row.stages.values() if self.stage(stage).kind == "evaluate"]

    def arms_of(self, stage_id: str) -> list[str]:
        """The arms that need a stage, in the suite's order."""
        return list(
            dict.fromkeys(row.arm for row in self.all_rows if stage_id in row.stages.values())
        )

    def made_from(self, stage_ids: Iterable[str]) -> list[str]:
        """These stages and all that are made from them, parents first."""
        made = set(stage_ids)
        for stage in self.stages.values():
            if made & set(stage.parents.values()):
                made.add(stage.id)
        return [stage_id for stage_id in self.stages if stage_id in made]

    def needed_for(self, stage_ids: Iterable[str]) -> list[str]:
        """These stages and all that they are made from, parents first."""
        needed = set(stage_ids)
        for stage in reversed(self.stages.values()):
            if stage.id in needed:
                needed.update(stage.parents.values())
        return [stage_id for stage_id in self.stages if stage_id in needed]


def seed_of(plan: Plan, seed: int | None) -> int:
    """A seed of the suite, a chain's or one of stage 2; by default the first chain's."""
    seed = plan.suite.seeds[0] if seed is None else seed
    known = [*plan.suite.seeds, *(s for seeds in plan.suite.stage2_seeds.values() for s in seeds)]
    if seed not in known:
        raise UserError(
            f"--seed = {seed}: suite {plan.stem} has the seeds {', '.join(map(str, known))}"
        )
    return seed


def rows_of(plan: Plan, arm: str, seed: int | None) -> list[Row]:
    """The rows of an arm with one seed; see `seed_of`."""
    if arm not in plan.arms:
        raise UserError(f"--arm = {arm!r}: unknown arm" + nearest(arm, plan.arms))
    seed = seed_of(plan, seed)
    return [row for row in plan.all_rows if row.arm == arm and row.seed in (seed, None)]


def shared_stage(plan: Plan, kind: str, seed: int | None) -> Stage:
    """The stage of a kind in SHARED that the rows of one seed are measured by; see `seed_of`."""
    seed = seed_of(plan, seed)
    rows = [row for row in plan.all_rows if row.seed in (seed, None)]
    needed = plan.needed_for(stage for row in rows for stage in row.stages.values())
    for stage in (*needed, *plan.made_from(needed)):  # no row needs `sensitivity`
        if plan.stages[stage].kind == kind:
            return plan.stages[stage]
    raise UserError(
        f"suite {plan.stem} has no {kind} stage of seed {seed}; `hdbench plan` lists its stages"
    )


def find_stage(
    plan: Plan, kind: str, arm: str | None, seed: int | None, steps: int | None
) -> Stage:
    """The stage of this kind for an arm; of the first seed and step count where not given."""
    if kind in SHARED:
        return shared_stage(plan, kind, seed)
    if arm is None and kind == "teacher":
        arm = next((row.arm for row in plan.rows if "teacher" in row.stages), None)
    if arm is None:
        raise UserError(
            f"say which stage: --arm NAME or --id ID; arms of {plan.stem}: {', '.join(plan.arms)}"
        )
    rows = rows_of(plan, arm, seed)
    rows = [row for row in rows if steps in (None, row.steps)]
    if not rows:
        raise UserError(
            f"--steps = {steps}: arm {arm} samples with "
            f"{', '.join(map(str, plan.arms[arm].steps))} steps"
        )
    if kind not in rows[0].stages:
        raise UserError(
            f"arm {arm} has no {kind} stage; its stages are {', '.join(rows[0].stages)}"
        )
    return plan.stage(rows[0].stages[kind])
