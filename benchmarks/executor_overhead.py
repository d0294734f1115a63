"""Seconds a job costs above plain Snakemake, through submitit here and on SLURM; and to plan jobs.

Jobs do nothing and run one after another, so what is shown is latency: submission, start of the
job's process, and how soon its end is seen.  Executors take turns, and each run's fixed cost (a run
of one job) is taken off.  `through Snakemake` runs each job in a Snakemake of its own, as other
executors do for every job.

    python benchmarks/executor_overhead.py

With a SLURM of its own:

    python -m tests.slurm.cluster run --folder /tmp/slurm -- python benchmarks/executor_overhead.py
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

SHELL = (
    'rule all:\n    input: expand("out/{i}", i=range(int(config["jobs"])))\n'
    'rule one:\n    output: "out/{i}"\n'
)
SNAKEMAKE = (sys.executable, "-m", "snakemake")
LOCAL = ["--executor", "submitit", "--submitit-cluster", "local", "--jobs", "1"]
RULES = {
    "shell": SHELL + '    shell: "touch {output}"\n',
    "run": SHELL + '    run: open(output[0], "w").close()\n',
}
WAYS = {
    "plain Snakemake": ("shell", ["--cores", "1"]),
    "submitit, local": ("shell", LOCAL),
    "submitit, slurm": ("shell", ["--executor", "submitit", "--jobs", "1"]),
    "submitit, local, through Snakemake": ("run", LOCAL),
}


def seconds(kind: str, arguments: list[str], jobs: int) -> float:
    """Wall seconds of a run of so many jobs in a fresh folder."""
    with tempfile.TemporaryDirectory(prefix="overhead-", dir=Path.cwd()) as folder:
        Path(folder, "Snakefile").write_text(RULES[kind])
        begun = time.perf_counter()
        subprocess.run(
            [*SNAKEMAKE, *arguments, "--quiet", "all", "--config", f"jobs={jobs}"],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return time.perf_counter() - begun


@click.command(help=__doc__.split("\n\n")[0])
@click.option("--jobs", default=8, show_default=True, help="Jobs a run.")
@click.option("--rounds", default=3, show_default=True, help="Runs of each executor, in turns.")
@click.option(
    "--planned",
    default=(1000, 10000),
    show_default=True,
    multiple=True,
    help="Jobs of the dry runs.",
)
def main(jobs: int, rounds: int, planned: tuple[int, ...]) -> None:
    ways = {
        name: way
        for name, way in WAYS.items()
        if name != "submitit, slurm" or shutil.which("sbatch")
    }
    costs: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (kind, arguments) in ways.items():
            costs[name].append(
                (seconds(kind, arguments, jobs) - seconds(kind, arguments, 1)) / (jobs - 1)
            )
    plain = statistics.median(costs["plain Snakemake"])
    print(
        f"seconds a job: median of {rounds} rounds of {jobs} jobs (lowest to highest), and above "
        "plain Snakemake"
    )
    for name, times in costs.items():
        median = statistics.median(times)
        print(f"{name:36}{median:6.2f} ({min(times):.2f}-{max(times):.2f}){median - plain:+7.2f}")
    if "submitit, slurm" not in ways:
        print("submitit, slurm: not measured, SLURM is not on this machine")
    for count in planned:
        print(
            f"dry run of {count:,} jobs: "
            f"{seconds('shell', ['--dry-run', '--cores', '1'], count):.1f} s"
        )


if __name__ == "__main__":
    main()
