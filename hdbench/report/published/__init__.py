"""The main table of a benchmark as csv, Markdown and LaTeX: published numbers, below them ours.

Published values are shown as the file has them, digit by digit; ours come from files of metrics.
Missing is "-", never 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hdbench.evaluation.protocols import PROTOCOLS
from hdbench.metrics.records import Interval
from hdbench.report import document
from hdbench.report.document import Cell, Document, for_people
from hdbench.report.published.benchmarks import (
    BENCHMARKS,
    GROUP_OF,
    HD,
    ORDER,
    OURS,
    Benchmark,
    Line,
)
from hdbench.report.published.ours import measured
from hdbench.report.published.theirs import published, read_published

__all__ = ["BENCHMARKS", "GROUP_OF", "read_published", "render", "write_published"]

FOOTNOTES = {
    "†": "Remembered, not checked.",
    "‡": "Not on equal terms, or in doubt.",
    "§": "Second-hand: from a note on the paper or a transcription.",
    "¶": "Not a number in at least one chain.",
}
IN_CSV = {"†": "remembered", "‡": "other terms", "§": "second-hand", "¶": "not a number"}


def render(
    name: str, frame: pd.DataFrame, files: Sequence[Path] = (), remembered: bool = True
) -> Document:
    """The table of BENCHMARKS[name] from `read_published`'s frame and files of metrics."""
    benchmark = BENCHMARKS[name]
    theirs = published(benchmark, frame)
    ours, left_out = measured(benchmark, files)
    kept = [line for line in theirs if remembered or "†" not in line.marks]
    empty = Line(group=OURS, method="HD, this suite", cells=dict.fromkeys(benchmark.columns, ""))
    lines = sorted(
        [*kept, *(ours or [empty])], key=lambda line: (ORDER.index(line.group), line.quality)
    )
    sources = list(dict.fromkeys(line.source for line in lines if line.source))
    rows: list = []
    for line, before in zip(lines, [None, *lines], strict=False):
        rows += [line.group] if before is None or before.group != line.group else []
        rows.append(_cells(line, sources))
    columns = [title for title, _ in benchmark.columns.values()]
    return Document(
        label=f"published-{name}",
        caption=_caption(benchmark),
        columns=["Method", "Params, M", "NFE", "Guidance", *columns, "Source"],
        rows=rows,
        align=["p{64mm}", *["r"] * (len(columns) + 4)],
        notes=[*_notes(name, lines, len(theirs) - len(kept), bool(ours)), *left_out],
        records=_records(lines),
        sources=sources,
        layout="pages",
    )


def _caption(benchmark: Benchmark) -> str:
    protocol = PROTOCOLS[benchmark.protocol]
    return (
        f"{benchmark.name}: published numbers, sorted by FID, and below them ours. Published "
        "numbers are as their sources print them, by evaluators of their own; ours are under "
        f"{protocol.name} (N = {protocol.n:,})."
    )


def _cells(line: Line, sources: Sequence[str]) -> list[Cell]:
    """A line for people; marks are with the method."""
    texts = [
        line.params,
        line.nfe,
        line.guidance,
        *map(for_people, line.cells.values()),
        f"[{sources.index(line.source) + 1}]" if line.source else "",
    ]
    emphasis = "bold" if line.group == HD else ""
    method = line.method.replace("->", "→") + line.marks
    return [Cell(text, emphasis) for text in (method, *(text or "-" for text in texts))]


def _notes(name: str, lines: Sequence[Line], left_out: int, with_ours: bool) -> list[str]:
    """Footnotes; `left_out` counts the remembered numbers that are not shown."""
    benchmark = BENCHMARKS[name]
    terms = ". ".join(line.terms for line in lines if line.terms)
    used = "".join(line.marks for line in lines)
    notes = [
        f"{mark} {text}" + (f" {terms}." if mark == "‡" else "")
        for mark, text in FOOTNOTES.items()
        if mark in used
    ]
    if left_out:
        notes.append(f"Left out: {left_out} remembered and not checked.")
    if all(line.group != HD for line in lines):
        notes.append(f"HD has no published number on {benchmark.name} here.")
    if with_ours:
        notes.append(
            f"{OURS}: with its 95% interval, of sampling for one chain, a t-interval over several."
        )
    else:
        notes.append(
            f"{OURS}: nothing was measured at this scale; `{benchmark.command}` does, "
            f"and `hdbench published --benchmark {name} --metrics hd.csv` puts it here."
        )
    return [
        *notes,
        'NFE: as the source counts; x2: two evaluations a step, for guidance. "-": not given, or '
        "not measured.",
    ]


def _records(lines: Sequence[Line]) -> pd.DataFrame:
    """Published values as their source has them, ours in full precision; missing is empty."""
    records = []
    for line in lines:
        record = {
            "group": line.group,
            "method": line.method,
            "params_M": line.params,
            "nfe": line.nfe,
            "guidance": line.guidance,
        }
        for column, cell in line.cells.items():
            value, half = cell if isinstance(cell, Interval) else (cell, "")
            record |= {column: value, f"{column}_half_width": half}
        record |= {"note": "; ".join(IN_CSV[mark] for mark in line.marks), "source": line.source}
        records.append(record | line.facts)
    return pd.DataFrame(records)


def write_published(
    names: Sequence[str], numbers: Path, files: Sequence[Path], remembered: bool, out: Path
) -> list[Path]:
    """Every named benchmark's table into out/<name>.{csv,md,tex}; the paths."""
    frame = read_published(numbers)
    tables = {name: render(name, frame, files, remembered) for name in names}
    return [
        path
        for name, table in tables.items()
        for path in document.write(table, out / name, ("csv", "md", "tex"))
    ]
