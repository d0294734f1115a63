"""Configuration and units of the theory experiment."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from hdbench.core.config import Config, nearest, validate
from hdbench.core.yaml_file import read_yaml
from hdbench.experiments.units import Unit, check_distinct, unit_digest
from hdbench.methods import OBJECTIVES
from hdbench.suite.training import Decay, Objective

VERSION = 1  # of a unit's meaning
CONFIG = Path("workflow/theory.yaml")
SHAPE = (1, 1, 1)  # a point of the line as an image, (C, H, W)
RADIUS = 1.5  # in sd: points this near to a sub-mode count as of it
Positive = Annotated[int, Field(ge=1)]


class Data(Config):
    """Evenly spaced clusters of evenly spaced sub-modes N(mu_k, sd^2), and a broad background."""

    clusters: int = Field(ge=2)
    distance: float = Field(gt=0, description="of neighbouring clusters")
    submodes: int = Field(ge=2, description="of each cluster")
    gap: float = Field(gt=0, description="of neighbouring sub-modes")
    sd: float = Field(gt=0, description="of a sub-mode")
    background: float = Field(
        ge=0, lt=1, description="share of the background, which bounds the slope of the flow map"
    )
    background_sd: float = Field(gt=0)
    points: int = Field(ge=1, description="size of the training set, from which batches are drawn")

    @model_validator(mode="after")
    def _apart(self):
        if 2 * RADIUS * self.sd > self.gap:
            raise ValueError(
                f"gap = {self.gap}: neighbouring sub-modes must be {2 * RADIUS:g} sd apart or more"
            )
        if 2 * self.cluster_radius > self.distance:
            raise ValueError(
                f"distance = {self.distance}: neighbouring clusters overlap; it must be at least "
                f"{2 * self.cluster_radius:g}"
            )
        return self

    @property
    def within(self) -> float:
        """sd of a cluster."""
        return math.sqrt(self.sd**2 + self.gap**2 * (self.submodes**2 - 1) / 12)

    @property
    def cluster_radius(self) -> float:
        return 2 * self.within


class Network(Config):
    layers: int = Field(ge=1, description="hidden")
    frequencies: int = Field(
        ge=0, description="sines and cosines of z, t and t - r, besides the three themselves"
    )


class Schedule(Config):
    """Training of every student, see hdbench.suite.schema.Training."""

    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    ema: Decay


class Method(Config):
    objective: Objective
    title: str | None = Field(None, description="in table and figure; by default the objective's")
    every_width: bool = Field(
        False, description="train it in every width, not in the largest alone"
    )

    @model_validator(mode="after")
    def _has_a_mean_velocity(self):
        if not self.objective.learns_mean_velocity:
            learning = [name for name, cls in OBJECTIVES.items() if cls.learns_mean_velocity]
            raise ValueError(
                f"objective.name = {self.objective.name}: does not claim the true mean velocity"
                + nearest(self.objective.name, learning)
            )
        return self

    @property
    def short_title(self) -> str:
        return self.title or self.objective.title

    @property
    def full_title(self) -> str:
        """`Consistency, 64 teacher steps`"""
        steps = self.teacher_steps
        return self.short_title + (f", {steps} teacher steps" if steps else "")

    @property
    def teacher_steps(self) -> int | None:
        return self.objective.teacher_steps()


class Theory(Config):
    """workflow/theory.yaml"""

    seeds: tuple[int, ...] = Field(min_length=1)
    data: Data
    network: Network
    widths: tuple[Positive, ...] = Field(min_length=1)
    training: Schedule
    noises: int = Field(ge=2, description="at which every student is measured")
    euler_steps: tuple[Positive, ...] = Field(
        min_length=1, description="of the exact velocity, as references"
    )
    methods: dict[str, Method] = Field(min_length=1)
    shown: str = Field(description="the method whose samples are drawn, trained in every width")

    @model_validator(mode="after")
    def _consistent(self):
        check_distinct(self, "seeds", "widths", "euler_steps")
        complete = [name for name, method in self.methods.items() if method.every_width]
        if self.shown not in complete:
            raise ValueError(
                f"shown = {self.shown}: must be a method with every_width"
                + nearest(self.shown, complete)
            )
        return self

    @property
    def largest(self) -> int:
        """The width in which every method is trained."""
        return max(self.widths)

    def decisive(self, *keys: str, **more: Any) -> dict[str, Any]:
        """What a digest covers: these keys of the configuration, and more."""
        return self.model_dump(mode="json", include=set(keys)) | more | {"version": VERSION}

    def euler_digest(self) -> str:
        """Of the samples of the exact velocity."""
        return unit_digest(self.decisive("data", "noises"))


@dataclass(frozen=True, eq=False)
class StudentUnit(Unit):
    """One student: a method at a width, from a seed."""

    theory: Theory
    method: str
    width: int
    seed: int

    experiment = "theory"
    fields = ("samples", "core_seconds", "parameters")

    @property
    def arm(self) -> str:
        return f"{self.method}_w{self.width}"

    @property
    def name(self) -> str:
        return f"{self.arm}-s{self.seed}"

    @property
    def steps(self) -> int:
        return self.theory.training.steps

    @property
    def decisive(self) -> dict[str, Any]:
        return self.theory.decisive(
            "data",
            "network",
            "training",
            "noises",
            objective=self.theory.methods[self.method].objective.model_dump(mode="json"),
            width=self.width,
            seed=self.seed,
        )


def students_of(theory: Theory) -> list[StudentUnit]:
    """Every method at its widths, from every seed."""
    return [
        StudentUnit(theory, name, width, seed)
        for name, method in theory.methods.items()
        for width in theory.widths
        if method.every_width or width == theory.largest
        for seed in theory.seeds
    ]


def read_theory_config(path: Path = CONFIG) -> Theory:
    return validate(Theory, read_yaml(path), str(path))
