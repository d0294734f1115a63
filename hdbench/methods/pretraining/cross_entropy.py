"""Cross-entropy of a classifier on clean images, summed over what it tells apart.

It trains the network whose features the small suites' metrics use.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F

from hdbench.core.config import Config
from hdbench.methods.base import Setting, Update


class Configuration(Config):
    name: Literal["cross_entropy"] = "cross_entropy"


def updates(configuration: Configuration, setting: Setting) -> list[Update]:
    def loss(x, labels):
        groups = setting.student(x).split(setting.student.attributes, dim=1)
        value = sum(
            F.cross_entropy(group, wanted)
            for group, wanted in zip(groups, labels.view(len(x), -1).unbind(1))
        )
        return value, {"loss": value}

    return [
        Update(
            name="student",
            modules={"student": setting.student},
            draw=lambda d: d.data(),
            loss=loss,
            learning_rates={"student": setting.learning_rate},
        )
    ]


def forward_equivalents(configuration: Configuration, depth: int, guided: bool) -> dict[str, float]:
    """Per sample and training step, in forwards of the classifier; a backward is two."""
    return {"classifier forward": 1, "classifier backward": 2}
