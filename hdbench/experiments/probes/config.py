"""Configuration, teachers and units of the probes."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field, model_validator
from safetensors.torch import load_file
from torch import nn

from hdbench.core.config import Config, read_yaml, validate
from hdbench.core.errors import UserError
from hdbench.methods.discriminators import HEADS
from hdbench.stages import artifact
from hdbench.stages.context import WEIGHTS, shape
from hdbench.suite.checks import check_head
from hdbench.suite.load import load_plan
from hdbench.suite.plan import Plan
from hdbench.suite.stage import Stage

VERSION = 3  # of a unit's meaning
CONFIG = Path("workflow/probes.yaml")
STRENGTH = {"flip": 1.0, "fade": 0.25}  # a
DIGIT = 16  # side of one of a canvas's digits
Rates = dict[str, tuple[float, ...]]  # learning rates by head


class Flaw(Config):
    change: Literal[tuple(STRENGTH)]
    size: int | None = Field(ge=1, description="side of the patch in pixels; null: everywhere")

    @model_validator(mode="after")
    def _can_be_found(self):
        if self.change == "flip" and (self.size is None or self.size > DIGIT // 2):
            raise ValueError(
                f"size = {self.size}: a flip of more than half a digit is as likely as the digit itself; take at "
                f"most {DIGIT // 2}, or a fade"
            )
        if (self.size or 0) >= 2 * DIGIT:
            raise ValueError(
                f"size = {self.size}: a canvas has {2 * DIGIT} x {2 * DIGIT} pixels; for all of it write null"
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
    heads: tuple[Literal[tuple(HEADS)], ...] = Field(min_length=1)
    learning_rates: tuple[float, ...] = Field(
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
    def _lists(self):
        for name in ("suites", "tokens", "seeds", "flaws", "heads", "learning_rates"):
            values = [
                value.name if isinstance(value, Flaw) else value for value in getattr(self, name)
            ]
            if len(set(values)) < len(values):
                raise ValueError(f"{name} = {values}: one stands twice; remove it")
        if min(self.learning_rates) <= 0:
            raise ValueError(f"learning_rates = {list(self.learning_rates)}: must be positive")
        if self.validation_seed in self.seeds:
            raise ValueError(
                f"validation_seed = {self.validation_seed}: is one of seeds; what is chosen on a seed is not "
                "reported on it"
            )
        if self.shown > self.images:
            raise ValueError(f"shown = {self.shown}: must not be above images = {self.images}")
        return self


def read_probes(path: Path = CONFIG) -> Probes:
    return validate(Probes, read_yaml(path), str(path))


class Source(NamedTuple):
    """A teacher, and the suite that trains it."""

    plan: Plan
    stage: Stage


def teachers(probes: Probes) -> dict[tuple[int, int], Source]:
    """By number of tokens and seed; UserError where no suite has one, or suites that differ in more than networks."""
    plans, found = [load_plan(name) for name in probes.suites], {}
    first, told = plans[0].suite, f"suites = {list(probes.suites)}"
    if first.data.name != "canvas":
        raise UserError(
            f"{told}: {plans[0].stem} has data {first.data.name}; flaws are planted in canvas alone"
        )
    gan = getattr(first.base.refine and first.base.refine.objective, "gan", None)
    if gan is None or gan.feature_network != "teacher":
        raise UserError(
            f"{told}: stage 2 of {plans[0].stem} does not read a frozen teacher's features; name another suite"
        )
    if probes.t_max < gan.t_min:
        raise UserError(
            f"t_max = {probes.t_max}: stage 2 of {plans[0].stem} has times from t_min = {gan.t_min}; raise it"
        )
    if probes.images > first.data.test // 2:
        raise UserError(
            f"images = {probes.images}: test has only {first.data.test // 2} for validation and as many to "
            "report; lower it"
        )
    for plan in plans:
        alike = plan.suite.model_copy(
            update={"network": plan.suite.network.model_copy(update={"patch": first.network.patch})}
        )
        for part in ("data", "base", "network", "teacher"):
            if getattr(alike, part) != getattr(first, part):
                raise UserError(
                    f"{told}: {plan.stem} has other {part} than {plans[0].stem}; name suites that differ in "
                    "network.patch and seeds"
                )
        tokens = (first.data.image_size // plan.suite.network.patch) ** 2
        for row in plan.rows:
            if "teacher" in row.stages:
                found.setdefault(
                    (tokens, row.seed), Source(plan, plan.stage(row.stages["teacher"]))
                )
    wanted = {
        (tokens, seed): None
        for tokens in probes.tokens
        for seed in (probes.validation_seed, *probes.seeds)
    }
    for tokens, seed in wanted:
        if (tokens, seed) not in found:
            have = ", ".join(f"{n} tokens, seed {s}" for n, s in sorted(found))
            raise UserError(
                f"{told}: none has a teacher of {tokens} tokens and seed {seed}; they have {have}"
            )
    for plan, head in itertools.product(plans, probes.heads):
        objective = plan.suite.base.refine.objective.model_copy(update={"discriminator": head})
        check_head("base.refine.objective", objective, plan.suite, f"heads: {head} of {plan.stem}")
    return {key: found[key] for key in wanted}


def load_teacher(source: Source, results: Path) -> nn.Module:
    from hdbench.networks.transformer import Transformer

    path, _ = artifact.load(results, source.stage.id)
    network = Transformer(
        source.stage.config.network,
        **shape(source.plan.suite.data),
        mean_velocity=False,
    )
    network.load_state_dict(load_file(path / WEIGHTS))
    return network.requires_grad_(False)


@dataclass(frozen=True, eq=False)
class Unit:
    """Heads at some learning rates against one flaw, on one teacher's features."""

    probes: Probes
    source: Source
    tokens: int
    seed: int
    flaw: Flaw
    rates: Rates

    @property
    def validates(self) -> bool:
        return self.seed == self.probes.validation_seed

    @property
    def name(self) -> str:
        return f"n{self.tokens}-{self.flaw.name}-s{self.seed}"

    @property
    def digest(self) -> str:
        """Of all that decides the unit; the teacher's own digest covers data and network."""
        said = {
            "version": VERSION,
            "teacher": self.source.stage.id,
            "seed": self.seed,
            "rates": self.rates,
            "validates": self.validates,
            "flaw": self.flaw.model_dump(mode="json"),
            "refine": self.source.plan.suite.base.refine.model_dump(mode="json"),
            **self.probes.model_dump(mode="json", include={"steps", "images", "shown", "t_max"}),
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]

    def path(self, results: Path) -> Path:
        return results / "probes" / "units" / f"{self.name}-{self.digest}.npz"
