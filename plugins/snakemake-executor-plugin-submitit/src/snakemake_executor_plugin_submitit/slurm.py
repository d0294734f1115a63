"""What SLURM's own commands say: which jobs live, and what the cluster can give."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from typing import NamedTuple

TOOLS = ("sbatch", "squeue", "scontrol", "scancel", "sinfo", "srun")
WAITING = {
    "PENDING",
    "CONFIGURING",
    "REQUEUED",
    "REQUEUE_HOLD",
    "REQUEUE_FED",
    "SPECIAL_EXIT",
    "RESV_DEL_HOLD",
    "SUSPENDED",
    "RUNNING",
    "RESIZING",
    "SIGNALING",
    "STAGE_OUT",
    "STOPPED",
}
ENDING = "COMPLETING"  # ended, being cancelled or being requeued: SLURM does not say which yet


class SlurmError(Exception):
    """One sentence: what SLURM refuses, or that it cannot be asked."""


class Job(NamedTuple):
    id: str
    name: str
    state: str
    reason: str


def ask(*command: str, timeout: float = 60) -> str:
    """Standard output of one of SLURM's commands; SlurmError with its complaint."""
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=timeout
        )
    except FileNotFoundError:
        raise SlurmError(f"{command[0]} is not on this machine") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} gave no answer in {timeout:.0f} s") from None
    if result.returncode:
        said = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]
        raise SlurmError(f"{command[0]}: {said}")
    return result.stdout


def jobs() -> list[Job]:
    """This user's jobs, those that ended a while ago (MinJobAge) included."""
    lines = ask(
        "squeue", "-u", str(os.getuid()), "--states=all", "-h", "-o", "%i|%j|%T|%r"
    ).splitlines()
    return [Job(*line.split("|", 3)) for line in lines]


def ended(job_id: str) -> Job | None:
    """A job that squeue has forgotten, from the accounting database where there is one."""
    try:
        lines = ask(
            "sacct", "-X", "-n", "-P", "-j", job_id, "-o", "JobID,JobName,State,Reason"
        ).splitlines()
    except SlurmError:
        return None
    job = Job(*lines[-1].split("|", 3)) if lines else None
    return job and job._replace(state=job.state.split()[0])


def cancel(job_ids: Iterable[str]) -> None:
    if job_ids := list(job_ids):
        ask("scancel", *job_ids)


def tasks_per_node(resources: dict) -> int:
    """One task a GPU, unless the rule says otherwise; without a GPU one task."""
    return int(resources.get("tasks_per_node") or max(1, resources.get("gpus") or 0))


def with_gpus(rule: str, resources: dict) -> dict:
    """The resources with `gpus` and `slurm_gres` in place of gpu, gpu_model and gres.

    Those are the names of Snakemake's own SLURM executor: `gpu: 2, gpu_model: a100`, or
    `gres: "gpu:a100:2"`.  SlurmError where they contradict each other.
    """
    rest = dict(resources)
    count, model, gres = (rest.pop(name, None) for name in ("gpu", "gpu_model", "gres"))
    if gres:
        rest["slurm_gres"] = gres
        if match := re.fullmatch(r"gpu(?::[^:,]+)?:(\d+)", str(gres)):
            count = int(match[1]) if count is None else count
    if count is not None and rest.setdefault("gpus", count) != count:
        raise SlurmError(f"rule {rule}: asks for {rest['gpus']} gpus and {count} gpu; state one")
    if model:
        if gres or not rest.get("gpus"):
            other = "gres" if gres else "no gpu"
            raise SlurmError(f"rule {rule}: gpu_model = {model} with {other}; give it with gpu")
        rest["slurm_gres"] = f"gpu:{model}:{rest['gpus']}"
    return rest


def check(rules: dict[str, dict]) -> dict[str, dict[str, float]]:
    """By rule the longest run ("minutes") and the most memory of a node ("MB of memory").

    `rules` holds each rule's resources: gpus, nodes, tasks_per_node, threads, mem_mb, runtime
    (minutes), slurm_partition. SlurmError without SLURM on this machine, or where no node can ever
    give what a rule asks for.
    """
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise SlurmError(
            f"SLURM is not on this machine ({', '.join(missing)} not found); run on a login node "
            "of the cluster, or use --submitit-cluster local"
        )
    partitions: dict[str, list[dict]] = {}
    default = None
    for line in ask("sinfo", "-a", "-N", "-h", "-o", "%P|%G|%c|%m|%l").splitlines():
        name, gres, cpus, memory, limit = line.split("|")
        default = name.rstrip("*") if name.endswith("*") else default
        partitions.setdefault(name.rstrip("*"), []).append(
            {
                "GPUs": sum(map(int, re.findall(r"\bgpu(?::[^:,(]+)?:(\d+)", gres))),
                "CPUs": int(cpus.rstrip("+")),
                "MB of memory": int(memory.rstrip("+")),
                "minutes": minutes(limit),
            }
        )
    limits = {}
    for rule, resources in rules.items():
        partition = resources.get("slurm_partition") or default
        if partition is None:
            raise SlurmError(
                f"rule {rule}: the cluster has no default partition; set slurm_partition, one of "
                f"{', '.join(sorted(partitions))}"
            )
        for name in str(partition).split(","):
            if name not in partitions:
                raise SlurmError(
                    f"rule {rule}: unknown partition {name!r}{nearest(name, partitions)}"
                )
        nodes = [node for name in str(partition).split(",") for node in partitions[name]]
        tasks = tasks_per_node(resources)
        for what, wanted, key in (
            ("GPUs", resources.get("gpus"), "gpus"),
            ("CPUs", tasks * int(resources.get("threads") or 1), "threads"),
            ("MB of memory", resources.get("mem_mb"), "mem_mb"),
            ("minutes", resources.get("runtime"), "runtime"),
        ):
            most = max(node[what] for node in nodes)
            if isinstance(wanted, int) and wanted > most:
                is_time = what == "minutes"
                where = "the partition's time limit is" if is_time else "no node has more than"
                raise SlurmError(
                    f"rule {rule}: asks for {wanted} {what}, but in partition {partition} {where} "
                    f"{most:g}; lower its {key}"
                )
        if int(resources.get("nodes") or 1) > len(nodes):
            raise SlurmError(
                f"rule {rule}: asks for {resources['nodes']} nodes, but partition {partition} has "
                f"{len(nodes)}; lower its nodes"
            )
        limits[rule] = {
            what: max(node[what] for node in nodes) for what in ("minutes", "MB of memory")
        }
    return limits


def nearest(word: str, choices: Iterable[str]) -> str:
    """The end of a sentence on an unknown word: the choice that was meant, or all of them."""
    close = difflib.get_close_matches(word, choices := sorted(choices), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there is {', '.join(choices)}"


def minutes(limit: str) -> float:
    """SLURM's [days-]hours:minutes:seconds, or "infinite", in minutes."""
    if limit in ("infinite", "UNLIMITED", "n/a"):
        return float("inf")
    days, _, clock = limit.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    hours, mins, seconds = [0] * (3 - len(parts)) + parts
    return int(days or 0) * 1440 + hours * 60 + mins + seconds / 60
