"""Published numbers, shown as their file has them, digit by digit."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pandas as pd

from hdbench.core.errors import UserError
from hdbench.core.files import read_bytes
from hdbench.report.published.benchmarks import GROUP_OF, OTHER, Benchmark, Line

SUBJECT = ["benchmark", "method", "family", "params_M", "nfe", "guidance"]
VALUES = [
    *("fid", "is", "precision", "recall"),
    *("fdr6", "fdr3", "fd_dinov2", "sw_r14", "mmd_r14"),
    *("clip", "geneval", "dpg", "pickscore", "vqascore"),
]
FACTS = ["trained_on", "other", "latency", "source", "locator", "confidence"]
COLUMNS = [*SUBJECT, *VALUES, *FACTS]
CONFIDENCE = {"seen": "", "second-hand": "§", "remembered": "†"}  # how, and its mark
# words of a method or remark
OWN_TERMS = re.compile("protocol|evaluator|re-evaluated|not comparable|disagree|differs")


def read_published(path: Path) -> pd.DataFrame:
    """The published numbers as text; UserError for a missing column, a bad value, a doubled row."""
    try:
        content = io.BytesIO(read_bytes(path))
        frame = pd.read_csv(content, dtype=str, keep_default_na=False, index_col=False)
    except FileNotFoundError:
        raise UserError(
            f"{path}: does not exist; it ships with hdbench as paper_tables/published.csv"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: not a table of published numbers ({str(error).splitlines()[0]})"
        ) from None
    if lacking := [column for column in COLUMNS if column not in frame]:
        raise UserError(
            f"{path}: has no column {', '.join(lacking)}; it needs {', '.join(COLUMNS)}"
        )

    def where(rows: pd.Series) -> str:
        numbers = rows[rows].index
        return f"{path}: row {numbers[0] + 2} ({frame.method[numbers[0]]})"

    values = frame[VALUES]
    wrong = (values != "") & ~np.isfinite(values.apply(pd.to_numeric, errors="coerce"))
    if wrong.any(axis=None):
        column = wrong.any().idxmax()
        raise UserError(
            f"{where(wrong[column])}: {column} = {frame[column][wrong[column].idxmax()]!r} is not "
            "a number; leave it empty where there is none"
        )
    if (wrong := ~frame.confidence.isin(list(CONFIDENCE)) | frame.isna().any(axis=1)).any():
        raise UserError(
            f"{where(wrong)}: confidence is not one of {', '.join(CONFIDENCE)}; are its columns "
            "shifted?"
        )
    if (wrong := frame.source == "").any():
        raise UserError(f"{where(wrong)}: has no source; say where its numbers are from")
    if (wrong := ~frame.trained_on.map(lambda names: set(names.split()) <= set(VALUES))).any():
        raise UserError(
            f"{where(wrong)}: trained_on = {frame.trained_on[wrong.idxmax()]!r} is not a list of "
            f"columns; name those that its training is of: {', '.join(VALUES)}"
        )
    if (twice := frame.duplicated(["benchmark", "method", "nfe", "guidance", "source"])).any():
        raise UserError(
            f"{where(twice)}: appears twice, with the same steps, guidance and source; leave one"
        )
    return frame


def published(benchmark: Benchmark, frame: pd.DataFrame) -> list[Line]:
    """The rows of a benchmark, as lines of its table."""
    lines = []
    for row in frame[frame.benchmark == benchmark.name].to_dict("records"):
        text = ": ".join(filter(None, [row["method"], row["other"]]))
        terms = text if OWN_TERMS.search(text) else ""
        trained_on = [
            title[:-2]
            for column, (title, _) in benchmark.columns.items()
            if column in row["trained_on"].split()
        ]
        lines.append(
            Line(
                group=GROUP_OF.get(row["family"], OTHER),
                method=row["method"],
                params=row["params_M"],
                nfe=row["nfe"],
                guidance=row["guidance"],
                cells={column: row[column] for column in benchmark.columns},
                source=row["source"],
                marks=CONFIDENCE[row["confidence"]] + "‡" * bool(terms) + "◇" * bool(trained_on),
                terms=terms,
                trained_on=" and ".join(trained_on),
                facts={key: row[key] for key in ("family", "other", "locator", "confidence")},
            )
        )
    return lines
