"""Results of benchmarks with a scorer of their own, one file each, as any evaluation has them.

Such a scorer (a detector of mmdet, a model of questions and answers) runs where its authors made it
run; what it wrote is read here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hdbench.core.files import sha256
from hdbench.evaluation.imports.base import Importer, Scores
from hdbench.evaluation.imports.dpg_bench import DpgBenchResults
from hdbench.evaluation.imports.geneval import GenEvalResults
from hdbench.evaluation.imports.vqascore import VqaScores
from hdbench.evaluation.request import title_of
from hdbench.evaluation.results import Evaluation, results_of
from hdbench.metrics import Design, MetricInput, measure_metrics

__all__ = ["IMPORTERS", "Importer", "evaluation_of"]

IMPORTERS = {
    importer.name: importer for importer in (GenEvalResults(), DpgBenchResults(), VqaScores())
}


def evaluation_of(
    importer: Importer, path: Path, name: str | None = None, partial: bool = False
) -> Evaluation:
    """The benchmark's metrics of a result file, with intervals over its prompts.

    Raises UserError for a file that is not the scorer's or, unless `partial`, lacks images.
    """
    scores = importer.read(path)
    importer.check(path, scores, partial)
    sample = MetricInput(scores=scores.values, captions=_captions(scores), design=_design(scores))
    digest = sha256(path)
    return Evaluation(
        name=title_of(name, "SCORES", path),
        protocol=f"{importer.name}:-",
        reference="",
        digest=digest[:16],
        results=results_of(measure_metrics(importer.metrics, sample), scores.ids),
        facts={
            "about": importer.about,
            "scores": str(path),
            "scores_digest": digest,
            "n": len(scores.ids),
            "prompts": len(set(scores.prompts)),
            "notes": importer.notes(scores),
        },
    )


def _captions(scores: Scores) -> list[dict[str, str]]:
    tasks = scores.tasks or [""] * len(scores.ids)
    pairs = zip(scores.prompts, tasks, strict=True)
    return [{"prompt": prompt, "category": task} for prompt, task in pairs]


def _design(scores: Scores) -> Design:
    """Prompts are independent, tasks were fixed."""
    numbers = np.unique(scores.prompts, return_inverse=True)[1]
    strata = np.unique(scores.tasks, return_inverse=True)[1] if scores.tasks else None
    return Design(strata=strata, clusters=numbers)
