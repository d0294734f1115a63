"""VQAScore (arXiv 2404.01291): its package returns scores and writes no file, so a plain table."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from hdbench.evaluation.imports.base import Importer, Scores, lines_of, refuse

REMEDY = "write a csv with the columns image, prompt and score"


class VqaScores(Importer):
    """A csv with the columns image, prompt and score, a row for each image, scores from 0 to 1."""

    name = "vqascore"
    about = (
        "VQAScore: the mean probability of yes to whether the image shows its prompt, by the model "
        "that --name should say; intervals over prompts"
    )
    metrics = ("vqascore",)

    def read(self, path: Path) -> Scores:
        rows = csv.reader(lines_of(path))
        wanted = ("image", "prompt", "score")
        try:
            columns = next(rows, [])
            lines = [(rows.line_num, row) for row in rows if row]
        except csv.Error as error:
            raise refuse(path, rows.line_num, str(error), REMEDY) from None
        if missing := [name for name in wanted if name not in columns]:
            problem = f"no column {missing[0]}"
            raise refuse(path, 1, problem, REMEDY)
        places = [columns.index(name) for name in wanted]
        ids = []
        prompts = []
        values = []
        for number, row in lines:
            try:
                image, prompt, score = (row[place] for place in places)
                value = float(score)
            except (IndexError, ValueError):
                value = -1.0
                image = prompt = ""
            if not (0 <= value <= 1 and image and prompt):
                problem = "not an image, its prompt, and a score from 0 to 1"
                raise refuse(path, number, problem, REMEDY)
            ids.append(image)
            prompts.append(prompt)
            values.append(value)
        return Scores(ids=tuple(ids), values=np.array(values), prompts=tuple(prompts))
