"""What runs in every task of a job: a shell command whose fate is written down beside its log.

Only the standard library and submitit are imported here.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import submitit
from submitit.helpers import DelayedSubmission

STOPPED = 143  # as after SIGTERM; no outcome is written, the scheduler knows why


@dataclass
class Command:
    """A checkpointable submitit callable: a shell command that survives preemption and time limits.

    Task `rank` writes `outcome-<rank>.json` into `folder` when the command ends by itself. When the
    job is stopped from outside (cancelled, requeued, preempted) the command gets SIGTERM and
    time to save its state, and no outcome is written. Several tasks get the variables of
    torch.distributed; every command gets SUBMITIT_QUEUE_SECONDS and SUBMITIT_GPUS.
    """

    command: str
    folder: Path
    directory: Path  # where the command runs
    gpus: int = 0  # over all nodes
    environment: dict[str, str] = field(default_factory=dict)
    shell: tuple[str, ...] = ("/bin/bash", "-c")
    submitted: float = field(default_factory=time.time)

    def __call__(self) -> None:
        job = submitit.JobEnvironment() if "SUBMITIT_EXECUTOR" in os.environ else None
        rank, tasks = (job.global_rank, job.num_tasks) if job else (0, 1)
        if self._superseded() or self._finished(tasks):
            return
        alive, outcome = self.folder / f"alive-{rank}", self.folder / f"outcome-{rank}.json"
        for path in (outcome, self.folder / f"stopped-{rank}"):  # of a run that was requeued
            path.unlink(missing_ok=True)
        started = time.time()
        waiting_since = max(self.submitted, alive.stat().st_mtime if alive.exists() else 0.0)
        queue_seconds = round(max(0.0, started - waiting_since), 3)
        environment = (
            os.environ
            | self.environment
            | {"SUBMITIT_QUEUE_SECONDS": str(queue_seconds), "SUBMITIT_GPUS": str(self.gpus)}
        )
        if tasks > 1:
            environment |= rendezvous(job)
        self._stopping, self._child = False, None
        if job:  # run in place, the main process keeps its signals
            signal.signal(signal.SIGTERM, self._stop)
            signal.signal(signal.SIGINT, self._stop)
            if rank:  # that of rank 0 goes to submitit, which calls `checkpoint`
                signal.signal(signal.SIGUSR2, self._stop)
        # some schedulers send SIGUSR2 to every process; the command is told by SIGTERM
        self._child = subprocess.Popen(
            [*self.shell, self.command],
            cwd=self.directory,
            env=environment,
            start_new_session=True,
            preexec_fn=_ignore_usr2,
        )
        if self._stopping:
            self._stop()
        code = self._wait(alive)
        if job:
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # too late for a checkpoint
        if self._stopping and code:  # a success stands, though a stop came at its end
            self._leave(job, rank, tasks)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        ended = time.time()
        # it has lost a rank, which can say more and may only now be ending
        if code == os.EX_TEMPFAIL and tasks > 1:
            self._await(self._ends, 10)
        write(
            outcome,
            {
                "returncode": code,
                "rank": rank,
                "host": os.uname().nodename,
                "started": started,
                "ended": ended,
                "queue_seconds": queue_seconds,
                "wall_seconds": round(ended - started, 3),
                "cpu_seconds": round(used.ru_utime + used.ru_stime, 3),
                "peak_memory_bytes": used.ru_maxrss * 1024,
            },
        )
        if code:
            sys.exit(code if code > 0 else 128 - code)

    def checkpoint(self) -> DelayedSubmission:
        """Stop the command, to run again from its state: submitit's answer to its signal."""
        self._stop()
        try:  # not Popen.wait, whose lock the interrupted frame may hold
            if self._child:
                os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            pass
        return DelayedSubmission(replace(self, submitted=time.time()))

    def _wait(self, alive: Path) -> int:
        """The command's return code; touches `alive` meanwhile."""
        while True:
            try:
                alive.touch()
            except OSError:
                pass  # a file system that is away for a moment ends no job
            try:
                return self._child.wait(timeout=5)
            except subprocess.TimeoutExpired:
                pass

    def _finished(self, tasks: int) -> bool:
        """Whether the job was requeued after its end: all tasks succeeded, or it was reported."""
        ends = self._ends()
        return (self.folder / "seen").exists() or len(ends) == tasks and not any(ends)

    def _ends(self) -> list[int]:
        """Return codes of the tasks that have ended by themselves."""
        return [
            json.loads(path.read_text())["returncode"]
            for path in self.folder.glob("outcome-*.json")
        ]

    @staticmethod
    def _await(condition: Callable[[], Any], seconds: float) -> bool:
        """Whether the condition came to hold in so many seconds."""
        end = time.monotonic() + seconds
        while not (holds := condition()) and time.monotonic() < end:
            time.sleep(0.1)
        return bool(holds)

    def _superseded(self) -> bool:
        """Whether a later submission of the same outputs exists, so that this one must not run."""
        return any(
            int(other.name) > int(self.folder.name)
            for other in self.folder.parent.iterdir()
            if other.name.isdigit()
        )

    def _stop(self, *_signal) -> None:
        self._stopping = True
        try:
            if self._child:
                os.killpg(self._child.pid, signal.SIGTERM)
        except ProcessLookupError:
            pass  # it is over

    def _leave(self, job: submitit.JobEnvironment, rank: int, tasks: int) -> None:
        """End without an outcome.

        SLURM's warning before a preemption leaves the job running: then it is requeued here, if all
        tasks were stopped so. One that died by itself, for which SLURM ends the others, makes the
        job fail.
        """
        (self.folder / f"stopped-{rank}").touch()
        all_told = lambda: len(self._ends()) + len(list(self.folder.glob("stopped-*"))) >= tasks
        if (
            job.cluster == "slurm"
            and rank == 0
            and self._await(all_told, 10)
            and not any(self._ends())
        ):
            asked = subprocess.run(
                ["squeue", "-h", "-j", job.job_id, "-o", "%T"],
                capture_output=True,
                text=True,
                timeout=60,
            )
            if asked.stdout.strip() == "RUNNING":
                subprocess.run(["scontrol", "requeue", job.job_id], timeout=60)
        sys.stdout.flush()
        os._exit(0 if rank else STOPPED)


def _ignore_usr2() -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def rendezvous(job: submitit.JobEnvironment) -> dict[str, str]:
    """The variables by which torch.distributed's `env://` finds the other tasks of this job."""
    return {
        "RANK": str(job.global_rank),
        "WORLD_SIZE": str(job.num_tasks),
        "LOCAL_RANK": str(job.local_rank),
        "LOCAL_WORLD_SIZE": str(job.num_tasks // job.num_nodes),
        "MASTER_ADDR": job.hostnames[0],
        "MASTER_PORT": str(15000 + int(job.raw_job_id) % 15000),  # below the ephemeral ports
    }


def write(path: Path, values: dict) -> None:
    """JSON that is either not there or whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(values))
    temporary.replace(path)
