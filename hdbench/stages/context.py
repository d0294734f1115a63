"""What a stage is given, and what it reads from its parents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from hdbench.core.progress import Progress
from hdbench.networks.autoencoders import Autoencoder, AutoencoderConfig, load
from hdbench.networks.text import Conditions
from hdbench.stages import artifact
from hdbench.suite.stage import Stage, config_of

WEIGHTS = "weights.safetensors"
PAIRS = "pairs.safetensors"
LATENTS = "latents.safetensors"
# of a `text` stage: the prompts of the samples, by the names of their images
PROMPTS = "sampled.json"


class Parent(NamedTuple):
    """A parent's artifact: its folder and its manifest."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def config(self) -> Any:
        """The typed configuration that it was made with."""
        return config_of(self.manifest["kind"], self.manifest["config"])


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a stage's computation is given."""

    stage: Stage
    results: Path
    work: artifact.Work  # where it writes
    label: str  # its name in messages
    device: torch.device
    checkpoint_seconds: float  # between two checkpoints
    sharding: str = "none"  # of what is trained, over several ranks; see hdbench.stages.trainer
    loaded: dict[str, Parent] = field(default_factory=dict)

    @property
    def config(self) -> Any:
        """The stage's own configuration, of its kind's type: hdbench.suite.stage.CONFIGS."""
        return self.stage.config

    def parent(self, role: str) -> Parent:
        """A parent's artifact, checked once: a cache of latents takes minutes to hash."""
        stage = self.stage.parents[role]
        if stage not in self.loaded:
            self.loaded[stage] = Parent(*artifact.load(self.results, stage))
        return self.loaded[stage]

    def dataset(self):
        """The configuration of the parent `data`."""
        return self.parent("data").config.dataset

    def weights(self, role: str) -> dict[str, Tensor]:
        """The state dict that a parent has written."""
        return load_file(self.parent(role).folder / WEIGHTS)

    def rows(self, split: str) -> tuple[Any, Tensor]:
        """Images (N, C, H, W) float32 in [-1, 1], or latents that are drawn from like them, and
        labels (N,).
        """
        if "latents" in self.stage.parents:  # of train, which is all that they are made of
            arrays = load_file(self.parent("latents").folder / LATENTS)
            return arrays["latents"], arrays["labels"]
        return self.dataset().open(self.parent("data").folder, split)

    def ode_pairs(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """The parent `pairs`, if there is one: eps and x (M, C, H, W), and labels (M,)."""
        if "pairs" not in self.stage.parents:
            return None
        arrays = load_file(self.parent("pairs").folder / PAIRS)
        return arrays["eps"], arrays["x"], arrays["labels"]

    def conditions(self) -> Conditions | None:
        """The prompts that the parent `text` has encoded, if there is one."""
        has_text = "text" in self.stage.parents
        return Conditions(self.parent("text").folder) if has_text else None

    def autoencoder(self, config: AutoencoderConfig) -> Autoencoder:
        """The frozen autoencoder of this configuration."""
        return load(config, self.device)


# names of the files in the work folder, and facts for the manifest
Payload = tuple[list[str], dict[str, Any]]


def prompts_of(context: Context) -> list[str]:
    """The prompts of the data, by label."""
    return [row["prompt"] for row in context.dataset().prompts()]


def labels_of(context: Context, indices: range) -> Tensor:
    """Labels (N,) of these samples: classes in turn, or rows of the prompts to be sampled.

    The manifest's `sampled` is [first row, number of rows, stride]: where prompts are ordered, a
    stride that shares no factor with their number mixes them.
    """
    first, count, stride = (
        context.parent("text").manifest["sampled"]
        if "text" in context.stage.parents
        else (0, context.config.shape.classes, 1)
    )
    return first + torch.tensor(indices, dtype=torch.int64) * stride % count


def targets_of(context: Context, labels: Tensor) -> Tensor:
    """What a classifier should find: labels (N,), or the classes (N, A) of several attributes."""
    return context.dataset().targets(labels)


def categories_of(dataset, labels: Tensor) -> list[str] | None:
    """The categories of the prompts of these labels (N,); None where labels are classes."""
    prompts = dataset.prompts()
    return prompts and [prompts[row]["category"] for row in labels.tolist()]


def of_classifier(dataset) -> dict[str, Any]:
    """The classifier's sizes: one group of classes, or one for each attribute."""
    return {
        "image_size": dataset.image_size,
        "channels": dataset.channels,
        "attributes": dataset.attributes,
    }


def progress_of(context: Context) -> Callable[[int, int], None]:
    """Progress of work whose amount is known only once it runs."""
    progress = Progress(context.label, 0)

    def advance(done: int, total: int) -> None:
        progress.total = total
        progress(done)

    return advance


def shape(dataset) -> dict[str, int | None]:
    """Sizes of a network for a data set, or for a `Shape`."""
    return {
        "image_size": dataset.image_size,
        "channels": dataset.channels,
        "classes": dataset.classes,
    }
