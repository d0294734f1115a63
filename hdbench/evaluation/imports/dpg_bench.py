"""DPG-Bench (ELLA, arXiv 2403.05135): the .txt of dpg_bench/compute_dpg_bench.py."""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath

import numpy as np

from hdbench.core.errors import UserError
from hdbench.evaluation.imports.base import Importer, Scores, lines_of, refuse

REMEDY = "give the file as ELLA's compute_dpg_bench.py wrote it"
SUMMARY = "DPG-Bench score:"


class DpgBenchResults(Importer):
    """A line for each prompt's image: path, the scores of its crops, their mean; then a summary."""

    name = "dpg_bench"
    about = (
        "DPG-Bench by its own scorer (mPLUG-large): 100 times the mean over prompts of the share "
        "of questions answered with yes; intervals over prompts"
    )
    metrics = ("dpg_bench",)
    prompts = 1065

    def read(self, path: Path) -> Scores:
        lines = lines_of(path)
        head = next((i for i, line in enumerate(lines) if line.startswith("Model:")), len(lines))
        names = []
        means = []
        crops = set()
        for number, line in enumerate(lines[:head], 1):
            if not line.strip():
                continue
            fields = line.split(", ")
            scores: list[float] = []
            while len(fields) > 1 and (score := _share(fields[-1])) is not None:
                scores.insert(0, score)
                fields.pop()
            *of_crops, average = scores or [math.nan]
            if not of_crops:
                problem = "not an image's path, its scores from 0 to 1, and their mean"
                raise refuse(path, number, problem, REMEDY)
            if abs(average - np.mean(of_crops)) > 1e-6:
                problem = f"{average} is not the mean of the scores before it"
                raise refuse(path, number, problem, REMEDY)
            crops.add(len(of_crops))
            names.append(PurePosixPath(", ".join(fields).replace("\\", "/")).name.split(".")[0])
            means.append(average)
        if len(crops) > 1:
            raise UserError(
                f"{path}: prompts have {' or '.join(map(str, sorted(crops)))} images; give the "
                "results of one run of the scorer"
            )
        self._check_summary(path, lines[head:], means)
        return Scores(ids=tuple(names), values=np.array(means), prompts=tuple(names))

    def _check_summary(self, path: Path, lines: list[str], means: list[float]) -> None:
        """The scorer's last line, if it came so far, is the mean of what it wrote above."""
        said = [line.partition(":")[2] for line in lines if line.startswith(SUMMARY)]
        if not lines:
            return
        try:
            (score,) = map(float, said)
        except ValueError:
            raise UserError(
                f"{path}: its summary does not have exactly one line {SUMMARY!r}; {REMEDY}"
            ) from None
        if means and abs(score - 100 * np.mean(means)) > 1e-4:
            raise UserError(
                f"{path}: the mean of its {len(means)} prompts is {100 * np.mean(means):.4f}, its "
                f"summary says {score:.4f}; lines are missing or of another run"
            )


def _share(text: str) -> float | None:
    """A number from 0 to 1, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value <= 1 else None
