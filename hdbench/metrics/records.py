"""The table of numbers that commands read and write: its columns, its reader, 95% intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from hdbench.core.errors import UserError

COLUMNS = {
    "suite": "str",
    "arm": "str",
    "seed": "Int64",
    "nfe": "Int64",
    "metric": "str",
    "value": "float64",
    "se": "float64",
    "n": "Int64",
    "protocol": "str",
    "digest": "str",
}
KEY = ["arm", "seed", "nfe", "metric"]


def with_count(metric: str, n: int) -> str:
    """The metric's name with its count: `fd_train` and 4000 -> `fd_train_4k`; 450 -> `_450`."""
    return f"{metric}_{n // 1000}k" if n % 1000 == 0 else f"{metric}_{n}"


def read_metrics(path: Path, strict: bool = True) -> pd.DataFrame:
    """A file of `collect`; UserError where it is missing or none, or (`strict`) fails `check`."""
    try:
        frame = pd.read_csv(
            path, dtype=COLUMNS, keep_default_na=False, na_values=["", "nan", "NaN"]
        )
    except FileNotFoundError:
        raise UserError(f"{path}: does not exist; make it with `hdbench collect`") from None
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path}: not a file of metrics ({reason}); make it with `hdbench collect`"
        ) from None
    if list(frame.columns) != list(COLUMNS):
        raise UserError(
            f"{path}: columns are {', '.join(frame.columns)}, not {', '.join(COLUMNS)}; make it "
            "with `hdbench collect`"
        )
    for column in ("suite", "arm", "metric", "protocol"):
        if (empty := frame[column].isna()).any():
            line = int(empty.to_numpy().argmax()) + 2
            raise UserError(f"{path}: line {line} has no {column}; make it with `hdbench collect`")
    return check(frame, str(path)) if strict else frame


def check(frame: pd.DataFrame, source: str = "metrics") -> pd.DataFrame:
    """The frame itself; UserError where a number appears twice, or a metric is of two protocols."""
    twice = frame[frame.duplicated(["suite", *KEY], keep=False)][KEY].drop_duplicates()
    if len(twice):
        named = "; ".join(
            " ".join(
                f"{key} {'-' if pd.isna(value) else value}"
                for key, value in zip(KEY, values, strict=True)
            )
            for values in twice.head(3).itertuples(index=False)
        )
        raise UserError(
            f"{source}: {len(twice)} numbers appear more than once ({named}); make it again "
            "with `hdbench collect`"
        )
    protocols = frame.groupby(["suite", "metric"]).protocol.agg(set)
    if mixed := [p for p in protocols if len(p) > 1]:
        raise UserError(
            f"{source}: mixes the protocols {', '.join(sorted(mixed[0]))}; make it again with "
            "`hdbench collect`"
        )
    return frame


class Interval(NamedTuple):
    """A value and the half-width of its 95% interval; NaN where unknown."""

    value: float
    half_width: float


MISSING = Interval(math.nan, math.nan)


def interval(values: Sequence[float] | np.ndarray, standard_error: float = math.nan) -> Interval:
    """Mean over seeds and t-interval; of one value its sampling interval; else MISSING."""
    values = np.asarray(values)  # a Series is indexed by its seeds
    n = len(values)
    if n == 0 or not np.isfinite(values).all():
        return MISSING
    if n == 1:
        return Interval(float(values[0]), 1.96 * standard_error)
    return Interval(
        float(np.mean(values)),
        float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n)),
    )
