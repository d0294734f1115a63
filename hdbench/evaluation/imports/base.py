"""What a benchmark's own scorer said of images: read, checked, and given intervals."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from hdbench.core.config import nearest
from hdbench.core.errors import UserError, reason
from hdbench.core.files import read_text


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A scorer's results: of each of N images its id, score, prompt, and task if there are any."""

    ids: tuple[str, ...]
    values: np.ndarray  # (N,) float64
    prompts: tuple[str, ...]
    tasks: tuple[str, ...] = ()


class Importer(ABC):
    """The result file of one benchmark's official scorer.

    A subclass sets the class variables and defines `read`; `metrics` are of `Scores`, in the order
    of results.
    """

    name: ClassVar[str]
    about: ClassVar[str]  # printed with its numbers
    metrics: ClassVar[tuple[str, ...]]
    tasks: ClassVar[Mapping[str, int]] = {}  # number of prompts by task
    prompts: ClassVar[int | None] = None  # number of prompts, where the benchmark fixes it
    images: ClassVar[int | None] = None  # of each prompt, as its authors make them

    @abstractmethod
    def read(self, path: Path) -> Scores:
        """The scores in a file; UserError for a line that the scorer would not have written."""

    def check(self, path: Path, scores: Scores, partial: bool) -> None:
        """UserError where an image appears twice or, unless `partial`, one is missing."""
        if len(scores.ids) < 2:
            raise UserError(
                f"{path}: holds {len(scores.ids)} results of {self.name}; an interval needs at "
                "least two"
            )
        name, count = Counter(scores.ids).most_common(1)[0]
        if count > 1:
            raise UserError(
                f"{path}: {name} appears {count} times; give the results of one run of the scorer"
            )
        missing = "" if partial else self.missing(scores)
        if missing:
            raise UserError(
                f"{path}: {missing}; score all images, or give --partial, and the smaller count is "
                "in every metric's name"
            )

    def missing(self, scores: Scores) -> str:
        """What of the benchmark the scores lack, or an empty text."""
        images = Counter(scores.prompts)
        expected = self.prompts or sum(self.tasks.values())
        of_task = Counter(dict(zip(scores.prompts, scores.tasks, strict=False)).values())
        for task, count in self.tasks.items():
            if of_task[task] != count:
                return f"has {of_task[task]} of the {count} prompts of {task}"
        if expected and len(images) != expected:
            return f"has {len(images)} of the {expected:,} prompts of {self.name}"
        fewest = min(images, key=images.__getitem__)
        most = max(images.values())
        if self.images and images[fewest] != most:
            return f"has {images[fewest]} of {most} images of the prompt {fewest}"
        return ""

    def notes(self, scores: Scores) -> list[str]:
        """What a reader should know, a sentence each."""
        images = len(scores.ids) / len(set(scores.prompts))
        if self.images in (None, images):
            return []
        return [
            f"{images:.3g} images per prompt, where {self.name} has {self.images}: the value is "
            "the same on average, its interval is not"
        ]


def lines_of(path: Path) -> list[str]:
    """The lines of a file; UserError where it cannot be read as text."""
    try:
        return read_text(path, "utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)})") from None


def refuse(path: Path, line: int, problem: str, remedy: str) -> UserError:
    """The sentence on a line that is wrong."""
    return UserError(f"{path}: line {line}: {problem}; {remedy}")


def unknown(task: str, tasks: Sequence[str]) -> str:
    """The rest of a sentence on a task that the benchmark does not have."""
    return f"{task!r} is no task of it{nearest(task, tasks)}"
