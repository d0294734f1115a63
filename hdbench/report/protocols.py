"""One sample set under all protocols: how much the protocol alone moves a number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hdbench.evaluation.extractors import EXTRACTORS
from hdbench.evaluation.protocols import Protocol
from hdbench.evaluation.results import Evaluation, Result
from hdbench.metrics import Estimate, metric_of
from hdbench.metrics.records import Interval
from hdbench.report import document
from hdbench.report.document import Cell, Document, for_people, wrapped

COLUMNS = {
    "Metric": wrapped(0.11),
    "Protocol": wrapped(0.13),
    "Value": wrapped(0.11),
    "Of the first": wrapped(0.11),
    "Extractor": wrapped(0.14),
    "Preprocessing": wrapped(0.2),
    "Reference": wrapped(0.08),
    "N": "r",
}
NOTE = (
    "Values have 95% sampling intervals. Of the first: the value over that of the first protocol "
    "with this metric, by paired influences of the same samples; what differs from 1 is the "
    "protocol's."
)


def protocols_document(measured: Sequence[tuple[Protocol, Evaluation]]) -> Document:
    """A row for each metric of each protocol, equal metrics together; the samples are the same."""
    first: dict[str, Result] = {}
    rows: dict[str, list[tuple[list[str | Cell], dict]]] = {}
    for protocol, evaluation in measured:
        for metric, result in evaluation.results.items():
            first.setdefault(metric, result)
            row = row_of(protocol, evaluation, metric, first[metric])
            rows.setdefault(metric, []).append(row)
    ordered = [row for of_metric in rows.values() for row in of_metric]
    name = measured[0][1].name
    return Document(
        label="protocols",
        caption=f"One sample set, all protocols: {name}.",
        columns=list(COLUMNS),
        align=list(COLUMNS.values()),
        layout="text",
        rows=[cells for cells, _ in ordered],
        notes=[NOTE, *(f"{protocol.name}: {protocol.about}." for protocol, _ in measured)],
        records=pd.DataFrame([record for _, record in ordered]),
    )


def write_protocols(measured: Sequence[tuple[Protocol, Evaluation]], path: Path) -> list[Path]:
    """The document as path.csv, .md, .tex and .html; the paths."""
    return document.write(protocols_document(measured), path)


def files_of(path: Path) -> list[Path]:
    """What `write_protocols` writes."""
    return [file for _, file in document.files_of(path)]


def row_of(
    protocol: Protocol, evaluation: Evaluation, metric: str, first: Result
) -> tuple[list[str | Cell], dict]:
    """Cells for people and a record for machines of one metric under one protocol."""
    result = evaluation.results[metric]
    value, error = result.estimate.value, result.estimate.standard_error
    kind = metric_of(metric)
    names = dict.fromkeys(name for name, _ in protocol.sources(kind)) if kind else {}
    titles = list(dict.fromkeys(EXTRACTORS[name].title for name in names))
    preprocessings = list(dict.fromkeys(EXTRACTORS[name].preprocessing for name in names))
    reference = evaluation.reference if kind and kind.needs else ""
    of_first = Interval(math.nan, math.nan) if result is first else ratio(result, first)
    n = len(result.ids)
    cells = [
        metric,
        evaluation.protocol.rsplit(":", 1)[0],
        Cell(for_people(Interval(value, 1.96 * error)), math=True),
        Cell("1" if result is first else for_people(of_first), math=True),
        "; ".join(titles) or "-",
        "; ".join(preprocessings) or "-",
        reference[:12] or "-",
        f"{n:,}",
    ]
    record = {
        "metric": metric,
        "protocol": evaluation.protocol,
        "value": value,
        "half_width": 1.96 * error,
        "of_first": 1.0 if result is first else of_first.value,
        "of_first_half_width": of_first.half_width,
        "extractors": "; ".join(names),
        "preprocessing": "; ".join(preprocessings),
        "reference": reference,
        "n": n,
    }
    return cells, record


def ratio(result: Result, first: Result) -> Interval:
    """Value over the first's with its 95% interval; NaN where one is not above zero."""
    a, b = result.estimate, first.estimate
    if not min(a.value, b.value) > 0:
        return Interval(math.nan, math.nan)
    quotient = a.value / b.value
    if result.ids != first.ids:
        return Interval(quotient, math.nan)
    influence = quotient * (a.influence / a.value - b.influence / b.value)
    return Interval(quotient, 1.96 * Estimate(quotient, influence, design=a.design).standard_error)
