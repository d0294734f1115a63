"""Results of an evaluation: as a table, for people, and on disk."""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tabulate import tabulate

from hdbench.core.errors import UserError, reason
from hdbench.core.outputs import check_outputs, write_outputs
from hdbench.metrics import Design, Estimate, Metric, error_of, metric_of
from hdbench.metrics.records import COLUMNS, with_count

SUITE = "evaluate"  # of rows that no suite made


class Result(NamedTuple):
    """An estimate and the samples that it is of."""

    estimate: Estimate
    ids: tuple[str, ...]


def results_of(estimates: Mapping[str, Estimate], ids: Sequence[str]) -> dict[str, Result]:
    """The estimates by metric, each with those of the samples' ids (N,) that it is of."""
    array = np.array(ids)
    rows = {name: slice(None) if e.rows is None else e.rows for name, e in estimates.items()}
    return {name: Result(e, tuple(array[rows[name]].tolist())) for name, e in estimates.items()}


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Every metric of one protocol on one set of samples; `protocol` is its column in tables."""

    name: str
    protocol: str
    reference: str
    digest: str
    results: dict[str, Result]
    facts: dict[str, Any] = field(default_factory=dict)

    def frame(self) -> pd.DataFrame:
        """One row a metric, with the columns of every table of numbers."""
        rows = [
            {
                "suite": SUITE,
                "arm": self.name,
                "metric": with_count(metric, len(ids)),
                "value": estimate.value,
                "se": error_of(metric, estimate),
                "n": len(ids),
                "protocol": self.protocol,
                "digest": self.digest,
            }
            for metric, (estimate, ids) in self.results.items()
        ]
        return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)

    def table(self) -> str:
        """For people: metric, value, 95% interval, n, protocol, reference."""
        rows = []
        for metric, (estimate, ids) in self.results.items():
            error = error_of(metric, estimate)
            degrees = estimate.design.degrees(len(ids))
            low, high = (metric_of(metric) or Metric).limits(estimate.value, error, degrees)
            interval = "-" if math.isnan(error) else f"[{low:.6g}, {high:.6g}]"
            rows.append(
                [
                    with_count(metric, len(ids)),
                    f"{estimate.value:.6g}",
                    interval,
                    len(ids),
                    self.protocol.rsplit(":", 1)[0],
                    self.reference[:16] or "-",
                ]
            )
        return tabulate(
            rows,
            ["metric", "value", "95% interval", "n", "protocol", "reference"],
            disable_numparse=True,
            colalign=("left", "right", "right", "right", "left", "left"),
        )

    def save(self, path: Path) -> None:
        """Rows to `path` (.csv, or .json with all facts), influences to the .npz beside it."""
        arrays = {
            f"{kind}.{metric}": np.array(values)
            for metric, (estimate, ids) in self.results.items()
            for kind, values in (
                ("influence", estimate.influence),
                ("ids", ids),
                ("value", estimate.value),
                *estimate.design._asdict().items(),
            )
            if values is not None
        }
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        rows = [
            {
                "metric": with_count(metric, len(ids)),
                "value": estimate.value,
                "se": _number(error_of(metric, estimate)),
                "se_with_random_reference": _number(estimate.joint_standard_error),
                "n": len(ids),
            }
            for metric, (estimate, ids) in self.results.items()
        ]
        document = {
            "name": self.name,
            "protocol": self.protocol,
            "reference": self.reference,
            "digest": self.digest,
            **self.facts,
            "metrics": rows,
        }
        text = (
            self.frame().to_csv(index=False, lineterminator="\n")
            if path.suffix == ".csv"
            else json.dumps(document, indent=1, allow_nan=False) + "\n"
        )
        write_outputs({path: text.encode(), path.with_suffix(".npz"): buffer.getvalue()})


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def check_out(path: Path) -> None:
    """UserError where `Evaluation.save` could not write, or would overwrite something else."""
    place = next(folder for folder in path.absolute().parents if folder.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise UserError(
            f"--out = {path}: {place} is not a folder that can be written to; choose another"
        )
    check_outputs((path, path.with_suffix(".npz")))


def read_results(path: Path) -> dict[str, Result]:
    """The results that `Evaluation.save` wrote beside a table, for paired differences."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            metrics = [name.removeprefix("value.") for name in arrays if name.startswith("value.")]
            return {
                metric: Result(
                    Estimate(
                        float(arrays[f"value.{metric}"]),
                        arrays[f"influence.{metric}"],
                        design=Design(*(arrays.get(f"{kind}.{metric}") for kind in Design._fields)),
                    ),
                    tuple(arrays[f"ids.{metric}"].tolist()),
                )
                for metric in metrics
            }
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not the influences of an evaluation ({reason(error)})") from None
