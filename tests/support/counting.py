"""Counting: a workflow of jobs that count and save their state at every number, and passes in the
form of a ledger."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from hdbench.methods.base import Passes

SNAKEFILE = """
rule all:
    input: expand("out/{i}", i=range(int(config.get("jobs", 2))))
rule count:
    output: "out/{i}"
    params: arm="arm {i}"
    shell: "python count.py {wildcards.i} {output}"
"""
COUNT = '''
"""Counts to the number in `length`, tenths of a second a step; goes on from its state; says when it
starts and ends."""
import pathlib, signal, sys, time
i, out = sys.argv[1:]
state, stop = pathlib.Path(f"state-{i}"), []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
n = int(state.read_text()) if state.exists() else 0
def say(text):
    with open("events", "a") as file:
        file.write(f"{text} {i} {n}\\n")
say("start")
while n < int(pathlib.Path("length").read_text()):
    time.sleep(0.1)
    n += 1
    state.write_text(str(n))
    if stop:
        say("stop")
        sys.exit(130)
pathlib.Path(out).write_text(str(n))
say("end")
'''


class Workflow:
    """A Snakemake workflow in `folder`, run by the submitit executor on `cluster`."""

    def __init__(
        self,
        folder: Path,
        cluster: str,
        length: int = 10,
        snakefile: str = SNAKEFILE,
        environment: dict[str, str] | None = None,
    ):
        self.folder, self.cluster = folder, cluster
        path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        self.environment = os.environ | (environment or {}) | path
        (folder / "Snakefile").write_text(snakefile)
        (folder / "count.py").write_text(COUNT)
        (folder / "length").write_text(str(length))

    def command(self, *arguments: str) -> list[str]:
        return [
            sys.executable,
            "-m",
            "snakemake",
            "--executor",
            "submitit",
            "--submitit-cluster",
            self.cluster,
            "--jobs",
            "4",
            "--nolock",
            "--rerun-incomplete",
            "--submitit-queue-seconds",
            "1",
            *arguments,
        ]

    def run(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess:
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment,
            text=True,
            timeout=timeout,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def start(self, *arguments: str) -> subprocess.Popen:
        with (self.folder / "said").open("w") as file:
            return subprocess.Popen(
                self.command(*arguments),
                cwd=self.folder,
                env=self.environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    def kill_while_counting(self, *arguments: str, jobs: int = 2) -> None:
        """Start, and `kill -9` the main process once so many jobs, left running, counted to 3."""
        main = self.start(*arguments)
        self.wait(lambda: all(self.state(job) > 2 for job in range(jobs)))
        main.kill()
        main.wait()

    def said(self) -> str:
        return (self.folder / "said").read_text()

    def events(self) -> Counter[tuple[str, str]]:
        """How often each job has said each of start, stop and end."""
        path = self.folder / "events"
        return (
            Counter(tuple(line.split()[:2]) for line in path.read_text().splitlines())
            if path.exists()
            else Counter()
        )

    def state(self, job: int | str) -> int:
        path = self.folder / f"state-{job}"
        return int(path.read_text() or 0) if path.exists() else 0

    def wait(self, condition, timeout: float = 60) -> None:
        """Until the condition holds; AssertionError with Snakemake's words if it never does."""
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, (
                self.said() if (self.folder / "said").exists() else "timeout"
            )
            time.sleep(0.05)


def flattened(
    passes: Mapping[str, Passes], feature_network: str = "teacher"
) -> dict[tuple[str, str, str], float]:
    """An objective's passes by (network, "full" or "features", kind of pass), without zeros.

    Its `generator` and `target` are the student, its `feature` is features of `feature_network`,
    and a regulariser's passes add to the objective's own.
    """
    names = {"generator": "student", "target": "student", "feature": feature_network}
    counted: Counter[tuple[str, str, str]] = Counter()
    for network, kinds in passes.items():
        network = network.removeprefix("regulariser ")
        extent = "features" if network == "feature" else "full"
        for kind, count in kinds._asdict().items():
            counted[names.get(network, network), extent, kind] += count
    return {key: count for key, count in counted.items() if count}
