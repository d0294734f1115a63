"""A stage: one artifact of the DAG, its typed configuration, and the digest that keys it.

A configuration holds what its stage's computation reads, and nothing else; all the rest comes from
the parents' artifacts.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import Field, TypeAdapter

from hdbench.core.config import OUTSIDE, C, Config, Fraction, OutsidePath
from hdbench.core.files import digest_of
from hdbench.datasets.base import Dataset as BaseDataset
from hdbench.evaluation.protocols import PROTOCOLS
from hdbench.flow.guidance import Guidance
from hdbench.methods.base import Objective, Pairs, SamplerName
from hdbench.methods.discriminators import HEADS
from hdbench.methods.distribution.gan import GanSettings
from hdbench.metrics import METRICS
from hdbench.networks.autoencoders import AutoencoderConfig
from hdbench.networks.config import ClassifierConfig
from hdbench.networks.convolutional import ConvolutionalConfig
from hdbench.networks.sampling import Sampling
from hdbench.networks.text import TextConfig
from hdbench.suite.schema import Checkpoint, Dataset, Network
from hdbench.suite.shape import Shape
from hdbench.suite.training import Training, absent

# Raise a number when the meaning of that stage's results changes; a cosmetic edit leaves it, and
# nothing is run again. A data set, objective, head or metric whose results change says so by its
# own version, and the others' results stay.
VERSIONS = {
    "data": 1,
    "classifier": 1,
    "clip": 1,
    "text": 1,
    "reference": 1,
    "autoencoder": 1,
    "latents": 1,
    "teacher": 1,
    "pairs": 1,
    "trajectory": 1,
    "refine": 1,
    "sample": 1,
    "evaluate": 2,  # in the first, errors took fixed labels and shared originals for drawn
    "sensitivity": 2,
}
KINDS = tuple(VERSIONS)


class StageConfig(Config):
    """What a stage's computation reads beside its parents' artifacts."""


class DataStage(StageConfig):
    dataset: Dataset


class TrainedStage(StageConfig):
    """What all stages that train have in common."""

    training: Training
    seed: int = Field(ge=0)


class ClassifierStage(TrainedStage):
    network: ClassifierConfig


class AutoencoderStage(TrainedStage):
    network: ConvolutionalConfig
    shape: Shape = Field(description="of the images")


class LatentsStage(StageConfig):
    """Images of train as latents of the parent `autoencoder`."""


class ClipStage(TrainedStage):
    model: dict[str, Any] = Field(description="open_clip's model configuration")
    split: Literal["train", "score"] = Field(description="of the data, that it is trained on")


class TextStage(StageConfig):
    """Prompts encoded by a pipeline's text encoder: the data's, then those of the samples."""

    encoder: TextConfig
    prompts: OutsidePath = Field(description="file of the samples' prompts")


class ClipTextStage(StageConfig):
    """Prompts of the data encoded by the parent `clip`."""


class ReferenceStage(StageConfig):
    """Real images as the suite's own classifier sees them."""

    samples: int
    bands: int


class ProtocolReferenceStage(StageConfig):
    """A named protocol's statistics of real images."""

    protocol: str
    reference: OutsidePath = Field(description="path of real images, or of statistics of them")
    weights: dict[str, OutsidePath]


class TeacherStage(TrainedStage):
    network: Network
    shape: Shape


class CheckpointStage(StageConfig):
    """A public network, converted."""

    network: Network
    shape: Shape
    checkpoint: Checkpoint


class PairsStage(StageConfig):
    """The teacher's ODE from noise to image."""

    network: Network
    shape: Shape
    guidance: Guidance
    seed: int
    count: int
    steps: int
    batch: int = Field(description="pairs that are made at once")


class DistillStage(TrainedStage):
    """Trajectory and refine."""

    network: Network
    shape: Shape
    guidance: Guidance


class SampleStage(StageConfig):
    """Images of a network."""

    network: Network
    shape: Shape
    sampler: SamplerName
    samples: int
    steps: int
    seed: int
    chain: int = Field(description="whose noises they are made from, as all samples of its arms")
    batch: int = Field(description="samples that are made at once")
    guidance: Guidance | None = Field(description="of a teacher; students have learned theirs")
    times: tuple[Fraction, ...] | None = Field(
        description="t of the steps after the first; None: uniform"
    )
    autoencoder: AutoencoderConfig | None = Field(
        description="None: the network makes pixels, or the parent `autoencoder` does"
    )
    pictures: bool = Field(
        False,
        exclude_if=lambda pictures: not pictures,
        description="its pixels become image files, as decoded ones do, for a named protocol",
    )
    sampling: Sampling | None = Field(
        None,
        exclude_if=lambda sampling: sampling is None,
        description="of a teacher; None: Euler steps, which evaluate guidance at every time",
    )
    compile: bool = Field(
        False,
        exclude_if=absent,
        description="the network's blocks, once for each number of rows; the last batch is filled",
    )

    @property
    def calls(self) -> list[tuple[int, bool]]:
        """Each call of the network: evaluations a sample in it, and whether all blocks run."""
        guidance = self.guidance or Guidance()
        if self.sampling:
            return self.sampling.calls(self.steps, guidance)
        return [(guidance.evaluations, True)] * self.steps


class RealStage(StageConfig):
    """Real images in place of samples; those of the parent `autoencoder`, if there is one."""

    samples: int
    split: Literal["train", "test"]


class EvaluateStage(StageConfig):
    """The metrics of the protocol `classifier`."""

    neighbours: int


class MetricsStage(StageConfig):
    """Metrics beside the protocol `classifier`'s, in artifacts of their own: the others stay."""

    metrics: tuple[str, ...]
    neighbours: int


class ProtocolStage(StageConfig):
    """The metrics of any other protocol."""

    protocol: str
    weights: dict[str, OutsidePath]
    samples: int


class SensitivityStage(StageConfig):
    """Metrics of the protocol `classifier` on real images with planted changes."""

    metrics: tuple[str, ...]
    neighbours: int
    samples: int


# a kind's variants have different keys, by which they are told apart
CONFIGS = {
    "data": DataStage,
    "classifier": ClassifierStage,
    "clip": ClipStage,
    "text": TextStage | ClipTextStage,
    "reference": ReferenceStage | ProtocolReferenceStage,
    "autoencoder": AutoencoderStage,
    "latents": LatentsStage,
    "teacher": TeacherStage | CheckpointStage,
    "pairs": PairsStage,
    "trajectory": DistillStage,
    "refine": DistillStage,
    "sample": SampleStage | RealStage,
    "evaluate": EvaluateStage | MetricsStage | ProtocolStage,
    "sensitivity": SensitivityStage,
}


@functools.cache
def adapter_of(kind: str) -> TypeAdapter:
    """What reads a kind's configurations, built once."""
    return TypeAdapter(CONFIGS[kind])


def config_of(kind: str, data: dict[str, Any]) -> Any:
    """The configuration of a stage, of its kind's class in CONFIGS, from a manifest or job file."""
    return adapter_of(kind).validate_json(json.dumps(data))


def configs_in(value: Any) -> Iterator[Config]:
    """A configuration and all that are inside it."""
    if isinstance(value, Config):
        yield value
        for field in type(value).model_fields:
            yield from configs_in(getattr(value, field))
    elif isinstance(value, tuple | list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from configs_in(item)


def without_unread(config: C) -> C:
    """A configuration with what no training stage reads left at its default.

    That is a head's settings where there is none, or its method does not use them, and how pairs
    are made: in a stage of their own.
    """
    changes = {}
    for field in type(config).model_fields:
        value = getattr(config, field)
        if isinstance(config, Objective) and (head := config.head()) and head[1] is value:
            unread = config.unread_of_head()
            kept = {k: getattr(value, k) for k in type(value).model_fields if k not in unread}
            changes[field] = GanSettings() if head[0] == "none" else type(value)(**kept)
        elif isinstance(value, Pairs):
            changes[field] = Pairs()
        elif isinstance(value, Config):
            changes[field] = without_unread(value)
    return config.model_copy(update=changes)


def outside_paths(config: StageConfig) -> Iterator[str]:
    """Paths of the user's files that a stage reads; a weight of a hub is looked up by its name."""
    for inner in configs_in(config):
        for name, field in type(inner).model_fields.items():
            value = getattr(inner, name)
            if OUTSIDE in field.metadata:
                yield value
            elif OutsidePath in get_args(field.annotation):
                yield from (path for path in value.values() if not path.startswith("hf-hub:"))


def metrics_of(config: StageConfig) -> tuple[str, ...]:
    """Names of the metrics that a stage measures."""
    if isinstance(config, MetricsStage | SensitivityStage):
        return config.metrics
    if isinstance(config, ProtocolStage):
        return PROTOCOLS[config.protocol].metrics
    return PROTOCOLS["classifier"].metrics if isinstance(config, EvaluateStage) else ()


def classes_of(config: StageConfig) -> dict[str, type]:
    """Classes whose code decides what a stage computes, by name."""
    configs = list(configs_in(config))
    versioned = [inner for inner in configs if isinstance(inner, Objective | BaseDataset)]
    heads = [inner.head() for inner in configs if isinstance(inner, Objective)]
    return (
        {inner.name: type(inner) for inner in versioned}
        | {f"head {head[0]}": HEADS[head[0]] for head in heads if head and head[0] != "none"}
        | {f"metric {name}": METRICS[name] for name in metrics_of(config)}
    )


def versions_of(kind: str, config: StageConfig) -> dict[str, int]:
    """The stage's version, and those of what it uses as far as they have left 1."""
    versions = {name: cls.version for name, cls in classes_of(config).items()}
    raised = {name: version for name, version in versions.items() if version != 1}
    return {"stage": VERSIONS[kind]} | raised


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One artifact of the DAG, keyed by a digest of configuration, parents and versions."""

    kind: str
    label: str
    config: Any  # of its kind's class in CONFIGS
    parents: dict[str, str]  # role: stage id
    digest: str

    @classmethod
    def of(cls, kind: str, label: str, config: StageConfig, parents: dict[str, Stage]) -> Stage:
        """The stage of this configuration and these parents, by role."""
        ids = {role: parent.id for role, parent in parents.items()}
        return cls.from_ids(kind, label, config, ids)

    @classmethod
    def from_ids(cls, kind: str, label: str, config: StageConfig, parents: dict[str, str]) -> Stage:
        """The stage of this configuration and the parents of these ids, by role."""
        digests = {role: parent.rpartition("-")[2] for role, parent in parents.items()}
        key = cls.own_key(kind, config) | {"parents": digests}
        return cls(kind=kind, label=label, config=config, parents=parents, digest=digest_of(key))

    @staticmethod
    def own_key(kind: str, config: StageConfig) -> dict[str, Any]:
        """What a digest covers beside the parents': versions, and a dump of the configuration."""
        return {
            "kind": kind,
            "versions": versions_of(kind, config),
            "config": config.model_dump(mode="json"),
        }

    @property
    def id(self) -> str:
        return f"{self.kind}/{self.label}-{self.digest}"

    @property
    def training(self) -> Training | None:
        """What and how a stage trains, if it does."""
        return self.config.training if isinstance(self.config, TrainedStage) else None
