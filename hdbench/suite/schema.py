"""Suites are data: a validated YAML file becomes arms, and these a plan of stages by digest."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from hdbench.core.config import Config, Fraction, OutsidePath, UserPath, nearest
from hdbench.datasets import DATASETS
from hdbench.evaluation.protocols import PROTOCOLS, SUITE_PROTOCOLS
from hdbench.evaluation.weights import PUBLIC
from hdbench.flow.guidance import Guidance
from hdbench.metrics import metrics_named
from hdbench.networks.config import NetworkConfig
from hdbench.networks.prediction import ALLOW
from hdbench.networks.sampling import Sampling
from hdbench.networks.text import TextConfig
from hdbench.suite.expected import Expectations
from hdbench.suite.overrides import leaves
from hdbench.suite.shape import Shape
from hdbench.suite.tables import Tables
from hdbench.suite.training import (
    AutoencoderTraining,
    ClassifierTraining,
    ClipText,
    Training,
    absent,
)
from hdbench.suite.tuning import Knob, Trial, TunedArm, Tuning

Dataset = DATASETS.union()


class Checkpoint(Config):
    """A public network, converted once by a `teacher` stage that trains nothing."""

    format: Literal["sit", "dit", "sana"]
    path: OutsidePath = Field(
        description="the published file, an index of its shards, or a folder in diffusers' format"
    )
    allow: tuple[Literal[ALLOW], ...] = Field(
        (),
        exclude_if=lambda allowed: not allowed,
        description="any-prediction: take a network that does not behave as its format",
    )


Seed = Annotated[int, Field(ge=0)]


class Teacher(Config):
    """The teacher's training or where it is from, and the guidance with which stages use it."""

    training: Training | None = Field(None, exclude_if=absent)
    checkpoint: Checkpoint | None = Field(None, exclude_if=absent)
    guidance: Guidance = Guidance()
    seed: Seed | None = Field(
        None,
        exclude_if=absent,
        description="of one trained teacher for all chains, with its split and classifier; they "
        "then differ in students and evaluation noise, and show what holds for this teacher",
    )

    @model_validator(mode="after")
    def _trained_or_public(self):
        if bool(self.training) == bool(self.checkpoint):
            raise ValueError("give either training or checkpoint")
        if self.seed is not None and not self.training:
            raise ValueError(
                "seed is of a trained teacher; a checkpoint is the same for all chains"
            )
        return self


def _named(default: str) -> Discriminator:
    """Which alternative is meant: by `name`; without one, as in older files, the default."""

    def tag(value: Any) -> str:
        name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
        return name or default

    return Discriminator(tag)


Network = NetworkConfig
Text = Annotated[
    Annotated[TextConfig, Tag("pipeline")] | Annotated[ClipText, Tag("clip")], _named("pipeline")
]


class Evaluation(Config):
    """Sampling and metrics, the same for every arm."""

    samples: int = Field(
        ge=2, description="N of every set of images, generated or real; part of every metric's name"
    )
    neighbours: int = Field(3, ge=1, description="k of precision and recall")
    bands: int = Field(
        4, ge=1, description="number of equal bands of radial frequency, up to Nyquist"
    )
    seed: int = Field(
        0, ge=0, description="axis of the sampling noise, with the chain's: all its arms share it"
    )
    protocol: Literal[SUITE_PROTOCOLS] = "classifier"
    reference: UserPath | None = Field(
        None, description="real images, or ADM's npz; of every protocol but `classifier`"
    )
    weights: dict[Literal[tuple(PUBLIC)], UserPath] = Field({}, description="else the public ones")
    prompts: UserPath | None = Field(
        None, description="MJHQ's meta_data.json: a sample for each of its prompts, in order"
    )
    batch: int = Field(
        256, ge=1, description="samples that are made at once; of no sample's noise or condition"
    )
    compile: bool = Field(False, exclude_if=absent, description="the sampled network's blocks")
    metrics: tuple[str, ...] = Field(
        (),
        exclude_if=absent,
        description="beside the protocol's own, by metric or group; each group is an artifact of "
        "its own",
    )
    sensitivity: int | None = Field(
        None,
        ge=2,
        exclude_if=absent,
        description="at most so many real images are changed on purpose, to see which metric sees "
        "which change; None: no such table",
    )

    @field_validator("metrics")
    @classmethod
    def _groups_are_their_metrics(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return metrics_named(names)

    @model_validator(mode="after")
    def _reference_of_protocol(self):
        if (self.protocol == "classifier") == bool(self.reference):
            raise ValueError(
                "reference belongs to every protocol but `classifier`, whose real images are the "
                "data's own"
            )
        return self

    @property
    def distance(self) -> str:
        """The metric by which arms are compared; every one of SUITE_PROTOCOLS has it."""
        return cast(str, PROTOCOLS[self.protocol].distance)


class Baseline(Config):
    """A public few-step network, which is sampled and not trained."""

    title: str
    network: Network
    checkpoint: Checkpoint
    times: dict[int, tuple[Fraction, ...]] = Field(
        {}, description="t of the further steps, by number of steps; else uniform"
    )

    @model_validator(mode="after")
    def _a_time_for_each_further_step(self):
        for steps, times in self.times.items():
            if len(times) != steps - 1:
                raise ValueError(
                    f"times = {{{steps}: {list(times)}}}: give {steps - 1} times, one for each "
                    "step after the first"
                )
        return self


class Arm(Config):
    """What one row of a table does: stages after the teacher, and how it samples."""

    trajectory: Training | None
    refine: Training | None
    baseline: Baseline | None = Field(None, exclude_if=absent)
    title: str | None = Field(
        None, exclude_if=absent, description="for people; by default made of stages and settings"
    )
    sampling: Sampling | None = Field(
        None,
        exclude_if=absent,
        description="how a teacher is sampled without training: solver, guidance, reuse",
    )
    steps: tuple[int, ...] = Field(min_length=1, description="sampling steps, each of them a row")
    real: Literal["train", "test"] | None = Field(
        None, description="no model at all: real images, for the noise floor"
    )
    autoencoded: bool = Field(
        False,
        exclude_if=absent,
        description="real images after the suite's autoencoder, which no sample can surpass",
    )
    directives: ClassVar[tuple[str, ...]] = ("recipe", "tuned")

    @model_validator(mode="after")
    def _parts_fit(self):
        if self.baseline and (self.real or self.trajectory or self.refine):
            raise ValueError(
                "baseline is sampled as it is; set trajectory and refine to null and leave out real"
            )
        if self.sampling and (self.real or self.trajectory or self.refine or self.baseline):
            raise ValueError(
                "sampling is of the teacher; set trajectory and refine to null and leave out real "
                "and baseline"
            )
        if self.real and (self.trajectory or self.refine):
            raise ValueError(
                f"real = {self.real!r}: real images take no model; "
                "set trajectory and refine to null"
            )
        if self.autoencoded and not self.real:
            raise ValueError("autoencoded is of real images; set real too")
        if min(self.steps) < 1:
            raise ValueError(f"steps = {list(self.steps)}: sampling takes at least 1 step")
        trained = self.trained_steps
        if trained == 1 and max(self.steps) > 1:
            which = (
                "an arm with 'refine'"
                if self.refine
                else f"a student of {self.trajectory.objective.title}"
            )
            raise ValueError(
                f"steps = {list(self.steps)}: {which} is a one-step generator; set steps to [1]"
            )
        if trained and any(trained % steps for steps in self.steps):
            raise ValueError(
                f"steps = {list(self.steps)}: the arm is trained for {trained} steps; sample "
                "with them, or with divisors of them"
            )
        return self

    @property
    def trained_steps(self) -> int:
        """Sampling steps that its generator is trained for; 0: any number."""
        last = self.refine or self.trajectory
        trained = last.objective.sampling_steps() if last else 0
        return trained if trained is not None else int(bool(self.refine))


class Recipe(Config):
    """A published method as an arm, with its differences and every hyper-parameter's origin."""

    title: str
    source: str
    differences: str
    arm: Arm
    hyper_parameters: dict[str, str] = Field(
        description="where values are from, by path in `arm`; a path covers those below"
    )
    knob: Knob | None = Field(None, description="what of the method's own is tuned with its rate")

    @model_validator(mode="after")
    def _knob_is_of_the_arm(self):
        if self.knob and (problem := self.knob.problem(self.arm.model_dump(mode="json"))):
            raise ValueError(f"knob.{problem}")
        return self

    @model_validator(mode="after")
    def _every_value_has_a_source(self):
        paths = {".".join(path) for path in leaves(self.arm.model_dump(mode="json"))}

        def covers(key: str, path: str) -> bool:
            return path == key or path.startswith(f"{key}.")

        for key in self.hyper_parameters:
            if not any(covers(key, path) for path in paths):
                raise ValueError(
                    f"hyper_parameters.{key}: the arm has no such value" + nearest(key, paths)
                )
        lacking = [
            f"arm.{path}"
            for path in sorted(paths)
            if not path.endswith("objective.name")
            and not any(covers(key, path) for key in self.hyper_parameters)
        ]
        if lacking:
            verb = "is" if len(lacking) == 1 else "are"
            raise ValueError(
                f"hyper_parameters: nothing says where {', '.join(lacking)} {verb} from; "
                f"add {'a line' if len(lacking) == 1 else 'a line for each'}"
            )
        return self


class TrainedOn(Config):
    """What the arms of a suite train on, and what their features are measured by."""

    data: Dataset
    classifier: ClassifierTraining | None = Field(None, description="of the protocol `classifier`")
    autoencoder: AutoencoderTraining | None = Field(
        None,
        exclude_if=absent,
        description="trained in the DAG on images of `data`; networks then work in its latents",
    )
    network: Network
    text: Text | None = Field(
        None, description="how prompts are encoded; labels are then rows of prompts, not classes"
    )
    teacher: Teacher


class Suite(TrainedOn):
    """A whole suite; `base` is the full arm that each arm's entry overrides."""

    title: str
    evaluation: Evaluation
    seeds: tuple[Seed, ...] = Field(
        min_length=1, description="each seed is a complete chain: teacher, TD, stage 2"
    )
    stage2_seeds: dict[int, tuple[Seed, ...]] = Field(
        {}, exclude_if=absent, description="by chain, further seeds of its stage 2 alone"
    )
    splits: Literal["chain", "suite"] = Field(
        "chain",
        description="who splits the originals and trains the networks that measure: each chain its "
        "own, which makes them part of the scatter of chains, or one for all, a fixed effect that "
        "no number of chains reduces",
    )
    base: Arm
    arms: dict[str, Any] = Field(min_length=1)
    claims: tuple[str, ...] | None = Field(
        None,
        description="of workflow/claims.yaml, that the suite is made to judge by its own numbers; "
        "by default all",
    )
    tuning: Tuning | None = Field(
        None,
        exclude_if=absent,
        description="its arms stand for trials of their settings, on seeds that nothing reports",
    )
    tables: Tables = Field(
        {},
        description="those of hdbench.report.tables that are rendered, or what differs from their "
        "defaults, by table; null leaves one out",
    )
    expected: Expectations = None

    # made of `tuning`, and of arms that say `tuned`; see hdbench.suite.trials
    trials: dict[str, Trial] = Field({}, exclude_if=absent)
    tuned: dict[str, TunedArm] = Field({}, exclude_if=absent)

    directives: ClassVar[tuple[str, ...]] = ("extends", "only")

    def of_chain(self, chain: int) -> Suite:
        """With a chain's seeds of data set and of the networks that measure or encode: those given,
        plus the chain's.
        """
        if self.splits == "suite":
            return self
        changes: dict[str, Any] = {"data": self.data.of_chain(chain)}
        if self.classifier:
            changes["classifier"] = self.classifier.of_chain(chain)
        if self.autoencoder:
            changes["autoencoder"] = self.autoencoder.of_chain(chain)
        if isinstance(self.text, ClipText):
            changes["text"] = self.text.of_chain(chain)
        return self.model_copy(update=changes)

    @property
    def shape(self) -> Shape:
        """Sizes of what the networks see: what the data holds, or latents of it."""
        if not self.autoencoder:
            return self.data_shape
        latents = self.autoencoder.network
        side = self.data.image_size // latents.factor
        return Shape(image_size=side, channels=latents.channels, classes=self.data.classes)

    @property
    def data_shape(self) -> Shape:
        """Sizes of what the data holds."""
        data = self.data
        return Shape(image_size=data.image_size, channels=data.channels, classes=data.classes)

    @model_validator(mode="after")
    def _seeds_differ(self):
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds = {list(self.seeds)}: one appears twice; remove it")
        return self


class RunConfig(Config):
    """workflow/config.yaml and what `snakemake --config` puts over it."""

    suite: str
    results: str
    device: str
    sharding: Literal["none", "fsdp2"]
    teachers: Literal["shipped", "trained"]
    theory: str
    flops: str
    probes: str

    @field_validator("device")
    @classmethod
    def _is_known(cls, device: str) -> str:
        if device not in ("cpu", "auto", "cuda") and not device.startswith("cuda:"):
            raise ValueError(f"device = {device!r}: unknown; use cpu, cuda or auto")
        return device
