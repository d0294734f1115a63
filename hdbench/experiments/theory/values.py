"""Values of the theory experiment for claims."""

from __future__ import annotations

from pathlib import Path

from hdbench.experiments.theory.config import CONFIG, read_theory_config, students_of
from hdbench.experiments.values import read_numbers, values_of
from hdbench.report.rules import Values


def read_theory(path: Path, config: Path = CONFIG, missing_is_none: bool = False) -> Values | None:
    """The values in a metrics file of `hdbench theory`, without students of another configuration.

    UserError for a missing or another file; None for a missing one if `missing_is_none`.
    """
    if missing_is_none and not path.exists():
        return None
    frame = read_numbers(path, "theory")
    known = {(unit.arm, unit.seed, unit.digest) for unit in students_of(read_theory_config(config))}
    keys = zip(frame.arm, frame.seed, frame.digest, strict=True)
    present = [arm == "euler" or (arm, seed, digest) in known for arm, seed, digest in keys]
    return values_of(frame[present], "chain", "exact")
