"""What of a suite is done, running, failed, interrupted or waiting, and how long is left, from the results folder alone.

Nothing is written and no payload is read: a stage is done where its manifest is, running where a process holds its lock.
"""

from __future__ import annotations

import json
import math
import re
import textwrap
import time
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import safe_open
from tabulate import tabulate

from hdbench.core import files
from hdbench.stages import artifact
from hdbench.stages.loop import CHECKPOINT
from hdbench.suite.budget import cost_per_step
from hdbench.suite.plan import Plan
from hdbench.suite.stage import KINDS, RealStage, Stage

STATES = ("done", "running", "failed", "interrupted", "waiting")
WIDTH = 118
EXIT_CODES = {
    1: "diverged or another error",
    2: "a mistake in the suite or the options",
    130: "stopped by a signal",
    137: "out of memory or killed",
    143: "stopped by a signal",
    75: "lost another rank",
}
STOPPED = (130, 143)
NOTES = {
    "interrupted": "Interrupted: begun, not done, and no process works on it; the command that ran it goes on from that "
    "step.",
    "failed": "Failed: mend the cause, then the command that ran it goes on from that step.",
}


def work_of(plan: Plan, stage: Stage) -> float:
    """What the seconds of a stage are taken to be proportional to, within its kind: forward-equivalents, sampling steps, 1."""
    if training := stage.training:
        return training.steps * cost_per_step(plan, training)
    config = stage.config.model_dump()
    return config.get("samples", config.get("count", 1)) * config.get("steps", 1)


def look(plan: Plan, results: Path) -> pd.DataFrame:
    """One row a stage of the plan: `stage` (id), `kind`, `state`, `work`, `seconds` (of the finished), `step`, `steps` (0: no
    checkpoint), `spent` (seconds up to that step), `why` (of the failed and interrupted), `like`: those of one pace."""
    logs = sorted(
        {
            path
            for folder in (results.resolve().parent, Path.cwd())
            for path in (folder / ".snakemake/log").glob("*.log")
        },
        reverse=True,
    )
    rows = [
        {
            "stage": stage.id,
            "kind": stage.kind,
            "work": work_of(plan, stage),
            "steps": stage.training.steps if stage.training else 0,
            "like": "real images" if isinstance(stage.config, RealStage) else stage.kind,
            **state_of(results, stage, logs),
        }
        for stage in plan.stages.values()
    ]
    columns = {
        "stage": "str",
        "kind": "str",
        "like": "str",
        "state": "str",
        "work": "float64",
        "seconds": "float64",
        "step": "int64",
        "steps": "int64",
        "spent": "float64",
        "why": "str",
    }
    return pd.DataFrame(rows, columns=list(columns)).fillna({"step": 0}).astype(columns)


def state_of(results: Path, stage: Stage, logs: list[Path]) -> dict[str, Any]:
    """`state` and what is known beside it; whether it is done is asked last, since a stage may end in between."""
    work = artifact.Work(results, stage)
    claimed, begun, checkpoint = work.claimed(), work.path.is_dir(), header(work.path / CHECKPOINT)
    if artifact.exists(results, stage.id):
        return manifest_of(results, stage)
    if claimed:
        return {"state": "running", **checkpoint}
    return {**ending(work, logs), **checkpoint} if begun else {"state": "waiting"}


def manifest_of(results: Path, stage: Stage) -> dict[str, Any]:
    """The finished stage's seconds; `failed` where the manifest cannot be read."""
    path = artifact.folder(results, stage.id)
    try:
        return {
            "state": "done",
            "seconds": float(json.loads((path / files.MANIFEST).read_text())["wall_seconds"]),
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {
            "state": "failed",
            "why": f"its manifest cannot be read; delete the folder {path} and run again",
        }


def header(checkpoint: Path) -> dict[str, Any]:
    """`step` and `spent` seconds that a checkpoint says; nothing where there is none."""
    try:
        with safe_open(checkpoint, "np") as file:
            found = file.metadata()
        return {
            "step": int(found["step"]),
            "spent": float(json.loads(found["spent"]).get("wall_seconds", math.nan)),
        }
    except (
        Exception
    ):  # absent, just published, or not a checkpoint: safetensors has an error of its own for each
        return {}


def ending(work: artifact.Work, logs: list[Path]) -> dict[str, str]:
    """Why a stage ended early, as far as a log of Snakemake says that was written after the stage was last begun."""
    try:
        begun = work.path.with_suffix(".lock").stat().st_mtime
    except OSError:
        begun = math.inf
    said = re.compile(
        rf"--id {re.escape(work.stage.id)} .*(?:exit status (\d+)|died with <([^>]+)>)"
    )
    for log in logs:
        if log.stat().st_mtime >= begun and (
            found := said.findall(log.read_text(errors="replace"))
        ):
            code, signal = found[-1]
            meaning = EXIT_CODES.get(int(code or 0), "")
            return {
                "state": "interrupted" if signal or int(code) in STOPPED else "failed",
                "why": (signal or f"exit code {code}" + f" ({meaning})" * bool(meaning))
                + f", says {log.name}",
            }
    return {
        "state": "interrupted",
        "why": "no process works on it, and no log of Snakemake says why",
    }


def with_time_left(frame: pd.DataFrame, start_up: float = 0.0) -> pd.DataFrame:
    """The frame with `left`, seconds: the median over the kind of seconds per work, times the work that is left.

    Of the finished; where a kind has none, of those that run, up to their checkpoints; NaN where it has neither.  A running
    stage goes on at its own pace.  `start_up`: seconds of a process before it works, for those that have yet to begin.
    """
    share = (frame.step / frame.steps.where(frame.steps > 0)).fillna(0.0)
    of_done, of_begun = (
        frame.seconds / frame.work,
        frame.spent / (frame.work * share.where(share > 0)),
    )
    rates = [rate.groupby(frame.like).transform("median") for rate in (of_done, of_begun)]
    pace = rates[0].fillna(rates[1])
    left = (of_begun.where(frame.state == "running").fillna(pace)) * frame.work * (1 - share)
    left += start_up * (frame.state != "running")
    return frame.assign(left=left.where(frame.state != "done", 0.0))


def duration(seconds: float) -> str:
    """`45 s`, `35 min`, `2 h 05 min`; "-" where unknown."""
    if not math.isfinite(seconds):
        return "-"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def report(plan: Plan, frame: pd.DataFrame, cores: int | None = None) -> str:
    """For people, in at most 118 columns: a table by kind, the stages that run or ended early, and one line."""
    counts = (
        frame.groupby(["kind", "state"])
        .size()
        .unstack(fill_value=0)
        .reindex(columns=STATES, fill_value=0)
    )
    each, left = (
        frame.groupby("kind").seconds.median(),
        frame.groupby("kind").left.sum(skipna=False),
    )
    cells = [
        [
            kind,
            *counts.loc[kind],
            duration(each[kind]),
            "0 s"
            if left[kind] == 0
            else duration(left[kind])
            if math.isfinite(left[kind])
            else "unknown",
        ]
        for kind in KINDS
        if kind in counts.index
    ]
    text = [
        tabulate(
            cells,
            ["stages", *STATES, "time each", "left"],
            disable_numparse=True,
            colalign=("left", *["right"] * 7),
        )
    ]
    begun = [
        line(plan, row) for state in STATES[1:4] for row in frame[frame.state == state].itertuples()
    ]
    if begun:
        text += [
            "",
            tabulate(
                begun,
                ["state", "kind", "arms", "chain", "step", ""],
                disable_numparse=True,
                colalign=("left", "left", "left", "right", "right", "left"),
                maxcolwidths=[None, None, 32, None, None, 40],
            ),
        ]
    notes = [note for state, note in NOTES.items() if state in set(frame.state)]
    return "\n".join(
        [*text, "", *(textwrap.fill(line, WIDTH) for line in [*notes, summary(frame, cores)])]
    )


def line(plan: Plan, row: Any) -> list[str]:
    """One stage that runs or ended early."""
    seeds = {
        str(r.seed) for r in plan.rows if row.stage in r.stages.values() and r.seed is not None
    }
    arms = plan.arms_of(row.stage)
    arms = ", ".join(arms) if 0 < len(arms) < 4 else f"{len(arms) or 'all'} arms"
    trained = plan.stage(row.stage).training
    step = f"{row.step:,} of {row.steps:,}" if row.step else "no checkpoint" if trained else "-"
    note = (
        row.why
        if row.state != "running"
        else ""
        if math.isnan(row.left)
        else f"about {duration(row.left)} left"
    )
    return [row.state, row.kind, arms, ", ".join(sorted(seeds)) or "-", step, note]


def summary(frame: pd.DataFrame, cores: int | None) -> str:
    """`112 of 281 stages done, 2 running, 0 failed; about 35 min left on 2 stages at a time`."""
    n = frame.state.value_counts().reindex(STATES, fill_value=0)
    text = f"{n['done']} of {len(frame)} stages done, {n['running']} running, {n['failed']} failed"
    text += f", {n['interrupted']} interrupted" if n["interrupted"] else ""
    if n["done"] == len(frame):
        return text
    slots = cores or max(n["running"], 1)
    unknown = [kind for kind in KINDS if frame.left[frame.kind == kind].isna().any()]
    at_a_time = f"on {slots} stage{'s' if slots > 1 else ''} at a time"
    at_a_time += "" if cores or n["running"] else ", once they run: none does now"
    if unknown and not frame.left.sum():
        return f"{text}; time left unknown, until one stage of a kind has finished"
    text += f"; {'at least' if unknown else 'about'} {duration(frame.left.sum() / slots)} left {at_a_time}"
    return text + (
        f", and unknown for {frame.left.isna().sum()} of {', '.join(unknown)}" if unknown else ""
    )


def watch(plan: Plan, results: Path, cores: int | None, every: float | None, show) -> None:
    """`show` the report, and again every so many seconds until all is done."""
    start_up = time.process_time()
    while True:
        frame = with_time_left(look(plan, results), start_up)
        show(
            report(plan, frame, cores)
            + ("" if results.is_dir() else f"\n(There is no folder {results} yet.)")
        )
        if every is None or (frame.state == "done").all():
            return
        time.sleep(every)
