"""The students and their training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from hdbench.core.errors import Divergence
from hdbench.core.seeds import seed_of
from hdbench.experiments.theory.config import Network, StudentUnit
from hdbench.experiments.theory.exact import Material, exact_pairs
from hdbench.experiments.units import Arrays
from hdbench.flow.path import generate
from hdbench.methods.base import Problem
from hdbench.stages.trainer import Trainer
from hdbench.suite.training import Training


class Student(nn.Module):
    """u_theta(z, r, t) = u_S(z, r, t) + perceptron(z / sigma_t, t, t - r, their sines and cosines).

    u_S = (t + r - S^2 (2 - t - r)) / ((sigma_t + sigma_r) sigma_t) z is the mean velocity of
    N(0, S^2) with the data's own sd S, sigma_t^2 = (1 - t)^2 S^2 + t^2: what Karras et al.
    (arXiv 2206.00364, Section 5) call preconditioning.  z (B, 1, 1, 1), r and t (B,) -> like z;
    c is unused.
    """

    frequencies: Tensor

    def __init__(self, width: int, network: Network, sd: float):
        super().__init__()
        self.sd = sd
        sizes = [3 * (1 + 2 * network.frequencies), *[width] * network.layers]
        hidden = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.GELU())]
        self.layers = nn.Sequential(*hidden, nn.Linear(width, 1))
        self.register_buffer(
            "frequencies", math.pi / 2 * 2.0 ** torch.arange(network.frequencies), persistent=False
        )

    def forward(self, z: Tensor, r: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        sigma_t, sigma_r = (((1 - s) ** 2 * self.sd**2 + s**2).sqrt() for s in (t, r))
        y = z.flatten() / sigma_t
        inputs = torch.stack([y, t, t - r], dim=1)
        phases = (inputs[:, :, None] * self.frequencies).flatten(1)
        slope = (t + r - self.sd**2 * (2 - t - r)) / (sigma_t + sigma_r)
        correction = self.layers(torch.cat([inputs, phases.sin(), phases.cos()], dim=1))
        return (slope * y + correction.flatten()).view_as(z)


def new_trainer(unit: StudentUnit, material: Material) -> tuple[Student, Trainer]:
    """The unit's fresh student, and what trains it by the suite's own loop."""
    theory = unit.theory
    objective = theory.methods[unit.method].objective
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(unit.seed, "theory", unit.width))
        student = Student(unit.width, theory.network, material.exact.deviation)
    pairs = objective.pairs_needed()
    problem = Problem(
        student=student,
        learning_rate=theory.training.learning_rate,
        teacher_velocity=material.exact.velocity,
        pairs=exact_pairs(material.exact, pairs.count) if pairs else None,
    )
    trainer = Trainer(
        objective.updates(problem),
        Training(objective=objective, **theory.training.model_dump()),
        student,
        (unit.seed, "theory"),
        material.images,
        torch.zeros(len(material.images), dtype=torch.int64),
    )
    return student, trainer


def train(unit: StudentUnit, material: Material, progress: Callable[[int], None]) -> Arrays:
    """The unit's `samples` G(eps) (N,) float32 by its averaged weights, and what they cost.

    Divergence, naming the student, where its training has no finite loss or weights.
    """
    started = time.process_time()
    student, trainer = new_trainer(unit, material)
    try:
        while trainer.step < unit.steps:
            trainer.train_step()
            progress(trainer.step)
        trainer.read_scalars()
        trainer.check_weights()
    except Divergence as error:
        raise Divergence(f"{unit.arm}, seed {unit.seed}: {error}") from None
    student.load_state_dict(trainer.ema)
    labels = torch.zeros(len(material.noises), dtype=torch.int64)
    with torch.no_grad():
        samples = generate(student, material.noises, labels)
    return {
        "samples": samples.flatten().numpy(),
        "core_seconds": np.array(time.process_time() - started),
        "parameters": np.array(sum(p.numel() for p in student.parameters())),
    }
