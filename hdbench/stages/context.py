"""What a stage is given, and what it reads from its parents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hdbench.core.progress import Progress
from hdbench.stages import artifact
from hdbench.suite.plan import Plan
from hdbench.suite.stage import Stage

WEIGHTS, PAIRS = "weights.safetensors", "pairs.safetensors"
PROMPTS = (
    "sampled.json"  # of a `text` stage: the prompts of the samples, by the names of their images
)


@dataclass(frozen=True, kw_only=True)
class Context:
    """Where a stage runs: plan, results folder, work folder, device, and what to call it in messages."""

    plan: Plan
    results: Path
    work: artifact.Work
    stage: Stage
    label: str
    device: torch.device
    checkpoint_seconds: float
    sharding: str = "none"  # of what is trained, over several ranks; see hdbench.stages.trainer
    loaded: dict[str, tuple[Path, dict[str, Any]]] = field(default_factory=dict)

    def parent(self, role: str) -> tuple[Path, dict[str, Any]]:
        """Folder and manifest, checked once: a cache of latents takes minutes to hash."""
        stage = self.stage.parents[role]
        if stage not in self.loaded:
            self.loaded[stage] = artifact.load(self.results, stage)
        return self.loaded[stage]

    def dataset(self):
        return self.plan.suite.data


Payload = tuple[
    list[str], dict[str, Any]
]  # names of the files in the work folder, and facts for the manifest


def prompts_of(context: Context) -> list[str]:
    """The prompts of the data, by label."""
    return [row["prompt"] for row in context.dataset().prompts()]


def labels_of(context: Context, indices: range) -> Tensor:
    """Labels (N,) of these samples: classes in turn, or the rows of the prompts to be sampled, in turn as `sampled` says.

    That is [first row, number of rows, stride]: where prompts are ordered, a stride without common factor mixes them.
    """
    first, count, stride = (
        context.parent("text")[1]["sampled"]
        if "text" in context.stage.parents
        else (0, context.dataset().classes, 1)
    )
    return first + torch.tensor(indices, dtype=torch.int64) * stride % count


def targets_of(context: Context, labels: Tensor) -> Tensor:
    """What a classifier should find: labels (N,), or of data with several attributes their classes (N, A)."""
    return context.dataset().targets(labels)


def of_classifier(dataset) -> dict[str, Any]:
    """The classifier's sizes: one group of classes, or one for each attribute."""
    return {
        "image_size": dataset.image_size,
        "channels": dataset.channels,
        "attributes": dataset.attributes,
    }


def progress_of(context: Context) -> Callable[[int, int], None]:
    """Progress for work that says itself how much it is."""
    progress = Progress(context.label, 0)

    def said(done: int, total: int) -> None:
        progress.total = total
        progress(done)

    return said


def dimensions(dataset) -> tuple[int, int, int]:
    return dataset.channels, dataset.image_size, dataset.image_size


def shape(dataset) -> dict[str, int]:
    return {
        "image_size": dataset.image_size,
        "channels": dataset.channels,
        "classes": dataset.classes,
    }
