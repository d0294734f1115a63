"""Contrastive training of a CLIP (Radford et al., arXiv 2103.00020) with open_clip's loss.

Cross-entropy of each image's own caption among the batch's and of each caption's own image, averaged.  Of rows that
share a caption each counts the others as wrong, as in all public training of this kind.
"""

from __future__ import annotations

from typing import Literal

from hdbench.core.config import Config
from hdbench.methods.base import Setting, Update


class Configuration(Config):
    name: Literal["contrastive"] = "contrastive"


def updates(configuration: Configuration, setting: Setting) -> list[Update]:
    from open_clip import ClipLoss

    criterion = ClipLoss()

    def loss(x, rows):
        images, texts, scale = setting.student(x, rows)
        value = criterion(images, texts, scale)
        own = (images @ texts.T).argmax(1) == rows.new_tensor(range(len(rows)))
        return value, {"loss": value, "accuracy": own.float().mean()}

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
    """Per sample and training step, in forwards of both towers; a backward is two."""
    return {"clip forward": 1, "clip backward": 2}
