"""What of a suite is done, running, failed, interrupted or waiting, from the results folder alone.

Nothing is written and no payload is read: a stage is done where its manifest is, running where a
process holds its lock.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import safe_open

from hdbench.core import files
from hdbench.stages import artifact
from hdbench.stages.loop import CHECKPOINT
from hdbench.suite.budget import cost_per_step
from hdbench.suite.plan import Plan
from hdbench.suite.stage import RealStage, Stage

STATES = ("done", "running", "failed", "interrupted", "waiting")
EXIT_CODES = {
    1: "diverged or another error",
    2: "a mistake in the suite or the options",
    130: "stopped by a signal",
    137: "out of memory or killed",
    143: "stopped by a signal",
    75: "lost another rank",
}
STOPPED = (130, 143)
COLUMNS = {
    "stage": "str",  # id
    "kind": "str",
    "like": "str",  # stages of one pace
    "state": "str",
    "work": "float64",  # what seconds are proportional to, among stages that are alike
    "seconds": "float64",  # of the finished
    "step": "int64",  # of the checkpoint; 0: none
    "steps": "int64",  # 0: the stage does not count steps
    "spent": "float64",  # seconds up to the checkpoint
    "why": "str",  # of the failed and interrupted
}


def look(plan: Plan, results: Path) -> pd.DataFrame:
    """One row a stage of the plan, with `COLUMNS`."""
    folders = (results.resolve().parent, Path.cwd())
    logs = {path for folder in folders for path in (folder / ".snakemake/log").glob("*.log")}
    newest_first = sorted(logs, reverse=True)
    rows = [
        {
            "stage": stage.id,
            "kind": stage.kind,
            "like": "real images" if isinstance(stage.config, RealStage) else stage.kind,
            "work": work_of(plan, stage),
            "steps": steps_of(stage),
            **state_of(results, stage, newest_first),
        }
        for stage in plan.stages.values()
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).fillna({"step": 0}).astype(COLUMNS)


def work_of(plan: Plan, stage: Stage) -> float:
    """What a stage's seconds are proportional to: forward-equivalents, or sampling steps."""
    if training := stage.training:
        return len(training.span) * cost_per_step(plan, training)
    config = stage.config.model_dump()
    return config.get("samples", config.get("count", 1)) * config.get("steps", 1)


def steps_of(stage: Stage) -> int:
    """Steps that a checkpoint may count, 0 where there are none."""
    return stage.training.span.stop if stage.training else 0


def state_of(results: Path, stage: Stage, logs: list[Path]) -> dict[str, Any]:
    """`state` and what is known beside it; done is asked last, since a stage may end in between."""
    work = artifact.Work(results, stage)
    claimed = work.claimed()
    begun = work.path.is_dir()
    checkpoint = header(work.path / CHECKPOINT)
    if artifact.exists(results, stage.id):
        return manifest_of(results, stage)
    if claimed:
        return {"state": "running", **checkpoint}
    return {**ending(work, logs), **checkpoint} if begun else {"state": "waiting"}


def manifest_of(results: Path, stage: Stage) -> dict[str, Any]:
    """The finished stage's seconds; `failed` where the manifest cannot be read."""
    path = artifact.folder(results, stage.id)
    try:
        manifest = artifact.read_manifest(path / files.MANIFEST)
        return {"state": "done", "seconds": manifest["wall_seconds"]}
    except (OSError, ValueError):
        why = f"its manifest cannot be read; delete the folder {path} and run again"
        return {"state": "failed", "why": why}


def header(checkpoint: Path) -> dict[str, Any]:
    """`step` and `spent` seconds of a checkpoint; nothing where there is none."""
    try:
        with safe_open(checkpoint, "np") as file:
            metadata = file.metadata()
        spent = json.loads(metadata["spent"]).get("wall_seconds", math.nan)
        return {"step": int(metadata["step"]), "spent": float(spent)}
    except Exception:  # absent, just published or broken: safetensors has an error for each
        return {}


def ending(work: artifact.Work, logs: list[Path]) -> dict[str, str]:
    """Why a stage ended early, as far as a log of Snakemake says that is younger than its begin."""
    try:
        begun = work.path.with_suffix(".lock").stat().st_mtime
    except OSError:
        begun = math.inf
    message = re.compile(
        rf"--id {re.escape(work.stage.id)} .*(?:exit status (\d+)|died with <([^>]+)>)"
    )
    for log in logs:
        if log.stat().st_mtime < begun:
            continue
        messages = message.findall(log.read_text(errors="replace"))
        if messages:
            code, signal = messages[-1]
            meaning = EXIT_CODES.get(int(code or 0), "")
            why = signal or f"exit code {code}" + (f" ({meaning})" if meaning else "")
            stopped = signal or int(code) in STOPPED
            state = "interrupted" if stopped else "failed"
            return {"state": state, "why": f"{why}, says {log.name}"}
    why = "no process works on it, and no log of Snakemake says why"
    return {"state": "interrupted", "why": why}
