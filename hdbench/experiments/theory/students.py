"""Training of the students, and collecting their metrics."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from hdbench.core.errors import Divergence
from hdbench.core.files import write_together
from hdbench.core.progress import Progress
from hdbench.core.seeds import seed_of
from hdbench.experiments.theory.config import Network, Theory, Unit, digest, units
from hdbench.experiments.theory.exact import Material, exact_pairs, material, measure
from hdbench.experiments.units import load_unit
from hdbench.flow.path import generate
from hdbench.flow.samplers import sample_ode
from hdbench.methods.base import Problem
from hdbench.metrics.records import COLUMNS, check
from hdbench.stages.trainer import Trainer
from hdbench.suite.schema import Training

QUALITY = ("mean_velocity_error", "structure", "detail")


class Student(nn.Module):
    """u_theta(z, r, t, c) = u_S(z, r, t) + perceptron(z / sigma_t, t, t - r and their sines and cosines); c is unused.

    u_S = (t + r - S^2 (2 - t - r)) / ((sigma_t + sigma_r) sigma_t) z is the mean velocity of N(0, S^2) with the data's own
    sd S, sigma_t^2 = (1 - t)^2 S^2 + t^2: what Karras et al. (arXiv 2206.00364, Section 5) call preconditioning.
    z (B, 1, 1, 1), r and t (B,).
    """

    def __init__(self, width: int, network: Network, sd: float):
        super().__init__()
        self.sd, sizes = sd, [3 * (1 + 2 * network.frequencies), *[width] * network.layers]
        hidden = [layer for a, b in zip(sizes, sizes[1:]) for layer in (nn.Linear(a, b), nn.GELU())]
        self.layers = nn.Sequential(*hidden, nn.Linear(width, 1))
        self.register_buffer(
            "frequencies", math.pi / 2 * 2.0 ** torch.arange(network.frequencies), persistent=False
        )

    def forward(self, z: Tensor, r: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        sigma_t, sigma_r = (((1 - s) ** 2 * self.sd**2 + s**2).sqrt() for s in (t, r))
        y = z.flatten() / sigma_t
        given = torch.stack([y, t, t - r], dim=1)
        waves = (given[:, :, None] * self.frequencies).flatten(1)
        slope = (t + r - self.sd**2 * (2 - t - r)) / (sigma_t + sigma_r)
        return (
            slope * y + self.layers(torch.cat([given, waves.sin(), waves.cos()], dim=1)).flatten()
        ).view_as(z)


def train(unit: Unit, given: Material, progress: Callable[[int], None]) -> dict[str, np.ndarray]:
    """The unit's samples G(eps) (N,) at the common noises, by its averaged weights, and what it cost."""
    theory, objective, started = (
        unit.theory,
        unit.theory.methods[unit.method].objective,
        time.process_time(),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(unit.seed, "theory", unit.width))
        student = Student(unit.width, theory.network, given.exact.deviation)
    pairs = objective.pairs_needed()
    problem = Problem(
        student=student,
        learning_rate=theory.training.learning_rate,
        teacher_velocity=given.exact.velocity,
        pairs=exact_pairs(given.exact, pairs.count) if pairs else None,
    )
    training = Training(objective=objective, **theory.training.model_dump())
    trainer = Trainer(
        objective.updates(problem),
        training,
        student,
        (unit.seed, "theory"),
        given.images,
        torch.zeros(len(given.images), dtype=torch.int64),
    )
    try:
        while trainer.step < training.steps:
            trainer.train_step()
            progress(trainer.step)
        trainer.read_scalars()
        trainer.check_weights()
    except Divergence as error:
        raise Divergence(f"{unit.arm}, seed {unit.seed}: {error}") from None
    student.load_state_dict(trainer.ema)
    with torch.no_grad():
        samples = generate(student, given.noises, torch.zeros(len(given.noises), dtype=torch.int64))
    return {
        "samples": samples.flatten().numpy(),
        "core_seconds": np.array(time.process_time() - started),
        "parameters": np.array(sum(p.numel() for p in student.parameters())),
    }


def collect(
    theory: Theory, results: Path
) -> tuple[pd.DataFrame, dict[tuple[str, int], np.ndarray], Material]:
    """Metrics (columns of hdbench.metrics.records) and samples (N,) of every unit; those that are not in results are trained first."""
    todo = [unit for unit in units(theory) if not unit.path(results).exists()]
    given, steps = material(theory), theory.training.steps
    progress = Progress("theory", len(todo) * steps)
    for number, unit in enumerate(todo):
        payload = io.BytesIO()
        found = train(
            unit,
            given,
            lambda step: progress(number * steps + step, f"{unit.arm}, seed {unit.seed}"),
        )
        np.savez(payload, **found)
        write_together({unit.path(results): payload.getvalue()})
    rows, samples = [], {}

    def add(common: dict, values: np.ndarray) -> None:
        rows.extend(
            common
            | {"metric": metric, "value": value, "se": se, "n": len(values), "protocol": "exact"}
            for metric, value, se in measure(given.exact, given.noises, given.truth, values)
        )

    for steps in theory.euler_steps:
        found = sample_ode(
            lambda z, t, c: given.exact.velocity(z, t.to(z)), given.noises.double(), None, steps
        )
        add(
            {"arm": "euler", "nfe": steps, "digest": digest(theory, "data", "noises")},
            found.flatten().numpy(),
        )
    for unit in units(theory):
        found = load_unit(unit.path(results), ("samples", "core_seconds", "parameters"))
        samples[unit.arm, unit.seed] = found["samples"]
        common = {"arm": unit.arm, "seed": unit.seed, "nfe": 1, "digest": unit.digest}
        add(common, found["samples"])
        rows += [
            common | {"metric": metric, "value": float(found[key]), "protocol": "cost"}
            for metric, key in (
                ("parameters", "parameters"),
                ("training_core_seconds", "core_seconds"),
            )
        ]
    frame = pd.DataFrame([{"suite": "theory"} | row for row in rows], columns=list(COLUMNS)).astype(
        COLUMNS
    )
    return check(frame), samples, given
