"""The scalars of every training step, of finished stages and up to a running one's checkpoint."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from safetensors import safe_open

from hdbench.stages import artifact
from hdbench.stages.loop import CHECKPOINT
from hdbench.suite.stage import Stage


def history_of(results: Path, stage: Stage, suffix: str = "") -> pd.DataFrame:
    """Columns `update/scalar` that end in `suffix`, by step from 1; empty where there is none yet.

    Only reads: a running stage has written its history up to its last checkpoint.
    """
    finished = artifact.folder(results, stage.id) / "history.csv"
    try:
        scalars = pd.read_csv(finished, index_col="step")
    except FileNotFoundError:
        scalars = _of_checkpoint(artifact.Work(results, stage).path / CHECKPOINT, suffix)
    return scalars[[name for name in scalars if name.endswith(suffix)]]


def _of_checkpoint(path: Path, suffix: str) -> pd.DataFrame:
    scalars = {}
    try:
        with safe_open(path, "np") as file:
            for name in sorted(file.keys()):
                if name.startswith("history/") and name.endswith(suffix):
                    scalars[name.split("/", 2)[2]] = file.get_tensor(name)
    except Exception:  # absent, just published or broken: safetensors has an error for each
        return pd.DataFrame()
    frame = pd.DataFrame(scalars)
    return frame.set_index(pd.RangeIndex(1, len(frame) + 1, name="step"))
