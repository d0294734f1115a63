"""What objectives and the training loop have in common: an `Update`, a `Setting`, the adaptive weight and regressions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from pydantic import Field
from torch import Tensor, nn

from hdbench.core.config import Config
from hdbench.core.distributed import any_of
from hdbench.core.seeds import Draws
from hdbench.flow.path import Velocity


@dataclass(frozen=True, kw_only=True)
class Update:
    """One kind of optimiser step: draw a batch, get the loss, step these modules; `repeats` times a training step."""

    name: str
    modules: dict[str, nn.Module]  # what is trained, by name
    learning_rates: dict[str, float]  # by module name
    draw: Callable[[Draws], tuple[Tensor, ...]]
    loss: Callable[
        ..., tuple[Tensor, dict[str, Tensor]]
    ]  # of what `draw` returned: (scalar loss, scalars to log)
    repeats: int = 1
    frozen: dict[str, nn.Module] = field(
        default_factory=dict
    )  # part of the state, shaped like the student, not trained
    begin: Callable[[int, int], int] = lambda step, steps: (
        0
    )  # before each `step` of `steps`: since which one weights average


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a stage gives to its objective."""

    student: nn.Module  # the network to train, already initialised from the stage's parent
    learning_rate: float
    teacher: nn.Module | None = None  # frozen
    teacher_velocity: Velocity | None = None  # frozen teacher with the suite's guidance
    copy_teacher: Callable[[], nn.Module] | None = None  # a trainable copy of the teacher
    head: Callable[..., nn.Module] | None = (
        None  # (name, GanConfiguration) -> a fresh discriminator head
    )
    pairs: tuple[Tensor, Tensor, Tensor] | None = (
        None  # the teacher's eps and x (M, C, H, W), and their labels (M,)
    )


class Pairs(Config):
    """How many pairs (noise, image) of the teacher's ODE an objective needs; the DAG makes them, and their cost counts."""

    count: int = Field(4000, ge=1)
    steps: int = Field(
        25, ge=1, description="Euler steps of the guided teacher from noise to image"
    )


def adaptive_mean_square(delta: Tensor, power: float, offset: float) -> Tensor:
    """mean_b sg(w_b) d_b with d = mean of delta^2 over C, H, W and w = 1 / (d + offset)^power (MeanFlow, Eq. 22).

    delta (B, C, H, W).  The norm is a *mean* over dimensions; public codes that take a sum differ by the factor C H W.
    """
    d = delta.square().flatten(1).mean(1)
    return ((d + offset).pow(-power).detach() * d).mean()


def regression(
    configuration: Config,
    setting: Setting,
    draw: Callable[[Draws], tuple[Tensor, ...]],
    residual: Callable[..., Tensor],
    **more,
) -> list[Update]:
    """The one update of a student whose loss is the adaptive mean square of `residual` (B, C, H, W) of what `draw` returned.

    `configuration` has adaptive_power and adaptive_offset; `more` goes to the `Update`.
    """

    def loss(*drawn: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        delta = residual(*drawn)
        value = adaptive_mean_square(
            delta, configuration.adaptive_power, configuration.adaptive_offset
        )
        return value, {"loss": value, "mean_square": delta.square().mean()}

    return [
        Update(
            name="student",
            modules={"student": setting.student},
            draw=draw,
            loss=loss,
            learning_rates={"student": setting.learning_rate},
            **more,
        )
    ]


def on_rows(rows: Tensor, function: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
    """function of these rows (B,) of the arguments, without gradient.

    Ranks call it equally often, since a network may be spread over them: one without such rows takes any and keeps none.
    """
    if not any_of(bool(rows.any()))[0]:
        return arguments[0][rows]
    with torch.no_grad():
        return function(*(x[rows if rows.any() else slice(0, 1)] for x in arguments))[: rows.sum()]
