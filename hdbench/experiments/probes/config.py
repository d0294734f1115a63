"""Configuration, teachers and units of the probes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from hdbench.core.config import Config, validate
from hdbench.core.errors import UserError
from hdbench.core.yaml_file import read_yaml
from hdbench.experiments.units import Unit, check_distinct
from hdbench.methods.discriminators import HEADS
from hdbench.suite.checks import check_head
from hdbench.suite.load import load_plan
from hdbench.suite.plan import Plan
from hdbench.suite.schema import Suite
from hdbench.suite.stage import Stage

VERSION = 3  # of a unit's meaning
CONFIG = Path("workflow/probes.yaml")
STRENGTH = {"flip": 1.0, "fade": 0.25}  # a
DIGIT = 16  # side of one of a canvas's digits
TRAINED_HEADS = tuple(name for name, head in HEADS.load().items() if not head.parameter_free)
Rates = dict[str, tuple[float, ...]]  # learning rates by head


class Flaw(Config):
    change: Literal[tuple(STRENGTH)]
    size: int | None = Field(ge=1, description="side of the patch in pixels; null: everywhere")

    @model_validator(mode="after")
    def _detectable(self):
        if self.change == "flip" and (self.size is None or self.size > DIGIT // 2):
            raise ValueError(
                f"size = {self.size}: a flip of more than half a digit is as likely as the digit "
                f"itself; take at most {DIGIT // 2}, or a fade"
            )
        if self.size is not None and self.size >= 2 * DIGIT:
            raise ValueError(
                f"size = {self.size}: a canvas has {2 * DIGIT} x {2 * DIGIT} pixels; for all of it "
                "write null"
            )
        return self

    @property
    def name(self) -> str:
        return f"{self.change}{self.size or '_global'}"

    @property
    def title(self) -> str:
        return f"{self.change}, {f'{self.size} x {self.size}' if self.size else 'global'}"


class Probes(Config):
    """workflow/probes.yaml"""

    suites: tuple[str, ...] = Field(min_length=1, description="whose teachers' features are read")
    tokens: tuple[int, ...] = Field(
        min_length=1, description="of the teachers, each a line of the figure"
    )
    seeds: tuple[int, ...] = Field(min_length=1, description="of teachers and heads, to report")
    validation_seed: int = Field(ge=0, description="on which learning rates are chosen")
    flaws: tuple[Flaw, ...] = Field(min_length=1)
    heads: tuple[Literal[TRAINED_HEADS], ...] = Field(min_length=1)
    learning_rates: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        min_length=1, description="the grid that all heads share"
    )
    t_max: float = Field(
        gt=0,
        le=1,
        description="times are uniform from stage 2's smallest to this; much noise hides a flaw",
    )
    steps: int = Field(ge=1, description="of the heads' training")
    images: int = Field(ge=2, description="held-out images on which heads are measured")
    shown: int = Field(2, ge=1, description="images of each flaw in the figure of token weights")

    @model_validator(mode="after")
    def _consistent(self):
        check_distinct(self, "suites", "tokens", "seeds", "flaws", "heads", "learning_rates")
        if self.validation_seed in self.seeds:
            raise ValueError(
                f"validation_seed = {self.validation_seed}: is one of seeds; what is chosen on a "
                "seed is not reported on it"
            )
        if self.shown > self.images:
            raise ValueError(f"shown = {self.shown}: must not be above images = {self.images}")
        return self

    def cells(self) -> Iterator[tuple[int, Flaw, str]]:
        """Every number of tokens, flaw and head."""
        return itertools.product(self.tokens, self.flaws, self.heads)


def arm_name(head: str, tokens: int, flaw: Flaw) -> str:
    return f"{head}_n{tokens}_{flaw.name}"


def read_probes(path: Path = CONFIG) -> Probes:
    return validate(Probes, read_yaml(path), str(path))


class Source(NamedTuple):
    """A teacher, and the suite that trains it."""

    plan: Plan
    stage: Stage


def teachers(probes: Probes) -> dict[tuple[int, int], Source]:
    """The teachers by number of tokens and seed.

    UserError where no suite has one, or suites differ in more than patches and seeds.
    """
    plans = [load_plan(name) for name in probes.suites]
    check_first_suite(probes, plans[0])
    check_alike(probes, plans)
    available: dict[tuple[int, int], Source] = {}
    for plan in plans:
        tokens = (plan.suite.shape.image_size // plan.suite.network.patch) ** 2
        for row in plan.rows:
            if teacher := row.stages.get("teacher"):
                available.setdefault((tokens, row.seed), Source(plan, plan.stage(teacher)))
    seeds = (probes.validation_seed, *probes.seeds)
    wanted = list(itertools.product(probes.tokens, seeds))
    for tokens, seed in wanted:
        if (tokens, seed) not in available:
            names = ", ".join(f"{n} tokens, seed {s}" for n, s in sorted(available))
            raise UserError(
                f"suites = {list(probes.suites)}: none has a teacher of {tokens} tokens and seed "
                f"{seed}; they have {names}"
            )
    for plan, head in itertools.product(plans, probes.heads):
        objective = plan.suite.base.refine.objective.model_copy(update={"discriminator": head})
        check_head("base.refine.objective", objective, plan.suite, f"heads: {head} of {plan.stem}")
    return {key: available[key] for key in wanted}


def head_settings(suite: Suite) -> Any:
    """The settings of the heads of a suite's stage 2, if it has any."""
    head = suite.base.refine.objective.head() if suite.base.refine else None
    return head[1] if head else None


def check_first_suite(probes: Probes, plan: Plan) -> None:
    """UserError where no flaw can be planted in the suite's data, or none of its features read."""
    source = f"suites = {list(probes.suites)}"
    data = plan.suite.data
    if data.name != "canvas":
        raise UserError(
            f"{source}: {plan.stem} has data {data.name}; flaws are planted in canvas alone"
        )
    settings = head_settings(plan.suite)
    if settings is None or settings.feature_network != "teacher":
        raise UserError(
            f"{source}: stage 2 of {plan.stem} does not read a frozen teacher's features; name "
            "another suite"
        )
    if probes.t_max < settings.t_min:
        raise UserError(
            f"t_max = {probes.t_max}: stage 2 of {plan.stem} has times from t_min = "
            f"{settings.t_min}; raise it"
        )
    if probes.images > data.test // 2:
        raise UserError(
            f"images = {probes.images}: test has only {data.test // 2} for validation and as many "
            "to report; lower it"
        )


def check_alike(probes: Probes, plans: list[Plan]) -> None:
    """UserError where suites differ in more than patches and seeds."""
    first = plans[0].suite
    for plan in plans:
        network = plan.suite.network.model_copy(update={"patch": first.network.patch})
        suite = plan.suite.model_copy(update={"network": network})
        for key in ("data", "base", "network", "teacher"):
            if getattr(suite, key) != getattr(first, key):
                raise UserError(
                    f"suites = {list(probes.suites)}: {plan.stem} has other {key} than "
                    f"{plans[0].stem}; name suites that differ in network.patch and seeds"
                )


@dataclass(frozen=True, eq=False)
class ProbeUnit(Unit):
    """Heads at some learning rates against one flaw, on one teacher's features."""

    probes: Probes
    source: Source
    tokens: int
    seed: int
    flaw: Flaw
    rates: Rates

    experiment = "probes"
    fields = (
        "heads",
        "rates",
        "names",
        "values",
        "parameters",
        "weights",
        "flawed",
        "where",
        "core_seconds",
    )

    @property
    def validates(self) -> bool:
        return self.seed == self.probes.validation_seed

    @property
    def name(self) -> str:
        return f"n{self.tokens}-{self.flaw.name}-s{self.seed}"

    @property
    def steps(self) -> int:
        return self.probes.steps

    @property
    def decisive(self) -> dict[str, Any]:
        """The teacher's own digest covers data and network."""
        return {
            "version": VERSION,
            "teacher": self.source.stage.id,
            "seed": self.seed,
            "rates": self.rates,
            "validates": self.validates,
            "flaw": self.flaw.model_dump(mode="json"),
            "refine": self.source.plan.suite.base.refine.model_dump(mode="json"),
            **self.probes.model_dump(mode="json", include={"steps", "images", "shown", "t_max"}),
        }
