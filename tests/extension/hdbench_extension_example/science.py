"""An objective, a head, a metric and a data set.

They are imported while the schema of suites is made, so this module imports neither hdbench.suite
nor a folder after it: table and figure have a module of their own.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from hdbench.datasets.base import Dataset
from hdbench.flow.path import interpolate
from hdbench.methods.base import Batch, Passes, Regression
from hdbench.methods.discriminators.base import Head, HeadOutput, mlp, uniform
from hdbench.metrics.base import Estimate, Metric, MetricInput, mean


class VelocityDistillation(Regression):
    """Regression on the teacher's guided velocity: || u(z_t, t, t) - v^w(z_t, t) ||^2."""

    name: Literal["velocity_distillation"] = "velocity_distillation"
    title: ClassVar[str] = "Velocity distillation"

    def sampler(self):
        return "ode"

    def updates(self, problem):
        def draw(d) -> Batch:
            x, c = d.data()
            return {"x": x, "c": c, "eps": d.noise(), "t": d.uniform()}

        def residual(b: Batch) -> Tensor:
            z = interpolate(b["x"], b["eps"], b["t"])
            with torch.no_grad():
                v = problem.teacher_velocity(z, b["t"], b["c"])
            return problem.student(z, b["t"], b["t"], b["c"]) - v

        return self.regression(problem, draw, residual)

    def passes(self, depth, guided):
        teacher = Passes(forward=2 if guided else 1)
        return {"teacher": teacher, "student": Passes(forward=1, backward=2)}


class MaxPooled(Head):
    """One logit a block, s_l = MLP_l(max over tokens of h_l)."""

    name: ClassVar[str] = "max_pooled"
    title: ClassVar[str] = "max-pooled"

    def __init__(self, layers: int, width: int, grid: int, hidden: int):
        super().__init__()
        self.mlps = nn.ModuleList(mlp(width, hidden) for _ in range(layers))

    def forward(self, tokens: list[Tensor]) -> HeadOutput:
        scores = [score(h.amax(1)) for score, h in zip(self.mlps, tokens, strict=True)]
        logits = torch.cat(scores, dim=1)
        return HeadOutput(logits, uniform(logits), uniform(tokens[0][..., 0]))


class Brightness(Metric):
    """Mean grey level of the samples, in [0, 1]."""

    name = "brightness"
    title = "Brightness"
    low = 0.0
    high = 1.0

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        grey = sample.images.double().flatten(1).mean(1) / 255
        return {self.name: mean(grey.numpy())}


class Stripes(Dataset):
    """Horizontal and vertical stripes with a random phase and some noise."""

    title: ClassVar[str] = "8x8 stripes, horizontal and vertical"

    name: Literal["stripes"] = "stripes"
    noise: float = Field(0.1, ge=0, le=1, description="standard deviation of the grey levels")

    image_size: int = Field(8, ge=8, le=8)
    channels: int = Field(1, ge=1, le=1)
    classes: int = Field(2, ge=2, le=2)

    @property
    def counts(self) -> dict[str, int]:
        return {"train": 256, "test": 128}

    def build(self) -> dict[str, tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        return {split: self._drawn(count, generator) for split, count in self.counts.items()}

    def _drawn(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images (N, 1, 8, 8) uint8 and labels (N,) int64."""
        labels = torch.arange(count) % 2
        phase = torch.randint(0, 4, (count, 1), generator=generator)
        wave = ((torch.arange(8) + phase) // 2 % 2).float()  # (N, 8)
        vertical = wave[:, None, :].expand(-1, 8, -1)
        ink = torch.where(labels[:, None, None] == 1, vertical, vertical.mT)
        noise = self.noise * torch.randn(ink.shape, generator=generator)
        images = ((ink + noise).clamp(0, 1) * 255).round().to(torch.uint8)
        return images.unsqueeze(1), labels
