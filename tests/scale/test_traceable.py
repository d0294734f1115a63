"""Updates ask no tensor for its value: they can be compiled, and wait for no device."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from hdbench.core.seeds import Draws
from hdbench.flow.guidance import Guidance
from hdbench.methods import DISTRIBUTION, PRETRAINING, TRAJECTORY
from hdbench.methods.base import Objective, Problem
from hdbench.methods.discriminators import build_head
from hdbench.methods.distribution.dmd import DMD
from hdbench.methods.distribution.dmd2 import DMD2
from hdbench.methods.trajectory.meanflow import MeanFlow
from hdbench.networks.classifier import Classifier
from hdbench.networks.config import ClassifierConfig, TransformerConfig
from hdbench.networks.projected import ProjectedClassifier
from hdbench.networks.transformer import Transformer
from hdbench.stages.trainer import WINDOW, Trainer
from hdbench.suite.training import Training

SIZES = {"image_size": 8, "channels": 1, "classes": 10}
CONFIG = TransformerConfig(width=16, depth=3, heads=2, patch=4)
OBJECTIVES = [cls() for cls in (PRETRAINING[0], *TRAJECTORY, *DISTRIBUTION)] + [
    DMD(discriminator="awd_logit", regulariser=MeanFlow(), gan={"r1_weight": 1.0}),
    DMD2(generator_steps=4),
]


def problem_of(objective: Objective) -> Problem:
    student = Transformer(CONFIG, mean_velocity=objective.role == "student", **SIZES)
    teacher = Transformer(CONFIG, mean_velocity=False, **SIZES).requires_grad_(False)

    def head(name, gan):
        return build_head(name, layers=len(gan.blocks), width=16, grid=2, parameters=gan.parameters)

    pairs = torch.randn(32, 1, 8, 8), torch.randn(32, 1, 8, 8), torch.arange(32) % 10
    classifier = Classifier(ClassifierConfig(), attributes=(10,), image_size=8, channels=1)
    return Problem(
        student=student,
        learning_rate=1e-3,
        teacher=teacher,
        teacher_velocity=Guidance(scale=2.0).of(teacher),
        copy_teacher=lambda: Transformer(CONFIG, mean_velocity=False, **SIZES),
        head=head,
        classifier=ProjectedClassifier(classifier, width=16, grid=2, classes=10),
        pairs=pairs,
    )


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.name)
def test_losses_and_gradients_run_on_tensors_without_values(objective):
    """A fake tensor has no value: a branch on one, or `.item()`, is an error here."""
    images, labels = torch.randn(40, 1, 8, 8), torch.arange(40) % 10
    problem = problem_of(objective)
    updates = objective.updates(problem)
    batches = []
    for update in updates:
        update.on_step(0, 10)
        batches.append(update.draw(Draws((0,), images, labels, 8)))
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    for update, batch in zip(updates, batches, strict=True):
        with mode:
            fake = {
                name: mode.from_tensor(value) if isinstance(value, torch.Tensor) else value
                for name, value in batch.items()
            }
            loss, scalars = update.loss(fake)
            loss.backward()
        assert all(value.ndim == 0 for value in scalars.values())


def test_a_branch_on_a_value_would_be_found():
    mode = FakeTensorMode()
    with mode, pytest.raises(Exception, match="_local_scalar_dense"):
        bool(torch.ones(3).sum() > 2)


class CountsReads(TorchDispatchMode):
    """How often a value left a tensor."""

    def __init__(self):
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.reads += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_scalars_are_read_once_a_window():
    objective = DMD2(generator_steps=2)
    problem = problem_of(objective)
    training = Training(objective=objective, steps=100, batch=8, learning_rate=1e-3, ema=0.9)
    images, labels = torch.randn(40, 1, 8, 8), torch.arange(40) % 10
    trainer = Trainer(
        objective.updates(problem), training, problem.student, (0, "test"), images, labels
    )
    with CountsReads() as counter:
        for _ in range(WINDOW - 1):
            trainer.train_step()
    assert counter.reads == 0 and not trainer.history
    trainer.train_step()
    assert {len(values) for values in trainer.history.values()} == {WINDOW}
    assert not trainer.pending
