"""Values of the theory experiment for claims."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from hdbench.core.errors import UserError
from hdbench.experiments.theory.config import CONFIG, read_theory_config, students_of
from hdbench.metrics.records import read_metrics
from hdbench.report.rules import Unit, Values


def theory_values(frame: pd.DataFrame) -> Values:
    """Values by seed from metrics of `hdbench theory`: arms of several steps as `euler@8`."""
    by_seed = {
        key: group.set_index("seed").value for key, group in frame.groupby(["arm", "nfe", "metric"])
    }

    def values(name: str, metric: str, unit: Unit = "chain") -> pd.Series | None:
        if unit == "stage2_seed":
            return None
        arm, _, steps = name.partition("@")
        return by_seed.get((arm, int(steps or 1), metric))

    return values


def read_theory(path: Path, config: Path = CONFIG, missing_is_none: bool = False) -> Values | None:
    """The values in a metrics file of `hdbench theory`, without students of another configuration.

    UserError for a missing or another file; None for a missing one if `missing_is_none`.
    """
    if not path.exists():
        if missing_is_none:
            return None
        raise UserError(f"{path}: does not exist; make it with `hdbench theory`")
    frame = read_metrics(path)
    if set(frame.suite) != {"theory"}:
        raise UserError(
            f"{path}: has no metrics of the theory alone; make it with `hdbench theory`"
        )
    known = {(unit.arm, unit.seed, unit.digest) for unit in students_of(read_theory_config(config))}
    keys = zip(frame.arm, frame.seed, frame.digest, strict=True)
    return theory_values(
        frame[[arm == "euler" or (arm, seed, digest) in known for arm, seed, digest in keys]]
    )
