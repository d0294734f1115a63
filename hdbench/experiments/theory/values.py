"""Values of the theory experiment for claims."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from hdbench.core.errors import UserError
from hdbench.metrics.records import read_metrics
from hdbench.report.rules import Values


def theory_values(frame: pd.DataFrame) -> Values:
    """Those of `hdbench theory`, whose arms all sample in one step."""
    by_seed = {
        key: group.set_index("seed").value for key, group in frame.groupby(["arm", "nfe", "metric"])
    }

    def values(name: str, metric: str) -> pd.Series | None:
        arm, _, steps = name.partition("@")
        return by_seed.get((arm, int(steps or 1), metric))

    return values


def read_theory(
    path: Path, config: Path = Path("workflow/theory.yaml"), missing_is_none: bool = False
) -> Values | None:
    """The values in a metrics file of `hdbench theory`; UserError for another one, or none where a missing file may be.

    Values of students of another configuration are left out.
    """
    from hdbench.experiments.theory.config import read_theory_config, units

    if not path.exists():
        if missing_is_none:
            return None
        raise UserError(f"{path}: does not exist; make it with `hdbench theory`")
    frame = read_metrics(path)
    if set(frame.suite) != {"theory"}:
        raise UserError(
            f"{path}: has no metrics of the theory alone; make it with `hdbench theory`"
        )
    known = {(unit.arm, unit.seed, unit.digest) for unit in units(read_theory_config(config))}
    keys = zip(frame.arm, frame.seed, frame.digest)
    return theory_values(
        frame[[arm == "euler" or (arm, seed, digest) in known for arm, seed, digest in keys]]
    )
