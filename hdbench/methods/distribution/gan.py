"""The adversarial term of stage 2, for every head: a sample's loss is sum_j weights_j loss(s_j).

                critic                                generator
non-saturating  softplus(-s_real) + softplus(s_fake)  softplus(-s_fake)  (arXiv 1406.2661)
hinge           relu(1 - s_real) + relu(1 + s_fake)   -s_fake            (arXiv 1705.02894)
approximate R1  || D(x) - D(x + sigma n) ||^2, without a second derivative
                (arXiv 2501.08316, Section 3.3)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from hdbench.core.config import Config
from hdbench.core.distributed import share_of_batch
from hdbench.methods.discriminators.base import HeadOutput


class GanSettings(Config):
    """Shared by all heads, so that arms differ in the head alone."""

    loss: Literal["non_saturating", "hinge"] = "non_saturating"
    feature_network: Literal["teacher", "fake", "classifier"] = Field(
        default="teacher",
        description="frozen teacher (LADD, arXiv 2403.12015), the trained fake score "
        "(DMD2, arXiv 2405.14867) or, for gdd alone, a frozen classifier",
    )
    blocks: tuple[int, ...] = Field(
        default=(2, 3), min_length=1, description="blocks whose tokens are read, 1 = first"
    )
    parameters: int = Field(
        default=20000, ge=1, description="size of every head, met within 10% by its hidden width"
    )
    learning_rate: float = Field(default=1e-3, gt=0)
    relative_weight: float = Field(
        default=0.5,
        gt=0,
        description="RMS of the GAN's image gradient over that of the method's direction, or that "
        "RMS itself for a method without one; the same for every head",
    )
    t_min: float = Field(default=0.02, ge=0, le=1)
    t_max: float = Field(default=0.7, ge=0, le=1)
    times: Literal["own", "shared"] = Field(
        default="own",
        exclude_if=lambda times: times == "own",
        description="at which the head judges: own, uniform in [t_min, t_max]; shared, the "
        "direction's and, for the critic, the fake score's, so that one pass of the network whose "
        "tokens it reads serves both; see hdbench.methods.distribution.shared_pass",
    )
    r1_weight: float = Field(default=0.0, ge=0, description="weight of approximate R1")
    r1_sigma: float = Field(default=0.1, gt=0)
    heads: int = Field(
        default=1,
        ge=1,
        exclude_if=lambda heads: heads == 1,
        description="heads that share `parameters`; see hdbench.methods.discriminators.pool",
    )
    judging: int | None = Field(
        default=None,
        ge=1,
        exclude_if=lambda judging: judging is None,
        description="how many of them, drawn for each step, judge and are trained; by default all",
    )
    refresh: float = Field(
        default=0.0,
        ge=0,
        le=1,
        exclude_if=lambda refresh: refresh == 0,
        description="probability of each head to be initialised anew before a step",
    )

    @model_validator(mode="after")
    def _times_in_order(self):
        if self.t_min >= self.t_max:
            raise ValueError(f"t_min = {self.t_min}: must be below t_max = {self.t_max}")
        return self

    @model_validator(mode="after")
    def _some_of_the_heads_judge(self):
        if (self.judging or 1) > self.heads:
            raise ValueError(f"judging = {self.judging}: there are {self.heads} heads to draw from")
        return self

    @property
    def pooled(self) -> bool:
        """Whether the head is a pool."""
        return self.heads > 1 or self.refresh > 0

    @property
    def judgements(self) -> int:
        """Features that the head reads in one critic update: real, fake, and perturbed for R1."""
        return 3 if self.r1_weight else 2


class OnFake(GanSettings):
    """The head reads the trained fake score, as in DMD2."""

    feature_network: Literal["teacher", "fake"] = "fake"


class HingeOnTeacher(GanSettings):
    """Hinge loss on several blocks of the frozen teacher, as in LADD."""

    loss: Literal["non_saturating", "hinge"] = "hinge"
    blocks: tuple[int, ...] = Field(default=(1, 2, 3), min_length=1)


def critic_loss(real: HeadOutput, fake: HeadOutput, kind: str) -> Tensor:
    """Mean over the batch of the weighted sum over logits; a scalar."""
    if kind == "hinge":
        on_real = F.relu(1 - real.logits)
        on_fake = F.relu(1 + fake.logits)
    else:
        on_real = F.softplus(-real.logits)
        on_fake = F.softplus(fake.logits)
    return (real.weights * on_real).sum(1).mean() + (fake.weights * on_fake).sum(1).mean()


def generator_loss(fake: HeadOutput, kind: str) -> Tensor:
    """Mean over the batch of the weighted sum over logits; a scalar."""
    values = -fake.logits if kind == "hinge" else F.softplus(-fake.logits)
    return (fake.weights * values).sum(1).mean()


def approximate_r1(clean: HeadOutput, noisy: HeadOutput) -> Tensor:
    """Mean over the batch of the weighted squared difference of logits; a scalar."""
    return (clean.weights * (clean.logits - noisy.logits).square()).sum(1).mean()


def accuracy(real: HeadOutput, fake: HeadOutput) -> Tensor:
    """Share of logits with the right sign, real and fake alike; a scalar."""
    return 0.5 * ((real.logits > 0).float().mean() + (fake.logits < 0).float().mean())


def image_gradient(score: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """d score / d x at x (B, C, H, W), without a graph; networks inside and before get no gradient.

    The score is a mean over the batch; if that is spread over ranks, a rank's rows have their part
    in the mean over all.
    """
    x = x if x.requires_grad else x.detach().requires_grad_()
    return share_of_batch(len(x)) * torch.autograd.grad(score(x), x)[0]


def normalised_entropy(token_weights: Tensor) -> Tensor:
    """Mean entropy of the rows (B, N) over log N: 1 for equal weights, 0 for a single token."""
    entropy = torch.special.entr(token_weights).sum(1).mean()
    return entropy / math.log(max(token_weights.shape[1], 2))
