"""Values that claims take from the experiments beside the suites."""

from __future__ import annotations

from pathlib import Path

from hdbench.experiments.flops import read_flops
from hdbench.experiments.theory.values import read_theory
from hdbench.report.rules import Values


def experiments_of(
    folder: Path, theory: Path | None = None, flops: Path | None = None
) -> tuple[Values | None, Values | None]:
    """Of the theory and of the counts of FLOPs, by default from `folder`, None without a file.

    UserError for a file that is named and is not there.
    """
    return (
        read_theory(theory or folder / "theory" / "metrics.csv", missing_is_none=theory is None),
        read_flops(flops or folder / "flops" / "metrics.csv", missing_is_none=flops is None),
    )
