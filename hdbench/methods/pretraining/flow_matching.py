"""Flow matching: v_theta(z_t, t, c) against eps - x (Lipman et al., arXiv 2210.02747; SiT, arXiv 2401.08740, Eq. 6)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from hdbench.core.config import Config
from hdbench.flow.path import Velocity, interpolate, velocity
from hdbench.methods.base import Setting, Update

SAMPLER = "ode"  # how a network of this objective samples, see hdbench.flow.samplers


class Configuration(Config):
    name: Literal["flow_matching"] = "flow_matching"
    label_dropout: float = Field(
        0.1, ge=0, le=1, description="share of labels replaced by the null label, for guidance"
    )


def flow_matching_loss(
    v: Velocity, x: Tensor, eps: Tensor, t: Tensor, c: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """mean || v(z_t, t, c) - (eps - x) ||^2 over batch and dimensions; x, eps (B, C, H, W), t (B,), c (B,)."""
    loss = (v(interpolate(x, eps, t), t, c) - (eps - x)).square().mean()
    return loss, {"loss": loss}


def updates(configuration: Configuration, setting: Setting) -> list[Update]:
    def draw(d):
        x, c = d.data()
        c = torch.where(d.uniform() < configuration.label_dropout, setting.student.null_label, c)
        return x, d.noise(), d.uniform(), c

    v = velocity(setting.student)
    return [
        Update(
            name="student",
            modules={"student": setting.student},
            draw=draw,
            learning_rates={"student": setting.learning_rate},
            loss=lambda x, eps, t, c: flow_matching_loss(v, x, eps, t, c),
        )
    ]


def forward_equivalents(configuration: Configuration, depth: int, guided: bool) -> dict[str, float]:
    """Per sample and training step, in forwards of the network; a backward is two."""
    return {"student forward": 1, "student backward": 2}
