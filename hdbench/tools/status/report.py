"""The states and the time left as text."""

from __future__ import annotations

import math
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from hdbench.suite.plan import Plan
from hdbench.suite.stage import KINDS
from hdbench.tools.numbers import WIDTH
from hdbench.tools.status.expected import compare, table
from hdbench.tools.status.sparklines import losses
from hdbench.tools.status.states import STATES, look
from hdbench.tools.status.time_left import duration, with_time_left

NOTES = {
    "interrupted": "Interrupted: begun, not done, and no process works on it; the command that ran "
    "it goes on from that step.",
    "failed": "Failed: fix the cause, then the command that ran it goes on from that step.",
}


def report(
    plan: Plan, frame: pd.DataFrame, cores: int | None = None, curves: str = "", expected: str = ""
) -> str:
    """At most 118 columns: a table by kind, the stages that run or ended early, and one line.

    `curves`: of those stages' losses, to be shown below them; `expected`: what is measured beside
    what a sound run comes to.
    """
    paragraphs = [kinds_table(frame)]
    begun = [
        line(plan, row) for state in STATES[1:4] for row in frame[frame.state == state].itertuples()
    ]
    if begun:
        table = tabulate(
            begun,
            ["state", "kind", "arms", "chain", "step", ""],
            disable_numparse=True,
            colalign=("left", "left", "left", "right", "right", "left"),
            maxcolwidths=[None, None, 32, None, None, 40],
        )
        paragraphs.append(table)
    paragraphs += [text for text in (curves, expected) if text]
    notes = [note for state, note in NOTES.items() if state in set(frame.state)]
    lines = [textwrap.fill(text, WIDTH) for text in (*notes, summary(frame, cores))]
    return "\n\n".join([*paragraphs, "\n".join(lines)])


def kinds_table(frame: pd.DataFrame) -> str:
    """By kind the number of stages in each state, the time of one, and what is left."""
    counts = frame.groupby(["kind", "state"]).size().unstack(fill_value=0)
    counts = counts.reindex(columns=STATES, fill_value=0)
    median = frame.groupby("kind").seconds.median()
    left = frame.groupby("kind").left.sum(skipna=False)
    cells = []
    for kind in KINDS:
        if kind in counts.index:
            time_left = duration(left[kind]) if math.isfinite(left[kind]) else "unknown"
            cells.append([kind, *counts.loc[kind], duration(median[kind]), time_left])
    return tabulate(
        cells,
        ["stages", *STATES, "time each", "left"],
        disable_numparse=True,
        colalign=("left", *["right"] * 7),
    )


def line(plan: Plan, row: Any) -> list[str]:
    """One stage that runs or ended early."""
    rows = [r for r in plan.all_rows if row.stage in r.stages.values() and r.seed is not None]
    seeds = sorted({str(r.seed) for r in rows})
    names = plan.arms_of(row.stage)
    arms = ", ".join(names) if 0 < len(names) < 4 else f"{len(names) or 'all'} arms"
    step = "-"
    if row.step:
        step = f"{row.step:,} of {row.steps:,}"
    elif plan.stage(row.stage).training:
        step = "no checkpoint"
    note = row.why
    if row.state == "running":
        note = "" if math.isnan(row.left) else f"about {duration(row.left)} left"
    return [row.state, row.kind, arms, ", ".join(seeds) or "-", step, note]


def summary(frame: pd.DataFrame, cores: int | None) -> str:
    """`112 of 281 stages done, 2 running, 0 failed; about 35 min left on 2 stages at a time`."""
    n = frame.state.value_counts().reindex(STATES, fill_value=0)
    text = f"{n['done']} of {len(frame)} stages done, {n['running']} running, {n['failed']} failed"
    if n["interrupted"]:
        text += f", {n['interrupted']} interrupted"
    if n["done"] == len(frame):
        return text
    unknown = [kind for kind in KINDS if frame.left[frame.kind == kind].isna().any()]
    if unknown and not frame.left.sum():
        return f"{text}; time left unknown, until one stage of a kind has finished"
    slots = cores or max(n["running"], 1)
    left = duration(frame.left.sum() / slots)
    text += f"; {'at least' if unknown else 'about'} {left} left on {slots} stage"
    text += f"{'s' if slots > 1 else ''} at a time"
    if not (cores or n["running"]):
        text += ", once they run: none does now"
    if unknown:
        text += f", and unknown for {frame.left.isna().sum()} of {', '.join(unknown)}"
    return text


def watch(
    plan: Plan, results: Path, cores: int | None, every: float | None, show: Callable[[str], None]
) -> None:
    """`show` the report, and again every so many seconds until all is done."""
    start_up = time.process_time()
    while True:
        frame = with_time_left(look(plan, results), start_up)
        expected = table(compare(plan, results))
        text = report(plan, frame, cores, losses(plan, frame, results), expected)
        if not results.is_dir():
            text += f"\n(There is no folder {results} yet.)"
        show(text)
        if every is None or (frame.state == "done").all():
            return
        time.sleep(every)
