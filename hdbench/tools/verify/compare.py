"""What differs between a committed file and the same file as it is re-derived, cell by cell."""

from __future__ import annotations

import csv
import difflib
import io
import math
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

RELATIVE = 1e-9  # the last digits of a p-value or quantile are those of the version of SciPy


def differences(path: Path, committed: str, derived: str, without: bool = False) -> Iterator[str]:
    """A sentence for each cell of a table, or else line, in which the texts differ.

    `without`: what the derived text lacks is not counted, where a cell of a csv is empty.
    """
    if committed == derived:
        return
    if path.suffix == ".csv":
        yield from _of_csv(path, committed, derived, without)
    else:
        yield from _of_lines(path, committed.splitlines(), derived.splitlines())


def _of_csv(path: Path, committed: str, derived: str, without: bool) -> Iterator[str]:
    (head, *rows), (new_head, *new_rows) = (
        list(csv.reader(io.StringIO(text))) or [[]] for text in (committed, derived)
    )
    if head != new_head:
        yield f"{path}: the columns are {', '.join(head)}; re-derived, {', '.join(new_head)}"
        return
    for number, (row, new) in enumerate(zip_longest(rows, new_rows, fillvalue=[]), 2):
        if len(row) != len(new):
            state = "is not re-derived" if row else "is missing"
            yield f"{path}: line {number}, {(row or new)[0]}, {state}"
            continue
        for column, old, cell in zip(head, row, new, strict=True):
            if not _same(old, cell) and not (without and cell == ""):
                yield f"{path}: line {number}, {row[0]}, column {column}: {_against(old, cell)}"


def _same(old: str, new: str) -> bool:
    """Whether two cells are one text, or one number up to its last digits."""
    if old == new:
        return True
    try:
        return math.isclose(float(old), float(new), rel_tol=RELATIVE)
    except ValueError:
        return False


def _of_lines(path: Path, committed: list[str], derived: list[str]) -> Iterator[str]:
    """Lines that were changed, added or lost; of a table in Markdown the cells that were."""
    matcher = difflib.SequenceMatcher(a=committed, b=derived, autojunk=False)
    for kind, start, end, new_start, new_end in matcher.get_opcodes():
        if kind == "equal":
            continue
        pairs = zip_longest(committed[start:end], derived[new_start:new_end])
        for number, (old, new) in enumerate(pairs, start + 1):
            if old is None:
                yield f"{path}: before line {number} is missing: {new}"
            elif new is None:
                yield f"{path}: line {number} is not re-derived: {old}"
            else:
                yield from _of_line(path, number, old, new, _titles(committed, number - 1))


def _of_line(path: Path, number: int, old: str, new: str, titles: list[str]) -> Iterator[str]:
    cells, new_cells = (_cells(line) for line in (old, new))
    if not cells or len(cells) != len(new_cells) or len(titles) != len(cells):
        yield f"{path}: line {number}: {_against(old, new)}"
        return
    for title, cell, new_cell in zip(titles, cells, new_cells, strict=True):
        if cell != new_cell:
            yield f"{path}: line {number}, {cells[0]}, column {title}: {_against(cell, new_cell)}"


def _titles(lines: list[str], index: int) -> list[str]:
    """The titles of the table in Markdown that a line is in: two above its first row."""
    while index and lines[index - 1].startswith("|"):
        index -= 1
    return _cells(lines[index])


def _cells(line: str) -> list[str]:
    r"""Of a line of a table in Markdown, in which `\|` is a character; none of another line."""
    if not line.startswith("|"):
        return []
    return [cell.strip() for cell in line.strip().strip("|").replace(r"\|", "\0").split("|")]


def _against(old: str, new: str) -> str:
    return f"committed is {old!r}, re-derived {new!r}"
