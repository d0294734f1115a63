"""FLOPs and bytes of a plan's stages."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from hdbench.core.errors import UserError
from hdbench.evaluation.extractors import EXTRACTORS
from hdbench.evaluation.protocols import protocol_named
from hdbench.methods.base import Passes, total
from hdbench.methods.discriminators import parameter_count
from hdbench.networks.flops import forward_flops
from hdbench.networks.reuse import DeepCache, FasterDiffusion
from hdbench.suite.plan import Plan
from hdbench.suite.stage import (
    CheckpointStage,
    DataStage,
    PairsStage,
    ReferenceStage,
    SampleStage,
    Stage,
    TrainedStage,
)
from hdbench.suite.training import ClipText
from hdbench.tools.cost.model import CostModel
from hdbench.tools.memory.held import Memory
from hdbench.tools.rehearsal.counts import Counts, Rehearsal

ITEM = {"uint8": 1, "float16": 2, "bfloat16": 2, "float32": 4}  # bytes


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of a stage."""

    flops: Mapping[str, float] = field(default_factory=dict)
    """By precision."""
    waiting: float = 0.0
    """Seconds in which the GPU waits for the CPU."""
    disk: float = 0.0
    """Bytes that stay."""
    checkpoint: float = 0.0
    """Bytes of its checkpoint while it runs."""


def by_precision(
    passes: Mapping[str, Passes], precision: str, checkpointing: bool
) -> dict[str, float]:
    """Forwards of a sample and step by precision; `passes` are an objective's own."""
    tangents = sum(kinds.tangent for kinds in passes.values())
    backwards = sum(kinds.backward for kinds in passes.values())
    again = (backwards - 2 * tangents) / 2 if checkpointing else 0
    forwards = Counter({"float32": 4 * tangents})
    forwards[precision] += total(passes) - 4 * tangents + again
    return dict(forwards)


class Costs:
    """The cost of a plan's stages; a method for each kind."""

    def __init__(self, plan: Plan, model: CostModel, counts: Counts | None = None):
        """With `counts`, FLOPs of stages that are rehearsed are the rehearsal's."""
        self.plan = plan
        self.model = model
        self.counts = counts
        self.memory = Memory(plan)
        self.data = plan.suite.data
        self.latents = self.data.stored == "latents"
        self.kinds: dict[str, Callable[[Stage], Cost]] = {
            "data": self.of_data,
            "classifier": self.of_training,
            "clip": self.of_training,
            "text": self.of_text,
            "reference": self.of_reference,
            "autoencoder": self.of_training,
            "latents": self.of_latents,
            "teacher": self.of_teacher,
            "pairs": self.of_pairs,
            "trajectory": self.of_training,
            "refine": self.of_training,
            "sample": self.of_samples,
            "evaluate": self.of_evaluation,
            "sensitivity": self.of_sensitivity,
        }

    def of(self, stage: Stage) -> Cost:
        cost = self.kinds[stage.kind](stage)
        rehearsed = self.counts.of(stage) if self.counts else None
        return replace(cost, flops=self.repeated(stage, rehearsed)) if rehearsed else cost

    def repeated(self, stage: Stage, rehearsed: Rehearsal) -> Mapping[str, float]:
        """FLOPs of the whole stage by those of what was rehearsed once."""
        config = stage.config
        decoded = 0
        match config:
            case CheckpointStage():
                times = 0  # converted
            case TrainedStage():
                times = config.training.planned_steps * config.training.batch
            case PairsStage():
                times = config.count * config.steps * config.guidance.evaluations
            case SampleStage():
                times = config.samples * sum(number for number, _ in config.calls)
                decoded = config.samples
            case DataStage():
                times = self.images() * (1 + self.data.flips)
            case _:
                times = self.plan.suite.evaluation.samples
        flops = Counter({kind: times * count for kind, count in rehearsed.flops.items()})
        return flops + Counter({kind: decoded * x for kind, x in rehearsed.decoding.items()})

    def forward(self, stage: Stage, reuse: DeepCache | FasterDiffusion | None = None) -> int:
        """FLOPs of one forward of a generator; every student counts with its embedding of t - r."""
        text = self.plan.suite.text
        seen = self.plan.suite.shape
        return forward_flops(
            stage.config.network,
            seen.image_size,
            seen.channels,
            seen.classes,
            stage.kind != "teacher",
            text.tokens if text else 0,
            reuse,
        )

    def small_forward(self, stage: Stage) -> int:
        """FLOPs of one forward of a classifier, autoencoder or CLIP trained in the DAG."""
        side = self.data.image_size
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            inputs = [torch.empty(1, self.data.channels, side, side)]
            if stage.kind == "autoencoder":
                inputs.append(torch.empty(1, *self.plan.suite.shape.dimensions))
            if stage.kind == "clip":
                inputs.append(torch.empty(1, self.plan.suite.text.tokens, dtype=torch.int64))
            self.memory.student(stage)(*inputs)
        return counter.get_total_flops()

    def latent(self, images: int, item: int = 4) -> int:
        """Bytes of so many of what the data holds."""
        return images * math.prod(self.plan.suite.data_shape.dimensions) * item

    def images(self) -> int:
        """In the training data; UserError where the model does not say."""
        if not self.latents:
            return self.data.counts["train"]
        for pattern, count in self.model.images.items():
            if fnmatch(self.data.source, pattern):
                return count
        raise UserError(
            f"images: nothing in the cost model fits data.source = {self.data.source!r}, only "
            f"{', '.join(self.model.images)}; add how many images it has"
        )

    def autoencoded(self, images: float) -> tuple[float, float]:
        """FLOPs of encoding and of decoding so many images; none of pixels."""
        if self.data.autoencoder is None:
            return 0.0, 0.0
        cost = self.model.autoencoders[self.data.autoencoder.name]
        area = (self.data.resolution / cost.resolution) ** 2
        return images * cost.encode * area, images * cost.decode * area

    def of_data(self, stage: Stage) -> Cost:
        if not self.latents:
            n = sum(self.data.counts.values())
            return Cost(disk=self.latent(n, item=1) + 8 * n)
        n = self.images()
        views = n * (1 + self.data.flips)
        encoding, _ = self.autoencoded(views)
        disk = self.latent(views, ITEM[self.data.dtype]) + 8 * n
        return Cost(flops={"tfloat32": encoding}, disk=disk)

    def of_training(self, stage: Stage) -> Cost:
        training = stage.training
        held = self.memory.held(stage, training)
        small = stage.kind in ("classifier", "clip", "autoencoder")
        flops = self.small_forward(stage) if small else self.forward(stage)
        guided_teacher = self.plan.suite.teacher.guidance.active
        passes = training.objective.passes(self.plan.suite.network.depth, guided_teacher)
        forwards = by_precision(passes, training.precision, training.gradient_checkpointing)
        samples = len(training.span) * training.batch
        return Cost(
            flops={precision: flops * samples * count for precision, count in forwards.items()},
            disk=4 * held.student,
            checkpoint=held.checkpoint,
        )

    def of_latents(self, stage: Stage) -> Cost:
        """The images of train through the encoder, which has less than half of a forward."""
        n = self.data.counts["train"]
        flops = n * self.small_forward(self.plan.stage(stage.parents["autoencoder"])) / 2
        disk = 4 * n * math.prod(self.plan.suite.shape.dimensions) + 8 * n
        return Cost(flops={"float32": flops}, disk=disk)

    def of_teacher(self, stage: Stage) -> Cost:
        """Trained, or converted."""
        if stage.training:
            return self.of_training(stage)
        return Cost(disk=4 * parameter_count(self.memory.network(stage.config.network, False)))

    def of_text(self, stage: Stage) -> Cost:
        """Of a pipeline's text encoder; what a CLIP of the suite's own encodes is not counted."""
        suite = self.plan.suite
        network: Any = suite.network  # SANA's, as in every suite with a pipeline
        if isinstance(suite.text, ClipText):
            return Cost()
        encoder = self.model.text_encoder
        prompts = self.images() + suite.evaluation.samples
        token = network.caption_width * ITEM[suite.text.dtype]
        return Cost(
            flops={"bfloat16": prompts * encoder.tokens * encoder.flops_per_token},
            disk=prompts * encoder.tokens_kept * token,
        )

    def of_pairs(self, stage: Stage) -> Cost:
        config = stage.config
        n = config.count
        evaluations = n * config.steps * config.guidance.evaluations
        disk = 8 * n * (math.prod(self.plan.suite.shape.dimensions) + 1)
        return Cost(flops={"float32": evaluations * self.forward(stage)}, disk=disk)

    def of_samples(self, stage: Stage) -> Cost:
        """Of a network, or of real images, which are copied."""
        n = stage.config.samples
        config = stage.config
        flops = {}
        if isinstance(config, SampleStage):
            reuse = config.sampling.reuse if config.sampling else None
            full, between = self.forward(stage), self.forward(stage, reuse) if reuse else 0
            count = sum(number * (full if key else between) for number, key in config.calls)
            flops = {"float32": n * count}
        if "autoencoder" in stage.parents:
            trained = self.plan.stage(stage.parents["autoencoder"])
            flops["float32"] = flops.get("float32", 0) + n * self.small_forward(trained)
        if not self.latents:
            return Cost(flops=flops, disk=self.latent(n, item=1) + 8 * n)
        _, decoding = self.autoencoded(n)
        pixels = n * self.data.resolution**2
        png = self.model.png
        return Cost(
            flops=flops | {"tfloat32": decoding},
            disk=pixels * png.bytes_per_pixel,
            waiting=1e-9 * pixels * png.write_nanoseconds_per_pixel,
        )

    def of_reference(self, stage: Stage) -> Cost:
        """Two parts of train and test; of a named protocol as many images as there are samples."""
        of_suite = isinstance(stage.config, ReferenceStage)
        n = 3 * stage.config.samples if of_suite else self.plan.suite.evaluation.samples
        return self.measured(stage, n)

    def of_evaluation(self, stage: Stage) -> Cost:
        return self.measured(stage, self.plan.suite.evaluation.samples)

    def of_sensitivity(self, stage: Stage) -> Cost:
        """The images with some twelve changes."""
        return self.measured(stage, 12 * stage.config.samples)

    def measured(self, stage: Stage, n: int) -> Cost:
        """n images through the extractors."""
        if self.plan.suite.classifier:
            stages = self.plan.stages.values()
            network = next(other for other in stages if other.kind == "classifier")
            return Cost(flops={"float32": n * self.small_forward(network)})
        model = self.model
        protocol = protocol_named(stage.config.protocol)
        names = protocol.compared if stage.kind == "reference" else protocol.extractors
        layers = {name: protocol.layers(name) for name in names}
        distances = sum(len(protocol.reference_layers(name)) for name in names)
        distances += 10 * protocol.categories
        numbers = sum(EXTRACTORS[name].dimensions[x] for name in names for x in layers[name])
        flops: dict[str, float] = dict.fromkeys(("tfloat32", "float32"), 0.0)
        for name in names:
            network = EXTRACTORS[name].network
            precision = "tfloat32" if network == "inception" else "float32"
            flops[precision] += n * model.extractors.get(name, model.extractors.get(network, 0.0))
        reading = 1e-9 * n * self.data.resolution**2 * model.png.read_nanoseconds_per_pixel
        return Cost(
            flops=flops, waiting=reading + model.frechet_seconds * distances, disk=4 * n * numbers
        )
