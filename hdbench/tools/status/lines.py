"""A run's progress as one line for each finished stage, from the artifacts alone."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from hdbench.core.files import MANIFEST
from hdbench.stages import artifact
from hdbench.suite.plan import Plan
from hdbench.tools.status.time_left import duration


def follow(
    plan: Plan,
    results: Path,
    process: subprocess.Popen,
    show: Callable[[str], None],
    every: float = 1.0,
) -> int:
    """Show each stage of the plan that is finished while a process runs; its return code.

    `every`: seconds between two looks.
    """
    done = {stage for stage in plan.stages if artifact.exists(results, stage)}
    total = len(plan.stages)
    show(f"{plan.stem}: {len(done)} of {total} stages are done")
    while True:
        ended = process.poll() is not None  # before the look, so that the last stages are seen
        for stage in plan.stages:
            if stage not in done and artifact.exists(results, stage):
                done.add(stage)
                show(f"[{len(done):{len(str(total))}}/{total}] {line_of(plan, results, stage)}")
        if ended:
            return process.returncode
        time.sleep(every)


def line_of(plan: Plan, results: Path, stage: str) -> str:
    """Its id without the digest, the arms that need it, and how long it took."""
    arms = plan.arms_of(stage)
    users = ", ".join(arms) if 0 < len(arms) < 4 else f"{len(arms) or 'all'} arms"
    manifest = artifact.read_manifest(artifact.folder(results, stage) / MANIFEST)
    return f"{stage.rpartition('-')[0]:44}  {duration(manifest['wall_seconds']):>10}  {users}"
