"""`snakemake --lint` but for one lint: `python -m tests.support.lint_workflow`.

Snakemake asks for a conda environment or container in every rule.  All rules run in the one
environment that `make` installs, and manifests record its versions.
"""

from __future__ import annotations

import subprocess
import sys

NOT_APPLICABLE = "Specify a conda environment or container for each rule"


def lints(text: str) -> list[str]:
    """The applicable lints in what `snakemake --lint` prints, each with its place."""
    place = ""
    applicable = []
    for line in text.splitlines():
        if line.startswith("Lints for "):
            place = line.removeprefix("Lints for ").removesuffix(":")
        elif line.startswith("    * ") and NOT_APPLICABLE not in line:
            applicable.append(f"{place}: {line.removeprefix('    * ').rstrip(':.')}")
    return applicable


def main() -> int:
    command = [sys.executable, "-m", "snakemake", "--lint"]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    remaining = lints(done.stderr)
    if done.returncode and "Lints for " not in done.stderr:  # the workflow cannot be read at all
        remaining = [done.stderr]
    print("\n".join(remaining) or "snakemake --lint: clean")
    return bool(remaining)


if __name__ == "__main__":
    sys.exit(main())
