"""Measure two models' images under one protocol, and say which numbers differ beyond noise.

python examples/evaluate_my_samples.py ours/ theirs/ real/ inception.pth

The folders hold images; equal names in the first two mean equal noises, whose differences are
paired.  inception.pth is torch-fidelity's; where it is missing a sentence says from where to get
it.  More options of `hdbench evaluate` may follow.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def hdbench(*words: str | Path) -> None:
    """The command, in this environment; its errors are one sentence and end the script."""
    done = subprocess.run([sys.executable, "-m", "hdbench", *map(str, words)])
    if done.returncode:
        sys.exit(done.returncode)


def main(ours: str, theirs: str, real: str, weights: str, *options: str) -> None:
    tables = [Path(folder).with_suffix(".csv") for folder in (ours, theirs)]
    for samples, table in zip((ours, theirs), tables, strict=True):
        hdbench("evaluate", "--samples", samples, "--reference", real, "--name", "model",
                "--protocol", "clean_fid", "--weights", f"inception={weights}",
                "--out", table, *options)  # fmt: skip
    hdbench("compare", *tables, "--all")


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
