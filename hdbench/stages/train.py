"""The stages that train."""

from __future__ import annotations

import csv
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hdbench.core import distributed, sharding
from hdbench.core.config import nearest
from hdbench.core.errors import UserError
from hdbench.core.pixels import load_images
from hdbench.core.seeds import seeded
from hdbench.methods.base import Passes, Problem, Update, total
from hdbench.methods.discriminators import build_head, parameter_count
from hdbench.metrics import classification
from hdbench.networks import checkpoints
from hdbench.networks.classifier import Classifier, classify
from hdbench.networks.prediction import ALLOW, check_prediction
from hdbench.networks.projected import ProjectedClassifier
from hdbench.networks.tensors import is_meta
from hdbench.networks.trainable import merged, restrict
from hdbench.stages.compiling import compile_blocks, compiled, compiler_is_there, compiles_losses
from hdbench.stages.context import WEIGHTS, Context, Payload, of_classifier, shape, targets_of
from hdbench.stages.loop import CHECKPOINT, run
from hdbench.stages.networks import load_classifier, load_network, new_network
from hdbench.stages.trainer import Trainer
from hdbench.suite.stage import CheckpointStage
from hdbench.suite.training import Training


def classifier(context: Context) -> Payload:
    config = context.config
    names, facts = train(context, classification_problem(context))
    if distributed.rank():
        return names, facts
    network = Classifier(config.network, **of_classifier(context.dataset())).to(context.device)
    network.load_state_dict(load_file(context.work.path / WEIGHTS))
    images, labels = load_images(context.parent("data").folder / "test.npz")
    _, probabilities = classify(network, images, context.device)
    wanted = targets_of(context, labels).numpy()
    right = classification.accuracy(probabilities, wanted, network.attributes)
    return names, facts | {"test_accuracy": right.value}


def classification_problem(context: Context) -> Problem:
    config = context.config
    with seeded(config.seed, "classifier"):
        network = Classifier(config.network, **of_classifier(context.dataset())).to(context.device)
    return Problem(student=network, learning_rate=config.training.learning_rate)


def teacher(context: Context) -> Payload:
    config = context.config
    if isinstance(config, CheckpointStage):
        weights, answers = read_checkpoint(config)
        weights = {name: value.contiguous() for name, value in weights.items()}
        save_file(weights, context.work.path / WEIGHTS)
        return [WEIGHTS], {
            "parameters": sum(value.numel() for value in weights.values()),
            "forward_equivalents": 0,
            "answers": answers,
        }
    return train(context, teacher_problem(context))


def teacher_problem(context: Context) -> Problem:
    config = context.config
    training = config.training
    network = new_network(context, mean_velocity=False, axes=(config.seed, "teacher"))
    network = enable_options(context, network)
    return Problem(student=network, learning_rate=training.learning_rate)


def distill(context: Context) -> Payload:
    """Trajectory and refine: a student from its parent's weights, under the stage's objective."""
    facts: dict[str, Any] = {}
    problem = distillation(context, facts)
    names, counted = train(context, problem, guided=context.config.guidance.active)
    return names, counted | facts


def distillation(context: Context, facts: dict[str, Any] | None = None) -> Problem:
    """The networks of trajectory and refine; `facts` gets what the manifest is to say of them."""
    facts = {} if facts is None else facts
    config = context.config
    training = config.training

    def load_teacher() -> nn.Module:
        return enable_options(context, load_network(context, "teacher", mean_velocity=False))

    frozen = load_teacher().requires_grad_(False)
    axes = (config.seed, context.stage.kind)

    def head(name: str, settings, *more: int) -> nn.Module:
        with seeded(*axes, "head", *more):
            module = build_head(
                name,
                layers=len(settings.blocks),
                width=frozen.width,
                grid=frozen.grid,
                parameters=settings.parameters,
            )
        facts["head_parameters"] = settings.heads * parameter_count(module)
        return module.to(context.device)

    student = load_network(context, "student", mean_velocity=True)
    student.gradient_checkpointing = training.gradient_checkpointing
    return Problem(
        student=student,
        learning_rate=training.learning_rate,
        teacher=frozen,
        teacher_velocity=config.guidance.of(frozen),
        guide=config.guidance.of,
        copy_teacher=load_teacher,
        head=head,
        pairs=context.ode_pairs(),
        classifier=critics_classifier(context, frozen, axes),
    )


def critics_classifier(context: Context, network: nn.Module, axes: tuple) -> nn.Module | None:
    """The parent `classifier` as tokens of the network's width and grid, if there is one."""
    if "classifier" not in context.stage.parents:
        return None
    with seeded(*axes, "projections"):
        projected = ProjectedClassifier(
            load_classifier(context),
            width=network.width,
            grid=network.grid,
            classes=context.config.shape.classes,
        )
    return projected.to(context.device)


def train(
    context: Context, problem: Problem, split: str = "train", guided: bool = False
) -> Payload:
    """Run the objective's updates to the end; rank 0 writes the student's EMA and the history.

    A stage that stops before all steps keeps its state, for the one that goes on from there.
    """
    training = context.config.training
    parameters = parameter_count(problem.student)
    trainer = trainer_of(context, problem, split)
    goes_on = "begun" in context.stage.parents
    begun = context.parent("begun").folder / CHECKPOINT if goes_on else None
    run(trainer, context.work, context.label, context.checkpoint_seconds, begun)
    weights = {name: sharding.on_rank_0(value) for name, value in trainer.ema.items()}
    if distributed.rank() == 0:
        save_file(merged(problem.student, weights), context.work.path / WEIGHTS)
        with (context.work.path / "history.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["step", *trainer.history])
            writer.writerows(
                [step, *values]
                for step, values in enumerate(zip(*trainer.history.values(), strict=True), start=1)
            )
    passes = training.objective.passes(problem.student.depth, guided)
    samples = len(training.span) * training.batch
    state = [CHECKPOINT] if training.span.stop < training.planned_steps else []
    return [WEIGHTS, "history.csv", *state], {
        "network_evaluations": network_evaluations(passes, samples),
        "forward_equivalents": total(passes) * samples,
        "parameters": parameters,
    }


def trainer_of(context: Context, problem: Problem, split: str = "train") -> Trainer:
    """What trains the stage's objective on this problem."""
    training = context.config.training
    x, labels = training_data(context, split)
    axes = (context.config.seed, context.stage.kind)
    updates = restricted_updates(training, problem, axes)
    if compiles_losses(context):
        updates = [replace(update, loss=compiled(update.loss)) for update in updates]
    return Trainer(updates, training, problem.student, axes, x, labels, context.sharding)


def restricted_updates(training: Training, problem: Problem, axes: tuple) -> list[Update]:
    """The objective's updates of the networks of which the training's share is trained.

    The student comes first, whose copies an objective may keep.
    """
    if student := training.trainable.get("student"):
        restrict(problem.student, student, "student", axes)
    updates = training.objective.updates(problem)
    modules = {name: module for update in updates for name, module in update.modules.items()}
    for name, trainable in training.trainable.items():
        if name not in modules:
            raise UserError(
                f"training.trainable.{name}: objective {training.objective.name} trains no such "
                "network" + nearest(name, modules)
            )
        if name != "student":
            restrict(modules[name], trainable, name, axes)
    return updates


def network_evaluations(passes: dict[str, Passes], samples: int) -> dict[str, float]:
    """Evaluations of all samples by network and kind, such as `teacher forward`, without zeros."""
    return {
        f"{network} {kind}": count * samples
        for network, kinds in passes.items()
        for kind, count in kinds._asdict().items()
        if count
    }


def training_data(context: Context, split: str) -> tuple[Any, Tensor]:
    """The rows of the data; for a classifier with the wanted classes, (N, A) of several attributes,
    as labels.
    """
    images, labels = context.rows(split)
    return images, targets_of(context, labels) if context.stage.kind == "classifier" else labels


def enable_options(context: Context, network: nn.Module) -> nn.Module:
    """The network with the training's gradient checkpointing, and its blocks compiled.

    These where losses cannot be compiled as a whole; not of networks under forward-mode AD.
    """
    training = context.config.training
    network.gradient_checkpointing = training.gradient_checkpointing
    if training.compile and not compiles_losses(context) and compiler_is_there(context.device.type):
        compile_blocks(network)
    return network


def read_checkpoint(config: CheckpointStage) -> tuple[dict[str, Tensor], dict[str, float]]:
    """A public network's weights by our names, and how it answers to noise.

    UserError where family, size, type or behaviour is another.  Under `torch.device("meta")`
    nothing is asked of the network.
    """
    checkpoint = config.checkpoint
    path = Path(checkpoint.path)
    sizes = shape(config.shape)
    asks = ALLOW not in checkpoint.allow and not is_meta()
    if checkpoint.format == "sana":
        from hdbench.networks import sana  # optional: diffusers

        del sizes["classes"]  # its labels are rows of prompts
        weights = sana.read(path, config.network, **sizes)
        check = sana.check_prediction
    else:
        weights = checkpoints.read(path, checkpoint.format, config.network, **sizes)
        check = partial(check_prediction, kind=checkpoint.format)
    answers = check(weights, config=config.network, **sizes, source=path) if asks else {}
    return weights, answers
