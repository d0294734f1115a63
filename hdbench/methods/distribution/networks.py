"""The networks of stage 2 while it trains, and the names of their heads."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from pydantic import AfterValidator
from pydantic_core import PydanticCustomError
from torch import Tensor, nn

from hdbench.flow.path import Velocity, guided_by
from hdbench.methods.discriminators import HEADS
from hdbench.methods.discriminators.base import HeadOutput
from hdbench.methods.discriminators.pool import HeadPool
from hdbench.methods.distribution.gan import GanSettings
from hdbench.methods.distribution.shared_pass import SharedPass

Point = tuple[Tensor, Tensor, Tensor]  # (z, t, c) at which a network is asked


def known_head(name: str) -> str:
    """The name itself; a validation error unless it is "none" or a head's, installed or ours."""
    known = ("none", *HEADS.load())
    if name not in known:
        expected = ", ".join(f"'{choice}'" for choice in known)
        raise PydanticCustomError(
            "literal_error", "Input should be {expected}", {"expected": expected}
        )
    return name


def parameter_free(name: str) -> bool:
    """Whether a head of this name, or "none", has no parameters."""
    return name in HEADS and HEADS[name].parameter_free


Discriminator = Annotated[str, AfterValidator(known_head)]


def head_problem(objective: Any) -> str:
    """Why an objective of stage 2 cannot have its head with these settings, or ""."""
    gan = objective.gan
    of_regulariser = objective.regulariser and objective.regulariser.pairs_needed()
    if objective.contrast and objective.discriminator == "none":
        return "contrast: there is no discriminator to show the pairs to"
    if objective.contrast and of_regulariser not in (None, objective.contrast):
        return "contrast: must be the same pairs as the regulariser's"
    if (gan.feature_network == "classifier") != objective.reads_classifier:
        return (
            f"gan.feature_network = {gan.feature_network}: objective gdd reads a classifier, and "
            "no other does"
        )
    if parameter_free(objective.discriminator) and gan.feature_network == "teacher":
        return (
            f"gan.feature_network = teacher: neither it nor head {objective.discriminator} would "
            "learn; use fake"
        )
    if gan.times == "shared" and not objective.has_one_point:
        return (
            f"gan.times = shared: the direction of {objective.name} does not ask teacher and fake "
            "score at one noised sample; use own"
        )
    if gan.times == "shared" and objective.at_null_label(gan.feature_network):
        return (
            f"gan.times = shared: the {gan.feature_network}, whose tokens the head reads, is asked "
            "or learns at its null label; use own"
        )
    return ""


def new_head(build: Callable[..., nn.Module], name: str, gan: GanSettings) -> nn.Module:
    """The head, or a pool of heads that share its parameters."""
    if not gan.pooled:
        return build(name, gan)
    share = gan.model_copy(update={"parameters": max(gan.parameters // gan.heads, 1)})

    def fresh(*axes: int) -> nn.Module:
        return build(name, share, *axes)

    return HeadPool(fresh, gan.heads, gan.judging, gan.refresh)


@dataclass(frozen=True, kw_only=True)
class Networks:
    """The networks of stage 2 while it trains."""

    student: nn.Module
    teacher: Any
    real: Velocity
    """The teacher's guided velocity."""
    fake_network: Any
    """The fake score; None for a method without one."""
    head: nn.Module | None
    """The discriminator head; None without one."""
    features: Any
    """Whose tokens the head reads, by `features(z, t, c, blocks)`."""
    guide: Callable[[Any], Velocity] | None = None
    """Makes `real` of what stands for the teacher; see `Problem`."""
    fake_guidance: float | Tensor = 1.0
    """Guidance of the fake score: one number or (B,)."""

    def with_shared(self, shared: SharedPass) -> Networks:
        """With a shared pass in place of the network that it is of."""
        if shared.network is not self.teacher:
            return replace(self, fake_network=shared)
        if self.guide is None:
            raise ValueError("Problem.guide: gan.times = shared needs it")
        return replace(self, teacher=shared, real=self.guide(shared))

    @property
    def fake(self) -> Velocity:
        return guided_by(self.fake_network, self.fake_guidance)

    def judge(self, point: Point, blocks: tuple[int, ...]) -> HeadOutput:
        """The head's output at (z, t, c)."""
        return self.apply_head(self.features.features(*point, blocks))

    def judge_for_critic(
        self, point: Point, blocks: tuple[int, ...], shared: SharedPass | None = None
    ) -> HeadOutput:
        """As `judge`, or of a pass that was at that point; a frozen network keeps no graph."""
        if shared and shared.tokens:
            return self.apply_head(shared.tokens)
        with nullcontext() if self.features is self.fake_network else torch.no_grad():
            tokens = self.features.features(*point, blocks)
        return self.apply_head(tokens)

    def apply_head(self, tokens: list[Tensor]) -> HeadOutput:
        """Without autocast: logits and weights stay float32."""
        with torch.autocast("cuda" if tokens[0].is_cuda else "cpu", enabled=False):
            parameter = next(self.head.parameters(), None)
            dtype = torch.float32 if parameter is None else parameter.dtype
            return self.head([h.to(dtype) for h in tokens])
