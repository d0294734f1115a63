"""What runs inside a job, once a task: a shell command whose fate is written down beside its log.

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
from dataclasses import dataclass, field, replace
from pathlib import Path

import submitit
from submitit.helpers import DelayedSubmission

STOPPED = 143  # as after SIGTERM; no outcome is written, the scheduler knows why


@dataclass
class Command:
    """A shell command as a checkpointable submitit callable; it survives preemption, time limits and requeues.

    Task `rank` writes `outcome-<rank>.json` into `folder` when the command ends by itself.  When the job is stopped from
    outside (cancelled, requeued, preempted) the command gets SIGTERM and time to save its state, and no outcome is written.
    Several tasks get the variables of torch.distributed; every command gets SUBMITIT_QUEUE_SECONDS and SUBMITIT_GPUS.
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
        if self._superseded():
            return
        alive, outcome, started = self.folder / f"alive-{rank}", self.folder / f"outcome-{rank}.json", time.time()
        outcome.unlink(missing_ok=True)  # of a run that was requeued
        waiting_since = max(self.submitted, alive.stat().st_mtime if alive.exists() else 0.0)
        queue_seconds = round(max(0.0, started - waiting_since), 3)
        environment = os.environ | self.environment | {"SUBMITIT_QUEUE_SECONDS": str(queue_seconds),
                                                       "SUBMITIT_GPUS": str(self.gpus)}
        if tasks > 1:
            environment |= rendezvous(job)
        self._stopping = False
        # Rank 0 leaves SIGUSR2 to submitit, which calls `checkpoint`; run in place, the main process keeps its signals.
        for number in (signal.SIGTERM, signal.SIGINT, *((signal.SIGUSR2,) if rank else ())) if job else ():
            signal.signal(number, self._stop)
        # The command ignores SIGUSR2, which some schedulers send to every process; it is told by SIGTERM.
        self._child = subprocess.Popen([*self.shell, self.command], cwd=self.directory, env=environment,
                                       start_new_session=True, preexec_fn=_ignore_usr2)
        code = None
        while code is None:
            alive.touch()
            try:
                code = self._child.wait(timeout=5)
            except subprocess.TimeoutExpired:
                pass
        if self._stopping:
            self._leave(job, rank)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        write(outcome, {
            "returncode": code, "host": os.uname().nodename, "started": started, "ended": time.time(),
            "queue_seconds": queue_seconds, "wall_seconds": round(time.time() - started, 3),
            "cpu_seconds": round(used.ru_utime + used.ru_stime, 3), "peak_memory_bytes": used.ru_maxrss * 1024})
        if code:
            sys.exit(code if code > 0 else 128 - code)

    def checkpoint(self) -> DelayedSubmission:
        """What submitit calls on its preemption and time-limit signal: stop the command, then run again from its state."""
        self._stop()
        try:  # not Popen.wait, whose lock the interrupted frame may hold
            os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            pass
        return DelayedSubmission(replace(self, submitted=time.time()))

    def _superseded(self) -> bool:
        """Whether a later submission of the same outputs exists: this one was lost to its submitter, and must not run."""
        return any(int(other.name) > int(self.folder.name) for other in self.folder.parent.iterdir() if other.name.isdigit())

    def _stop(self, *_signal) -> None:
        self._stopping = True
        try:
            os.killpg(self._child.pid, signal.SIGTERM)
        except (AttributeError, ProcessLookupError):
            pass  # not started yet, or over

    def _leave(self, job: submitit.JobEnvironment | None, rank: int) -> None:
        """End without an outcome.  SLURM's warning before a preemption leaves the job running: then it is requeued here."""
        if job is not None and job.cluster == "slurm" and rank == 0 and not list(self.folder.glob("outcome-*.json")):
            asked = subprocess.run(["squeue", "-h", "-j", job.job_id, "-o", "%T"], capture_output=True, text=True,
                                   timeout=60)
            if asked.stdout.strip() == "RUNNING":
                subprocess.run(["scontrol", "requeue", job.job_id], timeout=60)
        sys.stdout.flush()
        os._exit(0 if rank else STOPPED)


def _ignore_usr2() -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def rendezvous(job: submitit.JobEnvironment) -> dict[str, str]:
    """The variables by which torch.distributed's `env://` finds the other tasks of this job."""
    return {"RANK": str(job.global_rank), "WORLD_SIZE": str(job.num_tasks), "LOCAL_RANK": str(job.local_rank),
            "LOCAL_WORLD_SIZE": str(job.num_tasks // job.num_nodes), "MASTER_ADDR": job.hostnames[0],
            "MASTER_PORT": str(20000 + int(job.raw_job_id) % 40000)}


def write(path: Path, values: dict) -> None:
    """JSON that is either not there or whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(values))
    temporary.replace(path)
