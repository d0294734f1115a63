"""Memory of a training stage on each GPU, before it is run: what belongs to parameters exactly, activations by a formula.

Bytes that one block of our Transformer keeps for its backward; T = rows x tokens, width d, heads h, MLP ratio m, and s bytes a
number in matrix products (float32 4, bfloat16 2):

    T d (16 + (8 + 2m) s)   inputs and outputs of both norms, float32; of products the input of qkv, q, k, v, attention, its
                            projection, the inputs of both MLP layers and of the GELU, the MLP's output
    + T (16 + 4 h)          means and deviations of the norms; attention's log-sums
    + rows 8 d s            six modulations, two 1 + scale

- frozen, for a gradient to its input alone: T d (8 + (4 + m) s), the other terms the same;
- in forward mode: s = 4, and 4 h tokens T for the softmax, which flash attention does not keep, in place of 4 h T;
- with gradient checkpointing 4 T d, its input, and one block whole at a time; not in forward mode;
- in bfloat16 autocast's copies of the weights too, 2 bytes each; with checkpointing those of one block.

Around them T d (8 + s) + T C p^2 s + 9 rows d s: the last norm, the inputs of the last and the first layer, the condition.
Not counted: heads' activations, what a pass makes and drops at once, passes without gradient, CUDA's own and fragmentation;
leave a fifth for them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import nn

from hdbench.methods.base import Problem
from hdbench.methods.discriminators import build_head, parameter_count
from hdbench.networks.classifier import Classifier
from hdbench.networks.config import SanaConfig, TransformerConfig
from hdbench.networks.flops import Unencoded
from hdbench.stages.context import of_classifier
from hdbench.suite.plan import Plan
from hdbench.suite.schema import Network, Training
from hdbench.suite.stage import Stage

FLOAT = 4  # bytes of weights, gradients, moments and averages, whatever the precision of products


class Held(NamedTuple):
    """Numbers that a training stage holds, each of `FLOAT` bytes."""

    student: int
    trained: tuple[int, ...]  # by update
    copies: int  # of the state, not trained
    teacher: int

    @property
    def checkpoint(self) -> int:
        """Bytes of `hdbench.stages.trainer.Trainer.state`: networks, both moments of Adam, the student's average."""
        return FLOAT * (3 * sum(self.trained) + self.copies + self.student)

    def bytes(self) -> dict[str, int]:
        """Gradients are those of one update at a time."""
        parts = {
            "weights": sum(self.trained) + self.copies,
            "gradients": max(self.trained),
            "Adam": 2 * sum(self.trained),
            "average": self.student,
            "teacher": self.teacher,
        }
        return {name: FLOAT * count for name, count in parts.items()}


def network_of(plan: Plan, config: Network, mean_velocity: bool) -> nn.Module:
    """A generator's network, without memory for it."""
    data, text = plan.suite.data, plan.suite.text
    with torch.device("meta"):
        return config.build(
            image_size=data.image_size,
            channels=data.channels,
            classes=data.classes,
            mean_velocity=mean_velocity,
            conditions=text and Unencoded(text.tokens, config.caption_width),
        )


def student_of(plan: Plan, stage: Stage) -> nn.Module:
    """What a training stage trains, without memory for it."""
    if stage.kind == "clip":
        from hdbench.networks import clip

        with torch.device("meta"):
            return clip.build(stage.config.model)
    if stage.kind == "classifier":
        with torch.device("meta"):
            return Classifier(stage.config.network, **of_classifier(plan.suite.data))
    return network_of(plan, stage.config.network, stage.kind != "teacher")


class Memory:
    """Of the training stages of a plan; stages with one network and objective are looked at once."""

    def __init__(self, plan: Plan):
        self.plan, self._held, self._networks = plan, {}, {}

    def network(self, config: Network, mean_velocity: bool) -> nn.Module:
        key = (config, mean_velocity)
        if key not in self._networks:
            self._networks[key] = network_of(self.plan, config, mean_velocity)
        return self._networks[key]

    def held(self, stage: Stage, training: Training) -> Held:
        """What the objective itself says that it trains."""
        network = None if stage.kind == "clip" else stage.config.network
        key = (stage.kind, network, training.objective)
        if key not in self._held:
            self._held[key] = self._look(stage, training)
        return self._held[key]

    def _look(self, stage: Stage, training: Training) -> Held:
        distilled = stage.kind in ("trajectory", "refine")
        student = (
            self.network(stage.config.network, True) if distilled else student_of(self.plan, stage)
        )
        teacher = self.network(stage.config.network, False) if distilled else None

        def head(name: str, settings) -> nn.Module:
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
            copy_teacher=lambda: teacher,
            head=head,
        )
        updates = training.objective.updates(problem)
        return Held(
            student=parameter_count(student),
            trained=tuple(count(update.modules.values()) for update in updates),
            copies=sum(count(update.frozen.values()) for update in updates),
            teacher=parameter_count(teacher) if distilled else 0,
        )

    @staticmethod
    def rows(training: Training) -> int:
        """Of a micro-batch on one GPU."""
        return min(training.micro_batch or training.batch, training.batch)

    def activations(self, stage: Stage, training: Training) -> float | None:
        """The most that any update's graphs keep for a micro-batch, in bytes; None for other networks than our Transformer."""
        if stage.kind not in ("teacher", "trajectory", "refine") or isinstance(
            stage.config.network, SanaConfig
        ):
            return None
        network, data = stage.config.network, self.plan.suite.data
        rows, objective, guided = (
            self.rows(training),
            training.objective,
            self.plan.suite.teacher.guidance.active,
        )
        passes = objective.passes(network.depth, guided)
        forward_mode = sum(kinds.tangent for kinds in passes.values())
        moving = min(
            rows, round(min(forward_mode, 1) * training.batch)
        )  # rows of one kind come one after another
        size = 2 if training.precision == "bfloat16" else 4
        sizes = {
            "network": network,
            "tokens": (data.image_size // network.patch) ** 2,
            "channels": data.channels,
        }
        options = {"size": size, "checkpointing": training.gradient_checkpointing, **sizes}
        student = activations(rows=rows - moving, **options) + activations(
            rows=moving, forward_mode=True, **sizes
        )
        head, gan = objective.head() or ("none", None)
        if head == "none":
            return student
        options |= {"depth": max(gan.blocks)}
        of_critic = activations(rows=rows, **options | {"depth": network.depth}) * (
            "fake" in passes
        )
        if gan.feature_network == "fake":
            of_critic += gan.judgements * activations(rows=rows, **options)
        return max(student + activations(rows=rows, trained=False, **options), of_critic)


def count(modules: Iterable[nn.Module]) -> int:
    return sum(parameter_count(module) for module in modules)


def activations(
    network: TransformerConfig,
    *,
    tokens: int,
    channels: int,
    rows: int,
    size: int = 4,
    checkpointing: bool = False,
    forward_mode: bool = False,
    trained: bool = True,
    depth: int | None = None,
) -> float:
    """Bytes that a pass through the first `depth` blocks keeps, the formula above; `size` is s."""
    d, m, depth = network.width, network.mlp_ratio, network.depth if depth is None else depth
    if not rows:
        return 0
    t = rows * tokens
    softmax = tokens if forward_mode else 1
    block = t * d * (16 + (8 + 2 * m) * size if trained else 8 + (4 + m) * size)
    block += t * (16 + 4 * network.heads * softmax) + rows * 8 * d * size
    if size == 2:
        block += (
            2 * d * d * (10 + 2 * m if trained else 4 + 2 * m)
        )  # copies of qkv, proj, both MLP layers, and modulation
    around = 4 * t * d
    if trained:
        patch, features = channels * network.patch**2, network.time_features or min(d, 256)
        around = t * d * (8 + size) + t * patch * size + 9 * rows * d * size
        around += (
            4 * d * (2 * d + features + patch) if size == 2 else 0
        )  # copies of the weights there
    return (
        depth * 4 * t * d + block if checkpointing and not forward_mode else depth * block
    ) + around
