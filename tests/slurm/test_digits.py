"""`snakemake --profile slurm all_ablations`, word for word, on a real SLURM, while everything that
can fail does.

HDBENCH_FAULTS says how many faults come (default 6), HDBENCH_FAULT_SEED when and which (default 0).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from hdbench.stages import artifact
from hdbench.suite.load import load_plan
from tests.slurm.cluster import cluster as started
from tests.support.tiny import REPOSITORY, run_until, stage_of, write_suite

COMMAND = [
    "-m",
    "snakemake",
    "--profile",
    "slurm",
    "all_ablations",
    "--config",
    "suite=digits",
    f"theory={REPOSITORY / 'tests/support/theory.yaml'}",
    "flops=none",
]


def start(workspace: Path, cluster) -> subprocess.Popen:
    environment = (
        os.environ
        | cluster.environment
        | {"PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore"}
    )
    with (workspace / "said").open("a") as file:
        return subprocess.Popen(
            [sys.executable, *COMMAND], cwd=workspace, env=environment, stdout=file, stderr=file
        )


def fault(kind: str, chosen: random.Random, main: subprocess.Popen, cluster) -> None:
    jobs = cluster.run("squeue", "-h", "-t", "RUNNING", "-o", "%i").stdout.split()
    if kind == "kill of main":
        main.kill()
    elif kind == "slurmd stopped":
        cluster.stop_slurmd()
        time.sleep(2)
        cluster.start_slurmd()
    elif jobs:
        cluster.run(
            *(["scancel"] if kind == "scancel" else ["scontrol", "requeue"]), chosen.choice(jobs)
        )


def successes(workspace: Path) -> dict[str, int]:
    """How many submissions of each job ended with success."""
    ends: dict[str, int] = {}
    for path in workspace.glob(".snakemake/submitit/*/*/*/outcome-0.json"):
        job = "/".join(path.parts[-4:-2])
        ends[job] = ends.get(job, 0) + (json.loads(path.read_text())["returncode"] == 0)
    return ends


def test_the_digits_suite_survives_faults_and_equals_a_local_run(
    tmp_path_factory, tmp_path, monkeypatch
):
    for name in ("Snakefile", "workflow", "profiles", "slurm"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    monkeypatch.chdir(tmp_path)
    plan, chosen = load_plan("digits"), random.Random(int(os.environ.get("HDBENCH_FAULT_SEED", 0)))
    kinds = ["kill of main", "scancel", "requeue", "slurmd stopped"]
    faults = [
        kinds[number % len(kinds)] for number in range(int(os.environ.get("HDBENCH_FAULTS", 6)))
    ]
    chosen.shuffle(faults)
    with started(tmp_path_factory.mktemp("digits")) as cluster:
        main, runs, happened, deadline = start(tmp_path, cluster), 1, [], time.monotonic() + 3000
        next_fault = time.monotonic() + chosen.uniform(5, 20)
        while main.poll() is None or main.returncode:
            assert time.monotonic() < deadline, (tmp_path / "said").read_text()[-5000:]
            if (
                main.poll() is not None
            ):  # killed, or it has told of a cancelled job: the same command goes on
                main, runs = start(tmp_path, cluster), runs + 1
            elif faults and time.monotonic() >= next_fault:
                happened.append(faults.pop())
                fault(happened[-1], chosen, main, cluster)
                next_fault = time.monotonic() + chosen.uniform(5, 20)
            time.sleep(0.2)
        print(f"{runs} runs of the command; faults: {', '.join(happened)}")

    results, local = tmp_path / "results", tmp_path / "local"
    assert set(successes(tmp_path).values()) == {1}
    assert len(successes(tmp_path)) == len(plan.stages) + 1  # and the theory
    last = stage_of(plan, "evaluate", "hd_patch")
    run_until(plan, local, last)
    for stage in plan.stages:
        manifest = artifact.load(results, stage)[1]
        if artifact.exists(local, stage):
            assert manifest["payload"] == artifact.load(local, stage)[1]["payload"], stage
        assert manifest["queue_seconds"] > 0
    assert sum(artifact.exists(local, stage) for stage in plan.stages) == 8
    metrics = pd.read_csv(results / "digits/metrics.csv")
    assert set(metrics.arm) == set(plan.arms)
    assert (tmp_path / "results/digits/report.html").stat().st_size > 100_000


def test_two_ranks_on_slurm_compute_what_one_process_does(cluster, tmp_path, monkeypatch):
    for name in ("Snakefile", "workflow", "profiles", "slurm"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    monkeypatch.chdir(tmp_path)
    plan = load_plan(str(write_suite(tmp_path)))
    stages = [
        stage_of(plan, "sample", "hd_awd_logit"),
        next(stage for stage in plan.stages if stage.startswith("classifier/")),
    ]
    targets = [f"results/stages/{stage}/manifest.json" for stage in stages]
    environment = (
        os.environ
        | cluster.environment
        | {"PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore"}
    )
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--profile",
        "slurm",
        *targets,
        "--set-resources",
        *(f"{rule}:gpus=2" for rule in ("classifier", "teacher", "trajectory", "refine", "sample")),
        "--config",
        "suite=tiny.yaml",
    ]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert said.returncode == 0, said.stdout + said.stderr
    for stage in stages:
        run_until(plan, tmp_path / "local", stage)
    for stage in (
        *stages,
        *(stage_of(plan, kind, "hd_awd_logit") for kind in ("teacher", "trajectory", "refine")),
    ):
        path, manifest = artifact.load(tmp_path / "results", stage)
        assert (
            manifest["ranks"] == 2 and manifest["gpu_seconds"] > 0 and manifest["queue_seconds"] > 0
        )
        if (path / "history.csv").exists():
            ours, local = (
                pd.read_csv(folder / "history.csv").filter(regex="loss$")
                for folder in (path, artifact.folder(tmp_path / "local", stage))
            )
            assert ours.to_numpy() == pytest.approx(local.to_numpy(), rel=1e-3), stage
