"""Units of the experiments beside the suites: arrays under a digest of all that decides them."""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from hdbench.core.config import Config
from hdbench.core.errors import UserError
from hdbench.core.files import write_together
from hdbench.core.progress import Progress

Arrays = dict[str, np.ndarray]
K = TypeVar("K", bound=Hashable)
S = TypeVar("S")
U = TypeVar("U", bound="Unit")


class Unit(ABC):
    """One computation of an experiment, run once: a seed, and all that it is run with."""

    experiment: ClassVar[str]
    """Folder of its files, and the word before the line of progress."""
    fields: ClassVar[tuple[str, ...]]
    """Names of the arrays of a finished unit."""

    @property
    @abstractmethod
    def name(self) -> str:
        """For people, and the first part of the file's name."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Training steps, of which `run` of `finish` reports each."""

    @property
    @abstractmethod
    def decisive(self) -> dict[str, Any]:
        """All that decides the arrays, as JSON values: what the digest covers."""

    @property
    def digest(self) -> str:
        return unit_digest(self.decisive)

    def path(self, results: Path) -> Path:
        return results / self.experiment / "units" / f"{self.name}-{self.digest}.npz"

    def load(self, results: Path) -> Arrays:
        """The finished unit's `fields`; UserError for a broken file."""
        path = self.path(results)
        try:
            with np.load(path, allow_pickle=False) as file:
                return {field: file[field] for field in self.fields}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{path}: not a finished unit ({error}); delete it and run again"
            ) from None


def unit_digest(decisive: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def finish(
    units: Sequence[U], run: Callable[[U, Callable[[int], None]], Arrays], results: Path
) -> dict[U, Arrays]:
    """The arrays of every unit, in order; units without a file in `results` are run first.

    `run` gets a unit and a function to call with the number of steps done.  An interrupted call
    leaves the units that it has finished, and the next one goes on behind them.
    """
    missing = [unit for unit in units if not unit.path(results).exists()]
    progress = Progress(units[0].experiment, sum(unit.steps for unit in missing))
    done = 0
    for unit in missing:
        arrays = run(unit, lambda step, done=done, unit=unit: progress(done + step, unit.name))
        payload = io.BytesIO()
        np.savez(payload, **arrays)
        write_together({unit.path(results): payload.getvalue()})
        done += unit.steps
    return {unit: unit.load(results) for unit in units}


def choose(candidates: Iterable[tuple[K, S, float]]) -> dict[K, S]:
    """By key the setting with the highest score, of (key, setting, score).

    Of equal scores the first; a score that is NaN comes last.
    """
    best: dict[K, tuple[S, float]] = {}
    for key, setting, score in candidates:
        score = -math.inf if math.isnan(score) else score
        if key not in best or score > best[key][1]:
            best[key] = (setting, score)
    return {key: setting for key, (setting, _) in best.items()}


def check_distinct(config: Config, *names: str) -> None:
    """ValueError where one of these tuples has a value twice, for validators of configurations."""
    for name in names:
        values = getattr(config, name)
        if len(set(values)) < len(values):
            raise ValueError(f"{name} = {list(values)}: one value appears twice; remove it")
