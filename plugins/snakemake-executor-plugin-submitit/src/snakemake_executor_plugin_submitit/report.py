"""What jobs used of what they asked for: `python -m snakemake_executor_plugin_submitit.report`.

Reads the folder of submissions (.snakemake/submitit, or the one that is given) and nothing else, so
it works without an accounting database, and for processes of one machine as well.  A job that was
stopped and requeued counts with its last run; one that was killed has left no figures.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

TITLES = (
    "rule",
    "jobs",
    "failed",
    "hours",
    "time",
    "cores",
    "memory",
    "most MB",
    "GPU h",
    "waited",
)
EXPLAINED = """\
hours: of all jobs. time, cores, memory: used in % of what was asked for, median and most of a job;
"-" where nothing was asked for. most MB: of a node, the sum over its tasks of each one's largest
process. GPU h: hours in which GPUs were held, used or not. waited: median seconds in the queue."""


class Usage(NamedTuple):
    """One job that has ended by itself: shares of what was asked for, None where nothing was."""

    rule: str
    failed: bool
    seconds: float
    time: float | None
    cores: float | None
    memory: float | None
    megabytes: float  # of a node
    gpu_seconds: float
    waited: float


def usage_of(folder: Path) -> Usage | None:
    """Of one submission; None where it has not ended, or was submitted before this was recorded."""
    try:
        asked = json.loads((folder / "record.json").read_text())["asked"]
        outcomes = [json.loads(path.read_text()) for path in folder.glob("outcome-*.json")]
        if not (asked and outcomes):
            return None
        seconds = max(outcome["wall_seconds"] for outcome in outcomes)
        nodes = asked["nodes"]
        cores = asked["threads"] * asked["tasks_per_node"] * nodes
        used = sum(outcome["cpu_seconds"] for outcome in outcomes)
        megabytes = sum(outcome["peak_memory_bytes"] for outcome in outcomes) / nodes / 2**20
        return Usage(
            rule=folder.parents[1].name,
            failed=any(outcome["returncode"] for outcome in outcomes),
            seconds=seconds,
            time=asked["minutes"] and seconds / 60 / asked["minutes"],
            cores=used / (seconds * cores) if seconds else None,
            memory=asked["mem_mb"] and megabytes / asked["mem_mb"],
            megabytes=megabytes,
            gpu_seconds=asked["gpus"] * nodes * seconds,
            waited=max(outcome["queue_seconds"] for outcome in outcomes),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def usages(root: Path) -> list[Usage]:
    """Of every submission below the folder, by rule."""
    folders = sorted(path.parent for path in root.glob("*/*/*/record.json"))
    return [usage for folder in folders if (usage := usage_of(folder)) is not None]


def share(values: Iterable[float | None]) -> str:
    """`12-40%`: median and most; "-" without values."""
    known = [100 * value for value in values if value is not None]
    return f"{statistics.median(known):.0f}-{max(known):.0f}%" if known else "-"


def table(rows: list[Usage]) -> str:
    """A line a rule, the one that took most hours first."""
    rules = sorted(
        {row.rule for row in rows}, key=lambda rule: -sum(r.seconds for r in rows if r.rule == rule)
    )
    lines = [TITLES]
    for rule in rules:
        jobs = [row for row in rows if row.rule == rule]
        lines.append(
            (
                rule,
                f"{len(jobs)}",
                f"{sum(job.failed for job in jobs)}",
                f"{sum(job.seconds for job in jobs) / 3600:.2f}",
                share(job.time for job in jobs),
                share(job.cores for job in jobs),
                share(job.memory for job in jobs),
                f"{max(job.megabytes for job in jobs):.0f}",
                f"{sum(job.gpu_seconds for job in jobs) / 3600:.2f}",
                f"{statistics.median(job.waited for job in jobs):.0f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    )


def main(arguments: list[str]) -> int:
    """Print the table of one folder; 2 where there is nothing to report."""
    if len(arguments) > 1 or arguments[:1] in (["-h"], ["--help"]):
        print(f"{__doc__}\nusage: python -m {__spec__.name} [FOLDER]")
        return 0 if len(arguments) == 1 else 2
    root = Path(*arguments or [".snakemake/submitit"])
    rows = usages(root)
    if not rows:
        print(
            f"submitit: {root}: has no jobs that have ended; give the folder of --submitit-folder, "
            "by default .snakemake/submitit",
            file=sys.stderr,
        )
        return 2
    print(f"{table(rows)}\n\n{EXPLAINED}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
