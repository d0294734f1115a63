"""The executor: one submission per job, in a folder of its own that tells what became of it.

    <folder>/<rule>/<digest of the outputs>/<number of the submission>/
        record.json       written before the submission, completed with the job's id after it
        alive-<rank>      touched while the command runs
        outcome-<rank>.json   how the command ended, if it ended by itself
        seen              this outcome has been reported to a workflow
        <job id>_<rank>_log.out, and submitit's own files

So a main process that is started again knows the jobs that an earlier one left behind: it adopts
what waits, runs or has succeeded, and submits the rest.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import math
import os
import re
import shlex
import signal
import sys
import time
import uuid
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, NoReturn

import psutil
import submitit
from snakemake.shell import shell
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.settings import CommonSettings, ExecutorSettingsBase
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmExecutor

from snakemake_executor_plugin_submitit import slurm
from snakemake_executor_plugin_submitit.job import Command, write

common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    pass_default_storage_provider_args=True,
    pass_default_resources_args=True,
    pass_envvar_declarations_to_cmd=True,
    auto_deploy_default_storage_provider=False,
    init_seconds_before_status_checks=1,
)

CLUSTERS = ("slurm", "local", "debug")
RETRIED = {
    "OUT_OF_MEMORY": "out of memory",
    "NODE_FAIL": "its node failed",
    "BOOT_FAIL": "its node did not boot",
    "PREEMPTED": "preempted, and not requeued",
    "FAILED": "it ended before its command did",
    "LOST": "it left the queue without a trace",
}
NOT_RETRIED = {
    "TIMEOUT": "time-out",
    "DEADLINE": "its deadline passed",
    "CANCELLED": "cancelled",
    "KILLED": "cancelled or killed",
}
# how the kernel's out-of-memory killer ends a process, seen directly and through a shell
OUT_OF_MEMORY = (-9, 137)
# reasons to wait that need no word
ORDINARY = ("None", "Priority", "Resources", "BeginTime", "Dependency", "Prolog")
# how SLURM is reached; the rest describes one job
KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")
# minutes; the time of a job whose rule states no runtime, unless its partition gives less
DAY = 24 * 60
AWAY = (
    "[Uu]nable to contact|timed out|[Cc]onnection refused|Zero Bytes|Transport "
    "endpoint|authentication error"
)
PATIENCE = 20  # tries to submit while SLURM does not answer, which takes each some ten seconds
TAIL = 15  # lines of a failed job's log


def setting(default: Any, text: str) -> Any:
    return dataclasses.field(
        default=default, metadata={"help": text, "env_var": False, "required": False}
    )


@dataclasses.dataclass
class ExecutorSettings(ExecutorSettingsBase):
    cluster: str = setting(
        "slurm", "Where jobs run: slurm; local, as processes here; debug, one by one in place."
    )
    folder: str = setting(
        ".snakemake/submitit", "Folder of submissions and logs, shared by all nodes."
    )
    requeues: int = setting(100, "How often a job may reach its time limit and be requeued.")
    stop_seconds: int = setting(
        90, "Seconds before the time limit at which a job is told to save its state."
    )
    queue_seconds: int = setting(
        5, "Seconds between two looks at the queue; the ends of jobs are seen sooner."
    )


@dataclasses.dataclass
class Submission:
    """One submission of one job: its folder, and what is known of it in SLURM or of its process."""

    folder: Path
    cluster: str
    name: str
    command: str
    job_id: str | None = None
    born: float | None = None  # creation time of a local job's process
    asked: dict[str, Any] | None = None  # for, of one node: what `report` compares use with
    # adopted while it was being cancelled or requeued: which of them is not known yet
    dying: bool = False
    missing_since: float | None = None
    # when this process first knew of it
    since: float = dataclasses.field(default_factory=time.time)
    told: str = ""  # the reason for its waiting that was last told

    def save(self) -> None:
        kept = ("cluster", "name", "command", "job_id", "born", "asked")
        write(self.folder / "record.json", {key: getattr(self, key) for key in kept})

    @classmethod
    def load(cls, folder: Path) -> "Submission | None":
        try:
            return cls(folder=folder, **json.loads((folder / "record.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def outcome(self) -> dict[str, Any] | None:
        """How the command ended: the first failure, or success when all tasks have succeeded."""
        found = []
        for path in self.folder.glob("outcome-*.json"):
            with contextlib.suppress(OSError, ValueError):  # a run that is requeued removes it
                found.append(json.loads(path.read_text()))
        failed = [one for one in found if one["returncode"]]
        # a temporary failure has lost another task, whose end says more
        failed = [one for one in failed if one["returncode"] != os.EX_TEMPFAIL] or failed
        if failed:
            return min(failed, key=lambda one: one["ended"])
        return found[0] if len(found) >= self.tasks() else None

    def tasks(self) -> int:
        """How many tasks have to succeed."""
        tasks = self.folder / "tasks"
        return int(tasks.read_text()) if tasks.exists() else 1

    def log(self) -> Path:
        """Of the task whose outcome counts."""
        return self.folder / f"{self.job_id}_{(self.outcome() or {'rank': 0})['rank']}_log.out"

    def logged(self, pattern: str) -> bool:
        """Whether a line of the log matches from its beginning."""
        log = self.log()
        said = log.read_text(errors="replace").splitlines() if log.exists() else []
        return any(re.match(pattern, line) for line in said)

    def process(self) -> psutil.Process | None:
        """A local job's controller, if it still runs."""
        try:
            process = psutil.Process(int(self.job_id or 0))
            alive = process.create_time() == self.born and process.status() != psutil.STATUS_ZOMBIE
            return process if alive else None
        except (psutil.Error, ValueError):
            return None


class Executor(RemoteExecutor):
    def __post_init__(self) -> None:
        self.settings: ExecutorSettings = self.executor_settings
        for name in [name for name in os.environ if name.startswith("SLURM_") and name not in KEPT]:
            # started inside an allocation, whose shape is not that of our jobs
            del os.environ[name]
        if self.settings.cluster not in CLUSTERS:
            refuse(
                f"--submitit-cluster = {self.settings.cluster}: unknown; use {', '.join(CLUSTERS)}"
            )
        self.root = Path(self.settings.folder).absolute()
        self._lock_folder()
        self._queue: dict[str, slurm.Job] = {}
        self._looked = 0.0
        self._limits: dict[str, dict[str, float]] = {}
        # `active_jobs` is empty while they are checked, and Ctrl-C may come then
        self._live: dict[Path, Submission] = {}
        self._waiting_for_slurm = False
        jobs = {job.rule.name: job for job in self.workflow.dag.needrun_jobs() if not job.is_local}
        rules = {rule: self._resources(job) for rule, job in jobs.items()}
        for rule, resources in rules.items():
            nodes = int(resources.get("nodes") or 1)
            if (tasks := slurm.tasks_per_node(resources) * nodes) > 1 and not plain(jobs[rule]):
                refuse(
                    f"rule {rule}: asks for {tasks} tasks, which only a plain shell rule can have; "
                    "set tasks_per_node: 1"
                )
            if nodes > 1 and self.settings.cluster != "slurm":
                refuse(
                    f"rule {rule}: asks for {nodes} nodes, but --submitit-cluster "
                    f"{self.settings.cluster} has one"
                )
        if self.settings.cluster == "slurm":
            try:
                self._limits = slurm.check(rules)
                self._look()
                for name, resources in rules.items():
                    self._parameters(name, resources, name)
            except slurm.SlurmError as error:
                refuse(str(error))

    def _lock_folder(self) -> None:
        """One main process a folder: a lock that ends with its process, however that ends."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._lock = (self.root / "lock").open("a")
        except OSError as error:
            refuse(
                f"{self.root}: cannot be written ({error.strerror}); choose another "
                "--submitit-folder"
            )
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            refuse(
                f"{self.root}: another Snakemake manages the jobs of this folder; wait for it, or "
                "stop it"
            )
        except OSError as error:
            refuse(
                f"{self.root}: cannot be locked ({error.strerror}); choose a --submitit-folder on "
                "another file system"
            )

    # -- submission

    def run_job(self, job) -> None:
        command, direct = self._command(job)
        key = hashlib.sha256(
            "\0".join(sorted(map(os.path.abspath, job.products(include_logfiles=False)))).encode()
        )
        home = self.root / job.name / key.hexdigest()[:16]
        what = identity(job, command, direct)
        earlier = self._earlier(home, job)
        if earlier and earlier.command == what and self._can_be_adopted(earlier, job):
            self.logger.info(f"Adopted job {earlier.job_id} of an earlier run: {describe(job)}")
            self._report_submission(job, earlier)
            return
        if earlier and not earlier.outcome():
            self._cancel([earlier])
        if direct:
            self.workflow.async_run(prepare(job))
        self._submit(job, home, command, direct, what)

    def _report_submission(self, job, submission: Submission) -> None:
        self._live[submission.folder] = submission
        aux = {"submission": submission}
        self.report_job_submission(
            SubmittedJobInfo(job=job, external_jobid=submission.job_id, aux=aux)
        )

    def _command(self, job) -> tuple[str, bool]:
        """The command of a job, and whether it is the rule's own.

        A plain shell rule runs as it is, on every task; anything else goes through a Snakemake of
        its own in the job.
        """
        return (job.shellcmd, True) if plain(job) else (self.format_job_exec(job), False)

    def _submit(self, job, home: Path, command: str, direct: bool, what: str) -> None:
        """Submit a job and report it, or report in one sentence why it cannot be submitted."""
        earlier = numbered(home)
        folder = home / str(int(earlier[-1].name) + 1 if earlier else 1)
        folder.mkdir(parents=True)
        resources = self._resources(job)
        nodes, tasks = int(resources.get("nodes") or 1), slurm.tasks_per_node(resources)
        (folder / "tasks").write_text(str(nodes * tasks if direct else 1))
        submission = Submission(
            folder=folder,
            cluster=self.settings.cluster,
            name=f"{job.name}.{uuid.uuid4().hex[:12]}",
            command=what,
            asked=self._asked(job.name, resources, direct),
        )
        submission.save()
        self._live[folder] = submission  # from here on, Ctrl-C cancels it
        environment = {}
        if direct:  # told to stop, the shell waits for its command, which saves its state
            command = f"set -euo pipefail; trap : TERM; {command}"
            threads = str(job.threads)
            environment = {
                f"{library}_NUM_THREADS": threads for library in ("OMP", "OPENBLAS", "MKL")
            }
            if isinstance(job.resources.get("tmpdir"), str):
                environment["TMPDIR"] = job.resources["tmpdir"]
        function = Command(
            command=command,
            folder=folder,
            directory=Path.cwd(),
            environment=environment,
            gpus=int(resources.get("gpus") or 0) * nodes,
        )
        if self.settings.cluster == "debug":
            submission.job_id = "debug"
            try:
                function()
            except SystemExit:
                pass  # told by its outcome
        else:
            try:
                executor = submitit.AutoExecutor(
                    folder=folder,
                    cluster=self.settings.cluster,
                    slurm_max_num_timeout=self.settings.requeues,
                )
                executor.update_parameters(**self._parameters(job.name, resources, submission.name))
                submission.job_id = self._hand_over(executor, function, submission.name)
                submission.since = time.time()
            except (
                FailedJobError,
                FailedSubmissionError,
                slurm.SlurmError,
                OSError,
                ValueError,
            ) as error:
                self._close(submission)
                job.attempt = job.restart_times + 1
                self.report_job_error(
                    SubmittedJobInfo(job=job, aux={}),
                    msg=f"{describe(job)} was not submitted: "
                    f"{str(error).strip().splitlines()[-1]}\n",
                )
                return
            if self.settings.cluster == "local":
                submission.born = psutil.Process(int(submission.job_id)).create_time()
        submission.save()
        self._report_submission(job, submission)

    def _hand_over(self, executor: submitit.AutoExecutor, function: Command, name: str) -> str:
        """The id of the job; waits for a SLURM that does not answer, and never submits twice."""
        for remaining in reversed(range(PATIENCE)):
            try:
                return executor.submit(function).job_id
            except FailedJobError as error:
                if not remaining or not re.search(AWAY, str(error)):
                    raise
                self.logger.warning(f"SLURM does not answer; trying again to submit {name}")
                time.sleep(5)
                self._look_if_possible()
                slurm.cancel(
                    job.id
                    for job in self._queue.values()
                    if job.name == name and job.state in slurm.WAITING
                )
        raise AssertionError

    def _resources(self, job) -> dict[str, Any]:
        given = {
            name: value for name, value in job.resources.items() if isinstance(value, (int, str))
        }
        try:
            return slurm.with_gpus(job.name, given) | {"threads": job.threads}
        except slurm.SlurmError as error:
            refuse(str(error))

    def _asked(self, rule: str, resources: dict[str, Any], direct: bool) -> dict[str, Any]:
        """What the job asks for; None where it asks for no limit."""
        minutes = self._limits.get(rule, {}).get("minutes", math.inf)
        default = int(min(DAY, minutes)) if self.settings.cluster == "slurm" else None
        return {
            "nodes": int(resources.get("nodes") or 1),
            "tasks_per_node": slurm.tasks_per_node(resources) if direct else 1,
            "threads": int(resources["threads"]),
            "gpus": int(resources.get("gpus") or 0),
            "mem_mb": resources.get("mem_mb") or None,
            "minutes": resources.get("runtime") or default,
        }

    def _parameters(self, rule: str, resources: dict[str, Any], name: str) -> dict[str, Any]:
        """Snakemake's resources as submitit's parameters; SlurmError for one that it lacks."""
        given = {
            key: value
            for key, value in resources.items()
            if key.startswith("slurm_") and value not in ("", None)
        }
        extra = given.pop("slurm_extra", None)
        known = {f"slurm_{key}" for key in SlurmExecutor._valid_parameters()}
        for key in given.keys() - known:
            raise slurm.SlurmError(
                f"rule {rule}: unknown resource {key}{slurm.nearest(key, known)}"
            )
        for key in {"slurm_setup", "slurm_teardown"} & given.keys():
            given[key] = [str(given[key])]
        given["slurm_srun_args"] = shlex.split(str(given.get("slurm_srun_args", "")))
        given["slurm_additional_parameters"] = {"requeue": True}
        by_gres = str(given.get("slurm_gres", "")).startswith("gpu")  # with their number
        if extra:
            words = (word.lstrip("-").partition("=") for word in shlex.split(str(extra)))
            given["slurm_additional_parameters"] |= {
                key: value if equals else True for key, equals, value in words
            }
        nodes, tasks = int(resources.get("nodes") or 1), slurm.tasks_per_node(resources)
        if tasks * nodes > 1:  # one task's end by an error ends the others
            given["slurm_srun_args"] += ["--kill-on-bad-exit=1"]
        limit = self._limits.get(rule, {"minutes": DAY, "MB of memory": math.inf})
        time_limit = resources.get("runtime") or int(min(DAY, limit["minutes"]))
        # no more than a node has, though it may grow with each attempt
        memory = resources.get("mem_mb") and min(resources["mem_mb"], limit["MB of memory"])
        return {
            "name": name,
            "nodes": nodes,
            "tasks_per_node": tasks,
            "cpus_per_task": int(resources["threads"]),
            "timeout_min": time_limit,
            "stderr_to_stdout": True,
            "mem_gb": memory / 1024 if memory else None,
            "gpus_per_node": None if by_gres else resources.get("gpus") or None,
            "slurm_signal_delay_s": min(self.settings.stop_seconds, 30 * time_limit),
            **given,
        }

    # -- adoption

    def _earlier(self, home: Path, job) -> Submission | None:
        """The last submission of these outputs, unless Snakemake has taken note of its end."""
        folders = numbered(home)
        last = Submission.load(folders[-1]) if folders else None
        noted = (
            last
            and (last.folder / "seen").exists()
            and last.job_id not in self.workflow.persistence.external_jobids(job)
        )
        return None if noted else last

    def _can_be_adopted(self, earlier: Submission, job) -> bool:
        if earlier.cluster != self.settings.cluster or earlier.cluster == "debug":
            return False
        if outcome := earlier.outcome():
            newest = max(
                (os.path.getmtime(path) for path in job.input if os.path.exists(path)), default=0.0
            )
            return not outcome["returncode"] and all(
                os.path.exists(path) and os.path.getmtime(path) >= newest for path in job.output
            )
        if earlier.cluster == "local":
            return earlier.process() is not None
        self._look_if_possible()
        if earlier.job_id is None:  # its submitter died between the submission and the record of it
            earlier.job_id = next(
                (one.id for one in self._queue.values() if one.name == earlier.name), None
            )
            if earlier.job_id is None:
                return False
            # submitit had no time to name it after the job, which waits for it
            for pickle in earlier.folder.glob("*.pkl"):
                if re.fullmatch("[0-9a-f]{32}", pickle.stem):
                    pickle.rename(earlier.folder / f"{earlier.job_id}_submitted.pkl")
            earlier.save()
        found = self._in_queue(earlier)
        earlier.dying = found is not None and found.state == slurm.ENDING
        return earlier.dying or found is not None and found.state in slurm.WAITING

    # -- watching

    async def check_active_jobs(
        self, active_jobs: list[SubmittedJobInfo]
    ) -> AsyncGenerator[SubmittedJobInfo, None]:
        self.next_seconds_between_status_checks = max(0.5, 0.005 * len(active_jobs))
        if (
            active_jobs
            and self.settings.cluster == "slurm"
            and time.time() - self._looked >= self.settings.queue_seconds
        ):
            self._look_if_possible()
        for info in active_jobs:
            submission: Submission = info.aux["submission"]
            if outcome := submission.outcome():
                self._close(submission)
                if outcome["returncode"] == 0:
                    self.report_job_success(info)
                else:
                    self._fail(info, *how_ended(outcome["returncode"]))
            elif reason := self._gone(submission):
                self._close(submission)
                if submission.dying:  # whoever ended it did so before this run began
                    await self._resubmit(info.job, submission.folder.parent)
                else:
                    self._fail(
                        info,
                        RETRIED.get(reason) or NOT_RETRIED.get(reason, reason.lower()),
                        reason in RETRIED,
                    )
            else:
                yield info

    def _gone(self, submission: Submission) -> str | None:
        """Why a submission without an outcome will never have one, or None while it may."""
        if submission.cluster == "local":
            state = None if submission.process() else "KILLED"
        elif self._looked < submission.since:
            return None
        elif job := self._in_queue(submission):
            state = None if job.state in slurm.WAITING or job.state == slurm.ENDING else job.state
            submission.dying &= job.state not in slurm.WAITING
            stuck = job.state in ("PENDING", "REQUEUE_HOLD", "SPECIAL_EXIT")
            if stuck and job.reason not in (*ORDINARY, submission.told):
                submission.told = job.reason
                self.logger.warning(f"job {job.id} ({job.name}) waits: {job.reason}")
        else:
            state = "LOST"
        if state is None:
            submission.missing_since = None
            return None
        submission.missing_since = submission.missing_since or time.time()
        # of the others the outcome may be on its way: files may be seen late
        soon = state not in ("LOST", "COMPLETED", "FAILED", "KILLED")
        if time.time() - submission.missing_since < (
            1 if soon else max(1, self.workflow.execution_settings.latency_wait)
        ):
            return None
        if state == "LOST" and (job := slurm.ended(submission.job_id)):
            state = job.state
        if state == "FAILED" and submission.logged("slurmstepd.*(oom.kill|memory limit)"):
            return "OUT_OF_MEMORY"  # without cgroups only the log says so
        if state == "FAILED" and submission.logged("submitit .*timed-out too many times"):
            return "TIMEOUT"
        return "LOST" if state == "COMPLETED" else state

    def _in_queue(self, submission: Submission) -> slurm.Job | None:
        """What the queue says of it; an id may be another job's when SLURM has lost its state."""
        job = self._queue.get(submission.job_id)
        return job if job and job.name == submission.name else None

    async def _resubmit(self, job, home: Path) -> None:
        command, direct = self._command(job)
        if direct:
            await prepare(job)
        self._submit(job, home, command, direct, identity(job, command, direct))

    def _look_if_possible(self) -> None:
        """What was last known stands while SLURM does not answer; its jobs go on without it."""
        try:
            self._look()
            self._waiting_for_slurm = False
        except slurm.SlurmError as error:
            if not self._waiting_for_slurm:
                self.logger.warning(f"SLURM cannot be asked ({error}); waiting for it, jobs go on")
            self._waiting_for_slurm = True

    def _look(self) -> None:
        self._queue = {job.id: job for job in slurm.jobs()}
        self._looked = time.time()

    # -- ends

    def _close(self, submission: Submission) -> None:
        """Its end is reported now: no later run shall adopt it."""
        (submission.folder / "seen").touch()
        self._live.pop(submission.folder, None)

    def _fail(self, info: SubmittedJobInfo, reason: str, retried: bool) -> None:
        """Report an error with what a user needs to see; without `retried` no try is left."""
        submission: Submission = info.aux["submission"]
        if submission.tasks() > 1:
            self._cancel([submission])  # the tasks that still live
        if not retried:
            info.job.attempt = info.job.restart_times + 1
        log = submission.log()  # there is none when the job ran in place
        said = log.read_text(errors="replace").splitlines() if log.exists() else []
        said = [line for line in said if line.strip() and not line.startswith("submitit ")]
        said = [line for line in said if not line.startswith("srun: ")] or said
        if reason.startswith("exit code") and said:
            reason += f": {said[-1]}"
        if retried and info.job.restart_times:
            left = info.job.restart_times - info.job.attempt + 1
            reason += f" (tries left: {left})"
        tail = "".join(f"\n    | {line}" for line in said[-TAIL:])
        where = (
            f"\n    log {os.path.relpath(log)} ends with{tail or ' nothing'}"
            if log.exists()
            else ""
        )
        self.report_job_error(
            info, msg=f"{describe(info.job)}, job {submission.job_id}: {reason}{where}"
        )

    def print_job_error(
        self, job_info: SubmittedJobInfo, msg: str | None = None, **kwargs: Any
    ) -> None:
        # not the parent's, which only points to "the cluster log"
        job_info.job.log_error(msg, **kwargs)

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        self._cancel(list(self._live.values()))

    def _cancel(self, submissions: list[Submission]) -> None:
        if self.settings.cluster == "slurm":
            try:
                self._look()
                names = {one.name for one in submissions}
                slurm.cancel(
                    job.id
                    for job in self._queue.values()
                    if job.name in names
                    and (job.state in slurm.WAITING or job.state == slurm.ENDING)
                )
            except slurm.SlurmError as error:
                self.logger.warning(f"could not cancel the jobs: {error}")
        for one in submissions:
            if one.cluster == "local" and (process := one.process()):
                process.send_signal(signal.SIGTERM)


def numbered(home: Path) -> list[Path]:
    """The folders of the submissions of one job, oldest first."""
    folders = [path for path in home.glob("*") if path.name.isdigit()]
    return sorted(folders, key=lambda path: int(path.name))


def refuse(sentence: str) -> NoReturn:
    """End before anything is submitted, with one sentence and exit code 2."""
    print(f"submitit: {sentence}", file=sys.stderr, flush=True)
    sys.exit(2)


def how_ended(code: int) -> tuple[str, bool]:
    """What a return code says, and whether another try can help."""
    if code in OUT_OF_MEMORY:
        return RETRIED["OUT_OF_MEMORY"], True
    if code in (130, 143, -signal.SIGINT, -signal.SIGTERM):
        return "stopped from outside", True
    if code == os.EX_TEMPFAIL:
        return f"temporary failure (exit code {code})", True
    return (f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"), False


def plain(job) -> bool:
    """Whether a job is a shell command and nothing else, which needs no Snakemake of its own."""
    customised = getattr(shell, "_process_prefix", None) is not None or getattr(
        shell, "_process_suffix", ""
    )
    return (
        not job.is_group()
        and job.is_shell
        and not (customised or job.resources.get("shell_exec"))
        and not (
            job.benchmark
            or job.is_shadow
            or job.conda_env
            or job.container_img_url
            or job.env_modules
            or any(file.is_storage for file in (*job.input, *job.output))
        )
    )


def identity(job, command: str, direct: bool) -> str:
    """Digest of what a job runs; a Snakemake of its own has temporary paths, so its rule counts."""
    what = command if direct else f"{job.name} {getattr(job, 'shellcmd', '')}"
    return hashlib.sha256(what.encode()).hexdigest()


def describe(job) -> str:
    """Rule, wildcards and the textual parameters of a job."""
    if job.is_group():
        return f"group {job.groupid}"
    values = {
        **job.wildcards_dict,
        **{key: value for key, value in job.params.items() if isinstance(value, str)},
    }
    return f"rule {job.rule.name} ({', '.join(f'{key}={value}' for key, value in values.items())})"


async def prepare(job) -> None:
    """What Snakemake does before a job of its own: old outputs away, folders made."""
    await job.remove_existing_output()
    for file in (*job.output, *job.log):
        file.prepare()
