"""Numbers of the experiments beside the suites, read again as values for claims."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from hdbench.core.errors import UserError
from hdbench.metrics.records import read_metrics
from hdbench.report.rules import Unit, Values


def read_numbers(path: Path, experiment: str) -> pd.DataFrame:
    """The metrics file of `hdbench <experiment>`; UserError for a missing or another file."""
    if not path.exists():
        raise UserError(f"{path}: does not exist; make it with `hdbench {experiment}`")
    frame = read_metrics(path)
    if set(frame.suite) != {experiment}:
        raise UserError(
            f"{path}: has not the metrics of {experiment} alone; make it with "
            f"`hdbench {experiment}`"
        )
    return frame


def values_of(frame: pd.DataFrame, *units: Unit) -> Values:
    """Values by seed, of `arm` in one step or of `arm@steps`; None in other units than these."""
    by_seed = {
        key: group.set_index("seed").value for key, group in frame.groupby(["arm", "nfe", "metric"])
    }

    def values(name: str, metric: str, unit: Unit = units[0]) -> pd.Series | None:
        if unit not in units:
            return None
        arm, _, steps = name.partition("@")
        return by_seed.get((arm, int(steps or 1), metric))

    return values
