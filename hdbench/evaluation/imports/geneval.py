"""GenEval (arXiv 2310.11513): `results.jsonl` of evaluation/evaluate_images.py."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np

from hdbench.core.files import from_json
from hdbench.evaluation.imports.base import Importer, Scores, lines_of, refuse, unknown

REMEDY = "give the file as GenEval's evaluate_images.py wrote it"


class GenEvalResults(Importer):
    """One JSON object a line: an image's filename, its task's tag, its prompt, and `correct`."""

    name = "geneval"
    about = (
        "GenEval by its own scorer (Mask2Former and CLIP): the mean over six tasks of the share of "
        "correct images; intervals by task, over prompts"
    )
    metrics = ("geneval", "geneval_{task}")
    tasks = {
        "single_object": 80,
        "two_object": 99,
        "counting": 80,
        "colors": 94,
        "position": 100,
        "color_attr": 100,
    }
    images = 4

    def read(self, path: Path) -> Scores:
        ids = []
        values = []
        folders = []
        tasks = []
        texts: dict[str, tuple[str, str]] = {}
        for number, line in enumerate(lines_of(path), 1):
            if not line.strip():
                continue
            try:
                row = from_json(line)
                place = PurePosixPath(row["filename"].replace("\\", "/"))
                task, prompt, correct = row["tag"], row["prompt"], row["correct"]
            except (ValueError, KeyError, TypeError, AttributeError):
                problem = "not an object with filename, tag, prompt and correct"
                raise refuse(path, number, problem, REMEDY) from None
            if not isinstance(correct, bool):
                problem = f"correct is {correct!r}, neither true nor false"
                raise refuse(path, number, problem, REMEDY)
            if task not in list(self.tasks):  # a list, for it may be of any type
                problem = f"the tag {unknown(task, list(self.tasks))}"
                raise refuse(path, number, problem, REMEDY)
            if len(place.parts) < 3 or place.parts[-2] != "samples":
                problem = f"{str(place)!r} is not <prompt>/samples/<image>"
                raise refuse(path, number, problem, REMEDY)
            folder = place.parts[-3]
            if texts.setdefault(folder, (task, prompt)) != (task, prompt):
                problem = f"the prompt of {folder} is another than before"
                raise refuse(path, number, problem, REMEDY)
            ids.append(f"{folder}/{place.stem}")
            values.append(correct)
            folders.append(folder)
            tasks.append(task)
        return Scores(
            ids=tuple(ids),
            values=np.array(values, dtype=np.float64),
            prompts=tuple(folders),
            tasks=tuple(tasks),
        )
