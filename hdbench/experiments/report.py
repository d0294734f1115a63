"""Numbers of an experiment with 95% intervals over seeds, as csv, Markdown and pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from hdbench.core.outputs import write_outputs
from hdbench.metrics.records import COLUMNS, MISSING, Interval, check, interval
from hdbench.report.document import for_people
from hdbench.report.figures import style


def metrics_frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows of numbers as a checked frame with the columns of hdbench.metrics.records."""
    return check(pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS))


class Intervals:
    """Values of a metrics frame over seeds, by arm and metric.

    A single value has the interval of its standard error, and a setting (one value on all seeds)
    none.  `nfe` is that of arms for which none is given.
    """

    def __init__(self, frame: pd.DataFrame, nfe: int):
        self.nfe = nfe
        self.groups = dict(list(frame.set_index("seed").groupby(["arm", "nfe", "metric"])))

    def __call__(self, arm: str, metric: str, nfe: int | None = None) -> Interval:
        group = self.groups.get((arm, self.nfe if nfe is None else nfe, metric))
        if group is None:
            return MISSING
        if len(group) > 1 and group.value.nunique(dropna=False) == 1:
            return Interval(group.value.iloc[0], math.nan)  # the mean of equal values rounds
        return interval(group.value, group.se.iloc[0])

    def difference(self, arm: str, minus: str, metric: str) -> Interval:
        """The first arm minus the second, paired within seeds."""
        first = self.groups.get((arm, self.nfe, metric))
        second = self.groups.get((minus, self.nfe, metric))
        if first is None or second is None:
            return MISSING
        return interval(first.value - second.value)


def with_half_widths(values: Mapping[str, Interval]) -> dict[str, float]:
    """Cells of a table's row: every value, and its half-width in a column of its own."""
    cells = {}
    for name, value in values.items():
        cells[name] = value.value
        cells[f"{name}_half_width"] = value.half_width
    return cells


def markdown_table(
    table: pd.DataFrame,
    labels: Mapping[str, Iterable[str]],
    titles: Mapping[str, str],
    signed: bool = False,
) -> str:
    """Columns of labels by title, then the columns of `titles` as `9.63 ± 0.42`."""
    numbers = {
        title: [
            for_people(Interval(*pair), signed=signed)
            for pair in zip(table[key], table[f"{key}_half_width"], strict=True)
        ]
        for key, title in titles.items()
    }
    return pd.DataFrame({**labels, **numbers}).to_markdown(index=False, disable_numparse=True)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What an experiment shows: metrics, tables by file name, text with its tables, figures."""

    experiment: str
    metrics: pd.DataFrame
    tables: Mapping[str, pd.DataFrame]
    text: str
    figures: Mapping[str, Callable[[], Figure]] = field(default_factory=dict)

    def write(self, results: Path, out: Path, pdf: bool = False) -> list[Path]:
        """Write metrics.csv into results/<experiment>, and all into out/<experiment>; the paths.

        Figures are png, and `pdf` if asked for.
        """
        folder = out / self.experiment
        contents = {results / self.experiment / "metrics.csv": csv(self.metrics)}
        contents[folder / "metrics.csv"] = csv(self.metrics)
        for name, table in self.tables.items():
            contents[folder / f"{name}.csv"] = csv(table)
        contents[folder / f"{self.experiment}.md"] = self.text.encode()
        with style.plt.rc_context(style.STYLE):
            for name, draw in self.figures.items():
                contents |= style.pictures_of(draw(), folder / name, pdf)
        return write_outputs(contents)


def csv(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=False, lineterminator="\n").encode()
