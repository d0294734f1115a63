"""The table of numbers that commands read and write: its columns, its reader, 95% intervals."""

from __future__ import annotations

import csv
import gzip
import io
import math
import textwrap
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from hdbench.core.config import MISSING_NAMES
from hdbench.core.errors import UserError, reason
from hdbench.core.files import LARGEST_TEXT, read_bytes
from hdbench.metrics.base import Metric

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
# as Python's and pandas' writers have them, but for digits in groups
NUMBER = r"(?i)|nan|[-+]?(inf|([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?)"
KEY = ["arm", "seed", "nfe", "metric"]


def with_count(metric: str, n: int) -> str:
    """The metric's name with its count: `fd_train` and 4000 -> `fd_train_4k`; 450 -> `_450`."""
    return f"{metric}_{n // 1000}k" if n % 1000 == 0 else f"{metric}_{n}"


def read_metrics(path: Path, strict: bool = True) -> pd.DataFrame:
    """The numbers of a .csv or .csv.gz; UserError, with the line, where one is malformed.

    `strict`: all numbers are of one run, see `check`.  Otherwise there must be some, and one may
    appear twice if both are the same.
    """
    rows = _rows(path)
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    for column, kind in COLUMNS.items():
        texts = frame[column]
        if column == "seed" or kind == "Int64":
            wrong = ~texts.str.fullmatch(r"-?[0-9]{1,18}") & (texts != "")
            _refuse(path, texts, wrong, "is not a whole number of at most 18 digits")
            frame[column] = pd.array([int(text) if text else pd.NA for text in texts], "Int64")
        elif kind == "float64":
            wrong = ~texts.str.fullmatch(NUMBER)
            _refuse(path, texts, wrong, "is not a number")
            frame[column] = [float(text or "nan") for text in texts]
        else:
            _refuse(path, texts, ~texts.map(str.isprintable), "has a character that is not shown")
            _refuse(path, texts, texts.str.strip() == "", "is empty")
            _refuse(path, texts, texts.str.strip() != texts, "begins or ends with a space")
    missing = frame.arm.str.lower().isin(MISSING_NAMES)
    _refuse(path, frame.arm, missing, "is what tables read as a missing value")
    for column, wrong, problem in (
        ("n", (frame.n < 1).fillna(False), "must be 1 or more"),
        ("seed", (frame.seed < 0).fillna(False), "must be 0 or more"),
        ("nfe", (frame.nfe < 0).fillna(False), "must be 0 or more"),
        ("se", (frame.se < 0) | np.isinf(frame.se), "must be finite, and 0 or more"),
    ):
        _refuse(path, frame[column], wrong, problem)
    if not strict:
        if frame.empty:
            raise UserError(f"{path}: holds no numbers; give a file that `hdbench collect` wrote")
        frame = frame.drop_duplicates()
        twice = frame.duplicated(["suite", *KEY, "protocol"])
        _refuse(path, frame.metric, twice, "has another value in a line before")
        return frame.reset_index(drop=True)
    return check(frame.astype(COLUMNS), str(path))


def _rows(path: Path) -> list[list[str]]:
    """The lines below the header, each with all columns; UserError for another kind of file."""
    if not path.name.endswith((".csv", ".csv.gz")):
        raise UserError(f"{path}: metrics are read from .csv and .csv.gz; unpack or rename it")
    try:
        content = read_bytes(path)
        if path.name.endswith(".gz"):
            content = unpacked(content)
        lines = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True))
        if not lines:
            raise ValueError("no header")
    except FileNotFoundError:
        committed = Path("paper_tables", path.parent.name, path.name)
        there = f"; that of the committed run is {committed}" if committed.is_file() else ""
        raise UserError(f"{path}: does not exist; make it with `hdbench collect`{there}") from None
    except (OSError, ValueError, EOFError, zlib.error, csv.Error) as error:
        raise UserError(
            f"{path}: not a file of metrics ({reason(error)}); make it with `hdbench collect`"
        ) from None
    header, *rows = lines
    if header != list(COLUMNS):
        shown = textwrap.shorten(", ".join(header), 200, placeholder=" ...")
        raise UserError(
            f"{path}: columns are {shown}, not {', '.join(COLUMNS)}; make it with `hdbench collect`"
        )
    for number, row in enumerate(rows, 2):
        if len(row) != len(COLUMNS):
            raise UserError(
                f"{path}: line {number} has {len(row)} fields, not {len(COLUMNS)}; make it with "
                "`hdbench collect`"
            )
    return rows


def unpacked(content: bytes) -> bytes:
    """What gzip has packed; ValueError for more than is read of a file that is not packed."""
    with gzip.open(io.BytesIO(content)) as file:
        text = file.read(LARGEST_TEXT + 1)
    if len(text) > LARGEST_TEXT:
        raise ValueError(f"unpacked, larger than {LARGEST_TEXT:,} bytes")
    return text


def _refuse(path: Path, values: pd.Series, wrong: pd.Series, problem: str) -> None:
    """UserError for the first value that is wrong."""
    if wrong.any():
        row = values.index[wrong.to_numpy().argmax()]
        raise UserError(
            f"{path}: line {row + 2}: {values.name} = {str(values[row])[:60]!r} {problem}; fix it, "
            "or make the file with `hdbench collect`"
        )


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


def interval(
    values: Sequence[float] | np.ndarray,
    standard_error: float = math.nan,
    metric: type[Metric] | None = None,
) -> Interval:
    """Mean over seeds and t-interval; of one value its sampling interval; else MISSING.

    Of one value of a share the half-width is that to the further limit: see `Share.limits`.
    """
    values = np.asarray(values)  # a Series is indexed by its seeds
    n = len(values)
    if n == 0 or not np.isfinite(values).all():
        return MISSING
    if n == 1:
        value = float(values[0])
        low, high = (metric or Metric).limits(value, standard_error)
        return Interval(value, max(value - low, high - value))
    return Interval(
        float(np.mean(values)),
        float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n)),
    )
