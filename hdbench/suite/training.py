"""Training of a stage, and the networks that a suite trains to measure."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from hdbench.core.config import Config
from hdbench.methods import OBJECTIVES
from hdbench.networks.config import ClassifierConfig
from hdbench.networks.convolutional import ConvolutionalConfig
from hdbench.networks.trainable import Trainable

Objective = OBJECTIVES.union()
Decay = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, le=1)]
LARGEST_COUNT = 10**9  # of anything: steps, images, parameters
VOCABULARY = 49408  # of open_clip's tokeniser


def absent(value: Any) -> bool:
    """Whether a field is unset: then a dump leaves it out, so that existing digests stay."""
    return not value


class EqualTotal(Config):
    """As many steps as give the arm another's total training compute, in forward-equivalents."""

    equal_total: str = Field(
        description="the arm whose trajectory and refine stages together set the budget"
    )


class Training(Config):
    """One training stage: an objective and its optimisation (AdamW, clipped gradients, EMA)."""

    objective: Objective
    steps: int | EqualTotal
    batch: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    weight_decay: float = Field(0.0, ge=0)
    clip: float = Field(1.0, gt=0, description="bound on the norm of each network's gradient")
    ema: float = Field(
        ge=0, lt=1, description="decay of the student's moving average, reached after a warm-up"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        exclude_if=lambda precision: precision == "float32",
        description="of matrix products; weights, forward-mode derivatives, losses and averages "
        "stay float32",
    )
    micro_batch: int | None = Field(
        None, ge=1, exclude_if=absent, description="rows of a rank at once; gradients add up"
    )
    gradient_checkpointing: bool = Field(
        False, exclude_if=absent, description="blocks are computed again in the backward"
    )
    compile: bool = Field(
        False,
        exclude_if=absent,
        description="losses, with their forward-mode passes; with prompts, with sharded networks, "
        "or where ranks exchange sums inside a loss, the blocks of networks that no such pass goes "
        "through",
    )
    trainable: dict[str, Trainable] = Field(
        {},
        exclude_if=absent,
        description="by network that the stage trains, such as student and fake, what of it; by "
        "default all",
    )
    stops: tuple[Share, ...] = Field(
        (),
        exclude_if=absent,
        description="shares of the steps at which the training is cut into stages, each going on "
        "from the state of the one before; it ends at the last, on the schedule of all steps",
    )

    @field_validator("stops")
    @classmethod
    def _stops_ascend(cls, stops: tuple[float, ...]) -> tuple[float, ...]:
        if sorted(set(stops)) != list(stops):
            raise ValueError("give shares of the steps, each once, from the least on")
        return stops

    @model_validator(mode="after")
    def _some_steps(self):
        if isinstance(self.steps, int) and self.steps > LARGEST_COUNT:
            raise ValueError(f"steps = more than {LARGEST_COUNT:,}: no stage takes that many")
        if isinstance(self.steps, int) and self.steps < 1:
            raise ValueError(f"steps = {self.steps}: a training stage takes at least 1 step")
        return self

    @property
    def planned_steps(self) -> int:
        """The steps, which are a number once the suite is planned."""
        if isinstance(self.steps, EqualTotal):
            raise ValueError(f"steps of an equal total ({self.steps.equal_total}): not planned yet")
        return self.steps

    @property
    def span(self) -> range:
        """Of the planned steps, those that the last of its stages trains."""
        ends = [round(share * self.planned_steps) for share in self.stops or (1.0,)]
        return range(*([0, *ends][-2:]))

    @property
    def stages(self) -> list[Self]:
        """The training up to each of its stops; the last is itself."""
        cuts = range(1, len(self.stops))
        return [self.model_copy(update={"stops": self.stops[:n]}) for n in cuts] + [self]


class Measuring(Config):
    """A network that measures or encodes, of each chain its own; see `Suite.splits`."""

    training: Training
    seed: int = Field(0, ge=0)

    def of_chain(self, chain: int) -> Self:
        """With the seed given plus the chain's."""
        return self.model_copy(update={"seed": self.seed + chain})


class ClassifierTraining(Measuring):
    """The network whose features the metrics use."""

    network: ClassifierConfig = ClassifierConfig()


class AutoencoderTraining(Measuring):
    """The autoencoder in whose latents the suite's networks work; it is trained on the images."""

    network: ConvolutionalConfig = ConvolutionalConfig()


class ClipText(Measuring):
    """A CLIP trained in the DAG encodes the prompts; one of the split `score` scores them."""

    name: Literal["clip"] = "clip"
    model: dict[str, Any] = Field(
        description="open_clip's model configuration, as its JSON files have it"
    )

    @model_validator(mode="after")
    def _says_its_sizes(self):
        towers = {name: self.model.get(name) for name in ("text_cfg", "vision_cfg")}
        text, vision = (tower if isinstance(tower, dict) else {} for tower in towers.values())
        sizes = (text.get("context_length"), text.get("width"), vision.get("image_size"))
        if not all(isinstance(size, int) for size in sizes):
            raise ValueError(
                "model: give text_cfg.context_length, text_cfg.width and vision_cfg.image_size"
            )
        vocabulary = text.get("vocab_size", VOCABULARY)
        if not isinstance(vocabulary, int) or vocabulary < VOCABULARY:
            raise ValueError(
                f"model: text_cfg.vocab_size = {vocabulary}: open_clip's tokens need {VOCABULARY}"
            )
        if self.training.micro_batch:
            raise ValueError(
                "training.micro_batch: captions are compared over the whole batch; remove it"
            )
        return self

    @property
    def tokens(self) -> int:
        """The most tokens of a prompt."""
        return self.model["text_cfg"]["context_length"]
