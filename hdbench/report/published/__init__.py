"""The main table of a benchmark as csv, Markdown and LaTeX: published numbers, below them ours.

Published values are shown as the file has them, digit by digit; ours come from files of metrics.
Missing is "-", never 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hdbench.core.config import nearest
from hdbench.core.errors import UserError
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
from hdbench.report.published.ranks import places, smallest_gap
from hdbench.report.published.theirs import published, read_published

__all__ = ["BENCHMARKS", "GROUP_OF", "read_published", "render", "write_published"]

FOOTNOTES = {
    "†": "Remembered, not checked.",
    "‡": "Not on equal terms, or in doubt.",
    "§": "Second-hand: from a note on the paper or a transcription.",
    "¶": "Not a number in at least one chain.",
    "◇": "Its training optimises what these columns measure, so they say less of its images",
}
IN_CSV = {
    "†": "remembered",
    "‡": "other terms",
    "§": "second-hand",
    "¶": "not a number",
    "◇": "trained on",
}


def render(
    name: str, frame: pd.DataFrame, path: Path, files: Sequence[Path] = (), remembered: bool = True
) -> Document:
    """The table of BENCHMARKS[name] from `read_published`'s frame of `path`, and metrics' files."""
    benchmark = BENCHMARKS[name]
    theirs = published(benchmark, frame)
    ours, left_out = measured(benchmark, files)
    kept = [line for line in theirs if remembered or "†" not in line.marks]
    if benchmark.protocols and not ours:
        nothing = dict.fromkeys(benchmark.columns, "")
        kept.append(Line(group=OURS, method="HD, this suite", cells=nothing))
    lines = sorted(
        [*kept, *ours], key=lambda line: (ORDER.index(line.group), benchmark.quality(line))
    )
    sources = list(dict.fromkeys(line.source for line in lines if line.source))
    gap, lottery = smallest_gap(frame, path)
    ranked = places(lines, gap) if "fid" in benchmark.columns else []
    rows: list = []
    for i, line in enumerate(lines):
        rows += [line.group] if not i or lines[i - 1].group != line.group else []
        rows.append(_cells(line, ranked[i : i + 1], sources))
    first, *others = [title for title, _ in benchmark.columns.values()]
    place = ["Place"] if ranked else []
    columns = ["Method", "Params, M", "NFE", "Guidance", first, *place, *others, "Source"]
    notes = _notes(name, lines, len(theirs) - sum(line.group != OURS for line in kept), bool(ours))
    if ranked:
        notes.append(
            "Place: by FID, among published rows of as many NFE that are on equal terms and not "
            f"trained on it; a range where rows are closer than {100 * gap:g}%, which training "
            f"seeds alone explain ({lottery}), so that they are tied. Evaluators of different "
            "sources differ by more."
        )
    return Document(
        label=f"published-{name}",
        caption=_caption(benchmark),
        columns=columns,
        rows=rows,
        align=["p{64mm}", *["r"] * (len(columns) - 1)],
        notes=[*notes, *left_out],
        records=_records(lines, ranked),
        sources=sources,
        layout="pages",
    )


def _caption(benchmark: Benchmark) -> str:
    first = next(iter(benchmark.columns.values()))[0]
    ours = ", and below them ours" if benchmark.protocols else ""
    under = f"; ours are under {' or '.join(benchmark.protocols)}" if benchmark.protocols else ""
    counts = {benchmark.samples(protocol) for protocol in benchmark.protocols} - {None}
    under += f" (N = {' or '.join(f'{count:,}' for count in counts)})" if counts else ""
    return (
        f"{benchmark.name}: published numbers, sorted by {first[:-2]}{ours}. Published numbers are "
        f"as their sources print them, by evaluators of their own{under}."
    )


def _cells(line: Line, place: Sequence[str], sources: Sequence[str]) -> list[Cell]:
    """A line for people; marks are with the method."""
    first, *others = map(for_people, line.cells.values())
    source = f"[{sources.index(line.source) + 1}]" if line.source else ""
    texts = [line.params, line.nfe, line.guidance, first, *place, *others, source]
    emphasis = "bold" if line.group == HD else ""
    method = line.method.replace("->", "→") + line.marks
    return [Cell(text, emphasis) for text in (method, *(text or "-" for text in texts))]


def _notes(name: str, lines: Sequence[Line], left_out: int, with_ours: bool) -> list[str]:
    """Footnotes; `left_out` counts the remembered numbers that are not shown."""
    benchmark = BENCHMARKS[name]
    terms = ". ".join(line.terms for line in lines if line.terms)
    trained = dict.fromkeys(line.trained_on for line in lines if line.trained_on)
    said = {"‡": f" {terms}.", "◇": f": {'; '.join(trained)}." + benchmark.held_out}
    used = "".join(line.marks for line in lines)
    notes = [
        f"{mark} {text}" + said.get(mark, "") for mark, text in FOOTNOTES.items() if mark in used
    ]
    if left_out:
        notes.append(f"Left out: {left_out} remembered and not checked.")
    if all(line.group != HD for line in lines):
        notes.append(f"HD has no published number on {benchmark.name} here.")
    if with_ours:
        notes.append(
            f"{OURS}: with its 95% interval, of sampling for one chain, a t-interval over several."
        )
    elif benchmark.protocols:
        notes.append(
            f"{OURS}: nothing was measured at this scale; `{benchmark.command}` does, "
            f"and `hdbench published --benchmark {name} --metrics hd.csv` puts it here."
        )
    else:
        notes.append(f"{OURS}: none of its protocols measures this benchmark.")
    return [
        *notes,
        'NFE: as the source counts; x2: two evaluations a step, for guidance. "-": not given, or '
        "not measured.",
    ]


def _records(lines: Sequence[Line], ranked: Sequence[str]) -> pd.DataFrame:
    """Published values as their source has them, ours in full precision; missing is empty."""
    records = []
    for i, line in enumerate(lines):
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
        note = "; ".join(IN_CSV[mark] for mark in line.marks)
        record |= {"place": ranked[i]} if ranked else {}
        record |= {"note": note, "source": line.source}
        records.append(record | line.facts)
    return pd.DataFrame(records)


def write_published(
    names: Sequence[str], numbers: Path, files: Sequence[Path], remembered: bool, out: Path
) -> list[Path]:
    """Every named benchmark's table into out/<name>.{csv,md,tex}, of all without names; the paths.

    A protocol for any images does not say of which data set its numbers are: they are shown in a
    table that is named alone.
    """
    for name in names:
        if name not in BENCHMARKS:
            raise UserError(f"--benchmark {name}: unknown" + nearest(name, BENCHMARKS))
    frame = read_published(numbers)
    tables = {
        name: render(
            name,
            frame,
            numbers,
            files if len(names) == 1 or not BENCHMARKS[name].for_any_images else (),
            remembered,
        )
        for name in names or BENCHMARKS
    }
    return [
        path
        for name, table in tables.items()
        for path in document.write(table, out / name, ("csv", "md", "tex"))
    ]
