"""The scalars of every training step as TensorBoard's event files, while a suite runs or after it.

They are read from the results, so trainings know nothing of it: what a resumed run has trained
twice is there once, and another machine that shares the folder may write them.
"""

from __future__ import annotations

import time
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from hdbench.stages import artifact
from hdbench.suite.plan import Plan
from hdbench.suite.stage import Stage
from hdbench.tools.status.history import history_of

SUFFIX = ".hdbench"  # of event files that may be replaced


class Run:
    """The event file of one stage, in a folder of its own; older ones of hdbench are replaced."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.steps = 0
        self.writer: SummaryWriter | None = None

    def update(self, results: Path, stage: Stage) -> int:
        """Write the steps that are new, or all where the stage has begun anew; their number."""
        history = history_of(results, stage)
        if len(history) < self.steps:
            self.close()
        if history.empty or len(history) == self.steps:
            return 0
        if self.writer is None:
            for old in self.folder.glob(f"events.out.tfevents.*{SUFFIX}"):
                old.unlink()
            self.writer = SummaryWriter(str(self.folder), filename_suffix=SUFFIX)
        new = history.iloc[self.steps :]
        for step, values in zip(new.index, new.to_numpy(), strict=True):
            for name, value in zip(new.columns, values, strict=True):
                self.writer.add_scalar(name, value, int(step))
        self.writer.flush()
        self.steps = len(history)
        return len(new)

    def close(self) -> None:
        """The next update writes all steps into a new file."""
        if self.writer is not None:
            self.writer.close()
        self.writer = None
        self.steps = 0


def run_name(plan: Plan, stage: Stage) -> str:
    """`refine/hd_patch+1.dmd-patch-meanflow-s0-<digest>`: the stage's id, the arms it is for."""
    kind, _, label = stage.id.partition("/")
    arms = plan.arms_of(stage.id) or ["all"]
    others = f"+{len(arms) - 1}" if len(arms) > 1 else ""
    return f"{kind}/{arms[0]}{others}.{label}"


def write_events(plan: Plan, results: Path, out: Path, every: float | None = None) -> int:
    """Event files of all stages that have trained steps, below `out`; the number of steps written.

    With `every` they are brought up to date again and again until all these stages are done.
    """
    stages = [stage for stage in plan.stages.values() if stage.training]
    runs = {stage.id: Run(out / run_name(plan, stage)) for stage in stages}
    written = 0
    try:
        while True:
            done = all(artifact.exists(results, stage.id) for stage in stages)
            written += sum(runs[stage.id].update(results, stage) for stage in stages)
            if every is None or done:
                return written
            time.sleep(every)
    finally:
        for run in runs.values():
            run.close()
