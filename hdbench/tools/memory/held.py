"""What a training stage holds on each GPU: exactly by parameters, and activations by formula."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import nn

from hdbench.methods.base import Problem
from hdbench.methods.discriminators import build_head, parameter_count
from hdbench.networks import clip
from hdbench.networks.classifier import Classifier
from hdbench.networks.config import SanaConfig, TransformerConfig
from hdbench.networks.flops import Unencoded
from hdbench.stages.context import of_classifier, shape
from hdbench.stages.networks import autoencoder_of
from hdbench.stages.train import restricted_updates
from hdbench.stages.trainer import trainable_parameters
from hdbench.suite.plan import Plan
from hdbench.suite.stage import Stage
from hdbench.suite.training import Training
from hdbench.tools.memory.activations import activations

FLOAT = 4  # bytes of weights, gradients, moments and averages, whatever the precision of products


class Held(NamedTuple):
    """Numbers that a training stage holds, each of `FLOAT` bytes."""

    student: int
    trained: tuple[int, ...]
    """By update."""
    copies: int
    """Of the state, not trained: copies, and frozen parameters of what is trained."""
    teacher: int

    @property
    def checkpoint(self) -> int:
        """Bytes of `Trainer.state`: networks, both moments of Adam, the student's average."""
        return FLOAT * (3 * sum(self.trained) + self.copies + self.student)

    def bytes(self) -> dict[str, int]:
        """By category; gradients are those of one update at a time."""
        counts = {
            "weights": sum(self.trained) + self.copies,
            "gradients": max(self.trained),
            "Adam": 2 * sum(self.trained),
            "average": self.student,
            "teacher": self.teacher,
        }
        return {name: FLOAT * count for name, count in counts.items()}


class Memory:
    """Of a plan's training stages; those of the same network and objective are counted once."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self._held: dict[tuple, Held] = {}
        self._networks: dict[tuple, nn.Module] = {}

    def network(self, config: TransformerConfig | SanaConfig, mean_velocity: bool) -> nn.Module:
        """A generator's network, without memory for it."""
        key = (config, mean_velocity)
        if key not in self._networks:
            text = self.plan.suite.text
            conditions = None
            if isinstance(config, SanaConfig):
                conditions = Unencoded(text.tokens, config.caption_width)
            with torch.device("meta"):
                self._networks[key] = config.build(
                    **shape(self.plan.suite.shape),
                    mean_velocity=mean_velocity,
                    conditions=conditions,
                )
        return self._networks[key]

    def student(self, stage: Stage) -> nn.Module:
        """What a training stage trains, without memory for it."""
        with torch.device("meta"):
            if stage.kind == "clip":
                return clip.build(stage.config.model)
            if stage.kind == "autoencoder":
                return autoencoder_of(stage.config)
            if stage.kind == "classifier":
                return Classifier(stage.config.network, **of_classifier(self.plan.suite.data))
        return self.network(stage.config.network, stage.kind != "teacher")

    def held(self, stage: Stage, training: Training) -> Held:
        """What the objective itself says that it trains."""
        network = None if stage.kind == "clip" else stage.config.network
        key = (stage.kind, network, training.objective, str(training.trainable))
        if key not in self._held:
            self._held[key] = self._count(stage, training)
        return self._held[key]

    def _count(self, stage: Stage, training: Training) -> Held:
        student = copy.deepcopy(self.student(stage))
        teacher = None
        if stage.kind in ("trajectory", "refine"):
            teacher = self.network(stage.config.network, False)

        def head(name: str, settings: Any, *axes: int) -> nn.Module:
            with torch.device("meta"):
                return build_head(
                    name,
                    layers=len(settings.blocks),
                    width=student.width,
                    grid=student.grid,
                    parameters=settings.parameters,
                )

        problem = Problem(
            student=student,
            learning_rate=1.0,
            teacher=teacher,
            teacher_velocity=lambda z, t, c: z,
            copy_teacher=lambda: copy.deepcopy(teacher),
            head=head,
        )
        updates = restricted_updates(training, problem, ("memory",))
        trained = tuple(
            sum(p.numel() for m in update.modules.values() for p in trainable_parameters(m))
            for update in updates
        )
        modules = [m for update in updates for m in (update.modules | update.frozen).values()]
        return Held(
            student=parameter_count(student),
            trained=trained,
            copies=sum(map(parameter_count, modules)) - sum(trained),
            teacher=parameter_count(teacher) if teacher else 0,
        )

    @staticmethod
    def rows(training: Training) -> int:
        """Of a micro-batch on one GPU."""
        return min(training.micro_batch or training.batch, training.batch)

    def activations(self, stage: Stage, training: Training) -> float | None:
        """The most bytes that any update's graphs keep for a micro-batch.

        None for other networks than our Transformer.
        """
        network = None if stage.kind == "clip" else stage.config.network
        if not isinstance(network, TransformerConfig):
            return None
        seen = self.plan.suite.shape
        rows = self.rows(training)
        guided = self.plan.suite.teacher.guidance.active
        passes = training.objective.passes(network.depth, guided)
        sizes = {
            "network": network,
            "tokens": (seen.image_size // network.patch) ** 2,
            "channels": seen.channels,
        }
        options = {
            "size": 2 if training.precision == "bfloat16" else 4,
            "checkpointing": training.gradient_checkpointing,
            **sizes,
        }
        tangents = sum(kinds.tangent for kinds in passes.values())
        moving = min(rows, round(min(tangents, 1) * training.batch))  # rows of a kind are together
        student = activations(rows=rows - moving, **options)
        student += activations(rows=moving, forward_mode=True, **sizes)
        head, gan = training.objective.head() or ("none", None)
        if head == "none":
            return student
        critic = activations(rows=rows, **options) if "fake" in passes else 0
        options["depth"] = max(gan.blocks)
        if gan.feature_network == "fake":
            critic += gan.judgements * activations(rows=rows, **options)
        return max(student + activations(rows=rows, trained=False, **options), critic)
