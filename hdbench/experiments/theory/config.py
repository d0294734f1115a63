"""Configuration and units of the theory experiment."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, model_validator

from hdbench.core.config import Config, nearest, read_yaml, validate
from hdbench.suite.schema import Decay, Objective

VERSION = 1  # of a unit's meaning
CONFIG = Path("workflow/theory.yaml")
SHAPE = (1, 1, 1)  # a point of the line as an image, (C, H, W)
RADIUS = 1.5  # in sd: what is this near to a sub-mode is counted as of it
NAMES = {
    "knowledge": "Regression on true pairs",
    "meanflow": "MeanFlow",
    "improved_meanflow": "Improved MeanFlow",
    "scm": "sCM",
    "shortcut": "Shortcut",
    "consistency": "Consistency",
    "progressive": "Progressive",
}


class Data(Config):
    """Evenly spaced clusters of evenly spaced sub-modes, N(mu_k, sd^2), and a background N(0, background_sd^2) around them."""

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
    every_width: bool = Field(
        False, description="train it in every width, not in the largest alone"
    )

    @model_validator(mode="after")
    def _has_a_mean_velocity(self):
        if self.objective.name not in NAMES:
            raise ValueError(
                f"objective.name = {self.objective.name}: does not claim the true mean velocity"
                + nearest(self.objective.name, NAMES)
            )
        return self


class Theory(Config):
    """workflow/theory.yaml"""

    seeds: tuple[int, ...] = Field(min_length=1)
    data: Data
    network: Network
    widths: tuple[int, ...] = Field(min_length=1)
    training: Schedule
    noises: int = Field(ge=2, description="at which every student is measured")
    euler_steps: tuple[int, ...] = Field(
        min_length=1, description="of the exact velocity, as references"
    )
    methods: dict[str, Method] = Field(min_length=1)
    shown: str = Field(description="the method whose samples are drawn, trained in every width")

    @model_validator(mode="after")
    def _sizes(self):
        for name in ("seeds", "widths", "euler_steps"):
            if len(set(values := getattr(self, name))) < len(values) or (
                name != "seeds" and min(values, default=1) < 1
            ):
                raise ValueError(
                    f"{name} = {list(values)}: must be different"
                    + " and positive" * (name != "seeds")
                )
        if self.shown not in self.methods or not self.methods[self.shown].every_width:
            raise ValueError(
                f"shown = {self.shown}: must be a method with every_width"
                + nearest(
                    self.shown,
                    (name for name, method in self.methods.items() if method.every_width),
                )
            )
        return self

    @property
    def largest(self) -> int:
        return max(self.widths)


def digest(theory: Theory, *parts: str, **more) -> str:
    said = theory.model_dump(mode="json", include=set(parts)) | more | {"version": VERSION}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Unit:
    """One student: a method at a width, from a seed; keyed by a digest of all that decides it."""

    theory: Theory
    method: str
    width: int
    seed: int

    @property
    def arm(self) -> str:
        return f"{self.method}_w{self.width}"

    @property
    def digest(self) -> str:
        objective = self.theory.methods[self.method].objective.model_dump(mode="json")
        return digest(
            self.theory,
            "data",
            "network",
            "training",
            "noises",
            objective=objective,
            width=self.width,
            seed=self.seed,
        )

    def path(self, results: Path) -> Path:
        return results / "theory" / "units" / f"{self.arm}-s{self.seed}-{self.digest}.npz"


def units(theory: Theory) -> list[Unit]:
    return [
        Unit(theory, name, width, seed)
        for name, method in theory.methods.items()
        for width in theory.widths
        if method.every_width or width == theory.largest
        for seed in theory.seeds
    ]


def read_theory_config(path: Path = CONFIG) -> Theory:
    return validate(Theory, read_yaml(path), str(path))


def label(method: str, objective: Objective) -> str:
    """`Consistency, 64 teacher steps`"""
    steps = teacher_steps(objective)
    return NAMES[objective.name] + (f", {steps} teacher steps" if steps else "")


def teacher_steps(objective: Objective) -> int | None:
    """Euler steps of the teacher that the method's perfect student follows; None if it follows the exact flow."""
    return objective.teacher_steps()
