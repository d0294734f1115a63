"""The networks of stage 2 while it trains, and the names of their heads."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import AfterValidator
from pydantic_core import PydanticCustomError
from torch import Tensor, nn

from hdbench.flow.path import Velocity, guided_by
from hdbench.methods.discriminators import HEADS
from hdbench.methods.discriminators.base import HeadOutput

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


@dataclass(frozen=True, kw_only=True)
class Networks:
    """The networks of stage 2 while it trains."""

    student: nn.Module
    teacher: nn.Module
    real: Velocity
    """The teacher's guided velocity."""
    fake_network: nn.Module | None
    """The fake score; None for a method without one."""
    head: nn.Module | None
    """The discriminator head; None without one."""
    features: Any
    """Whose tokens the head reads, by `features(z, t, c, blocks)`."""
    fake_guidance: float | Tensor = 1.0
    """Guidance of the fake score: one number or (B,)."""

    @property
    def fake(self) -> Velocity:
        return guided_by(self.fake_network, self.fake_guidance)

    def judge(self, point: Point, blocks: tuple[int, ...]) -> HeadOutput:
        """The head's output at (z, t, c)."""
        return self.apply_head(self.features.features(*point, blocks))

    def judge_for_critic(self, point: Point, blocks: tuple[int, ...]) -> HeadOutput:
        """As `judge`; a frozen feature network keeps no graph."""
        with nullcontext() if self.features is self.fake_network else torch.no_grad():
            tokens = self.features.features(*point, blocks)
        return self.apply_head(tokens)

    def apply_head(self, tokens: list[Tensor]) -> HeadOutput:
        """Without autocast: logits and weights stay float32."""
        with torch.autocast("cuda" if tokens[0].is_cuda else "cpu", enabled=False):
            parameter = next(self.head.parameters(), None)
            dtype = torch.float32 if parameter is None else parameter.dtype
            return self.head([h.to(dtype) for h in tokens])
