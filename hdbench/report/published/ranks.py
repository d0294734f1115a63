"""Places by FID of published rows, which gaps that training seeds explain do not decide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hdbench.core.errors import UserError
from hdbench.report.published.benchmarks import Line

GAP = "FID, smallest conclusive gap in %"  # the benchmark of the row that has it


def smallest_gap(frame: pd.DataFrame, path: Path) -> tuple[float, str]:
    """The relative gap below which two FIDs are a tie, and who says so; of the file's own row."""
    rows = frame[frame.benchmark == GAP]
    if len(rows) != 1 or not rows.fid.iloc[0]:
        raise UserError(
            f"{path}: has {len(rows)} rows of the benchmark {GAP!r}; "
            "give one, the gap as its fid, or take the file that ships with hdbench"
        )
    return float(rows.fid.iloc[0]) / 100, f"{rows.method.iloc[0]}; {rows.source.iloc[0]}"


def ranks(values: Sequence[float], gap: float) -> list[tuple[int, int]]:
    """The first and last place that each value (smaller is better) can have, from 1.

    a is below b for certain where b > (1 + gap) a.  Ties of this kind are not transitive, so a
    value has a range of places: behind all that are certainly below it, before all above.
    """
    return [
        (
            1 + sum(value > (1 + gap) * other for other in values),
            len(values) - sum(other > (1 + gap) * value for other in values),
        )
        for value in values
    ]


def places(lines: Sequence[Line], gap: float) -> list[str]:
    """`3` or `3-5` of each line among published ones of as many evaluations; "" without a place.

    Lines without FID, on other terms, or trained on what FID measures have none, nor has a line
    that is alone.
    """
    shown = [""] * len(lines)
    by_steps: dict[str, list[int]] = {}
    for i, line in enumerate(lines):
        if line.comparable and line.cells.get("fid"):
            by_steps.setdefault(line.nfe, []).append(i)
    for nfe, members in by_steps.items():
        if not nfe or len(members) < 2:
            continue
        values = [float(str(lines[i].cells["fid"])) for i in members]
        for i, (first, last) in zip(members, ranks(values, gap), strict=True):
            shown[i] = f"{first}" if first == last else f"{first}-{last}"
    return shown
