"""The contract of an objective, and what objectives share.

An objective is its configuration and its mathematics in one class.  The training loop knows
updates, the DAG knows samplers, pairs and passes; neither knows an objective by name.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from hdbench.core.config import Config
from hdbench.core.seeds import Draws, Split
from hdbench.flow.path import Velocity

Batch = dict[str, Any]  # what an update has drawn, by name: tensors of B rows, and splits of them
Loss = tuple[Tensor, dict[str, Tensor]]  # a scalar to descend, and scalars to log
SamplerName = Literal["ode", "flow_map", "consistency", "mix"]
AdaptivePower = Annotated[
    float, Field(ge=0, description="p of the adaptive weight 1 / (d + c)^p, d a mean of squares")
]


LogitNormal = Annotated[
    tuple[float, Annotated[float, Field(gt=0)]] | None,
    Field(
        exclude_if=lambda moments: moments is None,
        description="mean and standard deviation of logit t; None: t is uniform",
    ),
]


def times_of(u: Tensor, logit_normal: tuple[float, float] | None) -> Tensor:
    """t (B,) in [0, 1] of a `LogitNormal` law from u (B,), uniform in [0, 1), by its quantiles."""
    if logit_normal is None:
        return u
    mean, deviation = logit_normal
    return torch.sigmoid(mean + deviation * torch.special.ndtri(u))


class Passes(NamedTuple):
    """Passes of one network for one sample and training step, in forwards of it.

    A backward to the weights counts two, one to the input alone one, a forward-mode tangent one.
    """

    forward: float = 0.0
    backward: float = 0.0
    tangent: float = 0.0

    def plus(self, other: Passes) -> Passes:
        """Kind by kind."""
        return Passes(*(a + b for a, b in zip(self, other, strict=True)))


def total(passes: Mapping[str, Passes]) -> float:
    """Forward-equivalents of one sample and training step, over all networks."""
    return sum(sum(kinds) for kinds in passes.values())


class Pairs(Config):
    """Pairs (noise, image) of the teacher's ODE; the DAG makes them, and their cost counts."""

    count: int = Field(default=4000, ge=1)
    steps: int = Field(
        default=25, ge=1, description="Euler steps of the guided teacher, noise to image"
    )


@dataclass(frozen=True, kw_only=True)
class Update:
    """One kind of optimiser step, run `repeats` times a training step."""

    name: str
    modules: dict[str, nn.Module]
    """What is trained, by name."""
    learning_rates: dict[str, float]
    """Peak learning rates by module name."""
    draw: Callable[[Draws], Batch]
    """Draws the batch; the order of draws is the order of the dictionary."""
    loss: Callable[[Batch], Loss]
    """The loss of a batch, a mean over its rows, and scalars to log."""
    repeats: int = 1
    frozen: dict[str, nn.Module] = field(default_factory=dict)
    """Modules that belong to the state of training but are not trained."""
    on_step: Callable[[int, int], Sequence[nn.Parameter] | None] = lambda step, steps: None
    """Called before every `step` of `steps`; gives the parameters that it drew anew, if any, whose
    optimiser's state then starts anew too."""
    round_of: Callable[[int, int], range] = lambda step, steps: range(steps)
    """The steps of the round of `step`: its average of weights and its schedule begin there."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What a stage gives to its objective."""

    student: nn.Module
    """The network to train, initialised from the stage's parent."""
    learning_rate: float
    teacher: nn.Module | None = None
    """Frozen."""
    teacher_velocity: Velocity | None = None
    """The frozen teacher with the suite's guidance."""
    guide: Callable[[Any], Velocity] | None = None
    """Makes that of a network, for a pass that stands for the teacher's."""
    copy_teacher: Callable[[], nn.Module] | None = None
    """Makes a trainable copy of the teacher."""
    head: Callable[..., nn.Module] | None = None
    """(name, GanSettings, *axes) -> a fresh discriminator head, the same for equal axes."""
    classifier: nn.Module | None = None
    """A frozen classifier's features, for an objective that `reads_classifier`."""
    pairs: tuple[Tensor, Tensor, Tensor] | None = None
    """The teacher's eps and x (M, C, H, W), and their labels (M,)."""


class Objective(Config):
    """What a training stage minimises: its hyper-parameters as fields, its mathematics as methods.

    A subclass gives `name` (a Literal field with its default), `title`, `updates` and `passes`;
    a network that generates also has a `sampler`.
    """

    name: str
    title: ClassVar[str]
    """The name for people."""
    version: ClassVar[int] = 1
    """Raise it when equal configurations give other results; it enters the digest of stages."""
    role: ClassVar[Literal["classifier", "clip", "autoencoder", "teacher", "student"]] = "student"
    """Which training stages may use it."""
    reads_classifier: ClassVar[bool] = False
    """Whether it needs a classifier's features, of another seed than the metrics' classifier."""
    learns_mean_velocity: ClassVar[bool] = False
    """Whether a perfect student has the true mean velocity u(z, r, t)."""
    exchanges: ClassVar[bool] = False
    """Whether ranks exchange sums inside its losses."""
    trains_on: ClassVar[tuple[str, ...]] = ()
    """Networks of metrics whose features its losses see: roles of the networks of evaluation, or
    "classifier", the one that measures in small suites.  Such a metric then decides no claim."""

    @abstractmethod
    def updates(self, problem: Problem) -> list[Update]:
        """The optimiser steps of one training step, in their order."""
        raise NotImplementedError

    @abstractmethod
    def passes(self, depth: int, guided: bool) -> dict[str, Passes]:
        """Passes by network, each of `depth` blocks; `guided`: whether the teacher has guidance."""
        raise NotImplementedError

    def sampler(self) -> SamplerName | None:
        """How the trained network generates, see hdbench.flow.samplers; None if it does not."""
        return None

    def pairs_needed(self) -> Pairs | None:
        """The teacher's ODE pairs that it learns from."""
        return None

    def head(self) -> tuple[str, Any] | None:
        """Its discriminator head ("none" without one) and settings; None if it cannot have one."""
        return None

    def unread_of_head(self) -> tuple[str, ...]:
        """Fields of the head's settings that its training does not read."""
        return ()

    def rounds(self) -> int:
        """Rounds of training, each of which needs at least one step."""
        return 1

    def sampling_steps(self) -> int | None:
        """The number of steps that the network is trained to sample in; None if any."""
        return None

    def teacher_steps(self) -> int | None:
        """Euler steps of the teacher that a perfect student follows; None for the exact flow."""
        return None


class Regression(Objective):
    """An objective whose loss is the adaptive mean square of a residual."""

    adaptive_power: AdaptivePower = 0.0
    adaptive_offset: float = Field(default=1e-3, gt=0, description="c of the adaptive weight")

    def sampler(self) -> SamplerName | None:
        return "flow_map"

    def regression(
        self,
        problem: Problem,
        draw: Callable[[Draws], Batch],
        residual: Callable[[Batch], Tensor],
        **options,
    ) -> list[Update]:
        """The student's update; `residual` gives (B, C, H, W), `options` go to the Update."""

        def loss(b: Batch) -> Loss:
            delta = residual(b)
            value = adaptive_mean_square(delta, self.adaptive_power, self.adaptive_offset)
            return value, {"loss": value, "mean_square": delta.square().mean()}

        return [student_update(problem, draw, loss, **options)]


def student_update(problem: Problem, draw: Callable[[Draws], Batch], loss, **options) -> Update:
    """The update of an objective that trains the student alone."""
    return Update(
        name="student",
        modules={"student": problem.student},
        learning_rates={"student": problem.learning_rate},
        draw=draw,
        loss=loss,
        **options,
    )


def adaptive_mean_square(delta: Tensor, power: float, offset: float) -> Tensor:
    """mean_b sg(w_b) d_b with d = mean of delta^2 over C, H, W and w = 1 / (d + offset)^power.

    delta (B, C, H, W) -> scalar (MeanFlow, arXiv 2505.13447, Eq. 22).  The norm is a *mean* over
    dimensions; public codes that take a sum differ by the factor C H W.
    """
    d = delta.square().flatten(1).mean(1)
    return ((d + offset).pow(-power).detach() * d).mean()


def after_split(split: Split, function: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
    """function of the rows from the split on, (n, ...) for the n such rows here.

    Ranks call it equally often, since a network may be sharded over them: one without such rows
    takes any and keeps none.
    """
    n = len(arguments[0]) - split.at
    if not split.after:
        return arguments[0][split.at :]
    rows = slice(split.at, None) if n else slice(0, 1)
    return function(*(x[rows] for x in arguments))[:n]


def before_split(split: Split, function: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
    """As `after_split`, of the rows before it."""
    if not split.before:
        return arguments[0][: split.at]
    rows = slice(0, max(split.at, 1))
    return function(*(x[rows] for x in arguments))[: split.at]
