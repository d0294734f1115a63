"""What the configuration of a stage says: the one place of these tools that reads it."""

from __future__ import annotations

from hdbench.networks.config import NETWORK, ClassifierConfig, SanaConfig, TransformerConfig
from hdbench.suite.schema import Training
from hdbench.suite.stage import Stage


def training_of(stage: Stage) -> Training | None:
    """What and how a stage trains, if it does."""
    return Training.of(stage.config) if "objective" in stage.config else None


def network_of(stage: Stage) -> TransformerConfig | SanaConfig | ClassifierConfig | None:
    """The network of a stage, None of a stage that has none or a CLIP."""
    if "network" not in stage.config:
        return None
    if stage.kind == "classifier":
        return ClassifierConfig(**stage.config["network"])
    return NETWORK.validate_python(stage.config["network"])


def clip_of(stage: Stage) -> dict:
    """open_clip's configuration of the network that a `clip` stage trains."""
    return stage.config["model"]


def seed_of(stage: Stage) -> int:
    return stage.config["seed"]


def samples_of(stage: Stage) -> int | None:
    """Images or pairs that a stage makes or measures, None where its configuration does not say."""
    return stage.config.get("samples", stage.config.get("count"))


def euler_steps_of(stage: Stage) -> int:
    """Steps of the sampler of a `pairs` or `sample` stage; 1 of others."""
    return stage.config.get("steps", 1)


def guided(stage: Stage) -> bool:
    """Whether a `pairs` stage evaluates its teacher twice for guidance."""
    return stage.config["guidance"] != 1.0


def is_of_real_images(stage: Stage) -> bool:
    """Whether a `sample` stage only copies real images."""
    return "split" in stage.config
