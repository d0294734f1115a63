"""The metrics of all students and of the exact velocity."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hdbench.core.errors import UserError
from hdbench.experiments.report import metrics_frame
from hdbench.experiments.theory.config import Theory, read_theory_config, students_of
from hdbench.experiments.theory.exact import Material, make_material, measure
from hdbench.experiments.theory.students import train
from hdbench.experiments.units import finish
from hdbench.flow.samplers import sample_ode
from hdbench.metrics.records import read_metrics

QUALITY = ("mean_velocity_error", "structure", "detail")


class Results(NamedTuple):
    """What has been measured."""

    frame: pd.DataFrame
    """Metrics, with the columns of hdbench.metrics.records."""
    samples: dict[tuple[str, int], np.ndarray]
    """(N,) by arm and seed."""
    material: Material
    """What the students are measured against."""


def collect(theory: Theory, results: Path) -> Results:
    """Everything measured; students that are not in `results` are trained first."""
    material = make_material(theory)
    students = finish(
        students_of(theory), lambda unit, progress: train(unit, material, progress), results
    )
    rows = list(euler_rows(theory, material))
    for unit, arrays in students.items():
        common = {"arm": unit.arm, "seed": unit.seed, "nfe": 1, "digest": unit.digest}
        rows += measured(common, material, arrays["samples"])
        cost = {"parameters": "parameters", "training_core_seconds": "core_seconds"}
        rows += [
            common | {"metric": metric, "value": float(arrays[key]), "protocol": "cost"}
            for metric, key in cost.items()
        ]
    frame = metrics_frame([{"suite": "theory"} | row for row in rows])
    samples = {(unit.arm, unit.seed): arrays["samples"] for unit, arrays in students.items()}
    return Results(frame, samples, material)


def check_is_of(config: Path, results: Path) -> None:
    """UserError where the metrics in `results` lack students of this configuration file."""
    path = results / "theory" / "metrics.csv"
    if not path.is_file():
        return  # nothing is rendered, and whoever publishes it says so
    wanted = {unit.digest for unit in students_of(read_theory_config(config))}
    if not wanted <= set(read_metrics(path).digest):
        raise UserError(
            f"{path}: of another configuration than {config}; make it again with `hdbench theory`"
        )


def euler_rows(theory: Theory, material: Material) -> Iterator[dict[str, Any]]:
    """Of Euler's steps with the exact velocity."""
    for steps in theory.euler_steps:
        samples = sample_ode(
            lambda z, t, c: material.exact.velocity(z, t.to(z)),
            material.noises.double(),
            None,
            steps,
        )
        common = {"arm": "euler", "nfe": steps, "digest": theory.euler_digest()}
        yield from measured(common, material, samples.flatten().numpy())


def measured(
    common: dict[str, Any], material: Material, samples: np.ndarray
) -> Iterator[dict[str, Any]]:
    """A row for every measure of samples (N,)."""
    measures = measure(material.exact, material.noises, material.truth, samples)
    for metric, value, se in measures:
        numbers = {"metric": metric, "value": value, "se": se, "n": len(samples)}
        yield common | numbers | {"protocol": "exact"}
