"""Table and text of the theory experiment."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd

from hdbench.experiments.report import Intervals, Report, markdown_table, with_half_widths
from hdbench.experiments.theory.collect import QUALITY, collect
from hdbench.experiments.theory.config import Theory, students_of
from hdbench.experiments.theory.figure import draw

TITLES = {
    "mean_velocity_error": "Error of u ↓",
    "structure": "Structure",
    "detail": "Detail",
    "parameters": "Parameters",
    "training_core_seconds": "Core-s",
}


def run_theory(theory: Theory, results: Path, out: Path, pdf: bool = False) -> list[Path]:
    """Train what is missing; write results/theory/metrics.csv and all of out/theory; the paths."""
    measured = collect(theory, results)
    table = render(theory, measured.frame)
    report = Report(
        experiment="theory",
        metrics=measured.frame,
        tables={"theory": table},
        text=to_markdown(theory, table),
        figures={"theory": partial(draw, theory, measured)},
    )
    return report.write(results, out, pdf)


def render(theory: Theory, frame: pd.DataFrame) -> pd.DataFrame:
    """One row a student or reference: each metric and the half-width of its 95% interval."""
    intervals = Intervals(frame, nfe=1)
    rows = []

    def add(arm: str, nfe: int, method: str, width: int | None) -> None:
        metrics = (*QUALITY, "parameters", "training_core_seconds")
        values = {metric: intervals(arm, metric, nfe) for metric in metrics}
        row = {"arm": arm, "nfe": nfe, "method": method, "width": width}
        rows.append(row | with_half_widths(values))

    for steps in theory.euler_steps:
        add("euler", steps, f"Exact velocity, {steps} Euler step{'s' if steps > 1 else ''}", None)
    for unit in students_of(theory):
        if unit.seed == theory.seeds[0]:
            add(unit.arm, 1, theory.methods[unit.method].full_title, unit.width)
    return pd.DataFrame(rows).astype({"width": "Int64"})


def to_markdown(theory: Theory, table: pd.DataFrame) -> str:
    """Caption and table for people."""
    caption = (
        "Students where the true mean velocity is known, one step from noise, "
        f"{theory.noises:,} noises. Error: root mean square of u_theta - u at (eps, 0, 1), "
        "relative to u. Structure and detail: 1 is the true distribution, 0 a distribution without "
        f"any. 95% t-intervals over {len(theory.seeds)} seeds; of references, over noises. "
        f"Students have {theory.network.layers} hidden layers and "
        f"{theory.training.steps:,} steps of {theory.training.batch} points."
    )
    widths = ["-" if pd.isna(width) else str(width) for width in table.width]
    labels = {"Method": table.method, "Width": widths}
    return caption + "\n\n" + markdown_table(table, labels, TITLES) + "\n"
