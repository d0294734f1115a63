"""A stage that was killed, twice and anywhere, ends with the same bytes as one that was not."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from hdbench.stages import artifact
from hdbench.stages.loop import CHECKPOINT
from hdbench.stages.run import run_stage
from hdbench.stages.trainer import Trainer
from hdbench.suite.plan import Plan
from tests.support.tiny import REPOSITORY, run_until, stage_of, tiny_plan, write_suite

STEPS = 60
TRAINED = {
    "classifier": ("classifier", "hd"),
    "teacher": ("teacher", "hd"),
    "meanflow": ("trajectory", "td"),
    "consistency": ("trajectory", "cd"),
    "dmd": ("refine", "hd"),
    "dmd_awd_logit": ("refine", "hd_awd_logit"),
}
LENGTH = {
    "classifier.training.steps": STEPS,
    "teacher.training.steps": STEPS,
    "base.trajectory.steps": STEPS,
    "base.refine.steps": STEPS,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Plan, Path]:
    """Every trained stage, made without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    plan = tiny_plan(folder, LENGTH)
    for name in TRAINED:
        run_until(plan, folder, find(plan, name))
    return plan, folder


def find(plan: Plan, name: str) -> str:
    kind, arm = TRAINED[name]
    if kind == "classifier":
        return next(stage for stage in plan.stages if stage.startswith("classifier/"))
    return stage_of(plan, kind, arm)


def copy_parents(plan: Plan, stage_id: str, source: Path, target: Path) -> None:
    for parent in plan.stages[stage_id].parents.values():
        shutil.copytree(
            artifact.folder(source, parent), artifact.folder(target, parent), dirs_exist_ok=True
        )


def checkpoint_step(plan: Plan, stage_id: str, results: Path) -> int:
    """Steps done according to the checkpoint in the work folder; 0 where there is none."""
    path = artifact.Work(results, plan.stages[stage_id]).path / CHECKPOINT
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        return int(file.metadata()["step"])


def wait_for_step(
    step: int, plan: Plan, stage_id: str, results: Path, ended: Callable[[], object]
) -> None:
    """Return when a checkpoint of that step or a later one is there; fail if the run ends first."""
    start = time.monotonic()
    while checkpoint_step(plan, stage_id, results) < step:
        assert not ended(), f"the run ended before step {step}"
        assert time.monotonic() - start < 300, f"no checkpoint of step {step} came"
        time.sleep(0.002)


def killed_after(step: int, plan: Plan, stage_id: str, results: Path) -> None:
    """Run the stage in a forked process that saves every step, and kill it once this one is."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run_stage(plan.stages[stage_id], results, torch.device("cpu"), 0.0)
            code = 0
        finally:
            os._exit(code)
    wait_for_step(step, plan, stage_id, results, lambda: os.waitpid(child, os.WNOHANG)[0])
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (
        "the run ended before it was killed"
    )


def finish(plan: Plan, stage_id: str, results: Path, monkeypatch) -> int:
    """Run the stage to its end; the number of steps that this took."""
    taken = []
    train_step = Trainer.train_step
    with monkeypatch.context() as patch:
        patch.setattr(
            Trainer, "train_step", lambda self: taken.append(self.step) or train_step(self)
        )
        run_stage(plan.stages[stage_id], results, torch.device("cpu"), 1000.0)
    return len(taken)


def assert_same_bytes(stage_id: str, results: Path, other: Path) -> None:
    for name in ("weights.safetensors", "history.csv"):
        a, b = artifact.folder(results, stage_id) / name, artifact.folder(other, stage_id) / name
        assert a.read_bytes() == b.read_bytes(), name


@pytest.mark.parametrize("name", TRAINED)
def test_killed_twice_and_resumed_is_the_same_to_the_bit(name, whole, tmp_path, monkeypatch):
    plan, results = whole
    stage_id = find(plan, name)
    copy_parents(plan, stage_id, results, tmp_path)
    first, second = sorted(random.SystemRandom().sample(range(2, STEPS // 2), 2))
    killed_after(first, plan, stage_id, tmp_path)
    at_first = checkpoint_step(plan, stage_id, tmp_path)
    assert first <= at_first < STEPS
    assert not artifact.exists(tmp_path, stage_id)
    killed_after(max(second, at_first + 1), plan, stage_id, tmp_path)
    at_second = checkpoint_step(plan, stage_id, tmp_path)
    assert at_first < at_second < STEPS
    assert finish(plan, stage_id, tmp_path, monkeypatch) == STEPS - at_second
    assert_same_bytes(stage_id, results, tmp_path)


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        ("meanflow", {"trajectory": {"stops": [0.3, 0.55, 1.0]}, "refine": None}),
        ("dmd_awd_logit",
         {"refine": {"objective": {"discriminator": "awd_logit"}, "stops": [0.4, 1.0]}}),
    ],
)  # fmt: skip
def test_a_training_in_several_stages_is_one_without_a_stop_to_the_bit(
    name, cut, whole, tmp_path, monkeypatch
):
    plan, results = whole
    cut_plan = tiny_plan(tmp_path, LENGTH | {"arms.cut": cut})
    kind, _ = TRAINED[name]
    stages = [stage_of(cut_plan, kind, "cut")]
    while begun := cut_plan.stages[stages[0]].parents.get("begun"):
        stages.insert(0, begun)
    at_once = find(plan, name)
    stops = cut[kind]["stops"]
    assert len({*stages, at_once}) == 1 + len(stops)
    copy_parents(plan, at_once, results, tmp_path)
    run_until(cut_plan, tmp_path, stages[-2])
    file = artifact.folder(tmp_path, stages[-2]) / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"core_seconds": 1e6}))
    begun = round(stops[-2] * STEPS)
    killed_after(begun + 2, cut_plan, stages[-1], tmp_path)
    assert finish(cut_plan, stages[-1], tmp_path, monkeypatch) <= STEPS - begun - 2
    for file in ("weights.safetensors", "history.csv"):
        whole_bytes = (artifact.folder(results, at_once) / file).read_bytes()
        assert (artifact.folder(tmp_path, stages[-1]) / file).read_bytes() == whole_bytes, file
    folders, manifests = zip(*(artifact.load(tmp_path, stage) for stage in stages), strict=True)
    assert [(folder / CHECKPOINT).exists() for folder in folders] == [True] * len(stages[1:]) + [
        False
    ]
    assert manifests[-1]["core_seconds"] < 1e6  # its own
    costs = [manifest["forward_equivalents"] for manifest in manifests]
    of_whole = artifact.load(results, at_once)[1]["forward_equivalents"]
    assert sum(costs) == pytest.approx(of_whole)
    assert costs[0] == pytest.approx(stops[0] * of_whole)


def test_the_command_resumes_after_kill_9_and_after_ctrl_c(whole, tmp_path, monkeypatch):
    plan, results = whole
    stage_id = find(plan, "dmd_awd_logit")
    copy_parents(plan, stage_id, results, tmp_path)
    suite = write_suite(tmp_path, LENGTH)
    command = [sys.executable, "-m", "hdbench", "stage", "refine", "--arm", "hd_awd_logit"]
    command += ["--suite", str(suite), "--results", str(tmp_path), "--checkpoint-seconds", "0"]

    def start() -> subprocess.Popen:
        return subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)

    killed = start()
    wait_for_step(2, plan, stage_id, tmp_path, killed.poll)
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    at_kill = checkpoint_step(plan, stage_id, tmp_path)
    assert 2 <= at_kill < STEPS - 5

    interrupted = start()
    wait_for_step(at_kill + 2, plan, stage_id, tmp_path, interrupted.poll)
    interrupted.send_signal(signal.SIGINT)
    said = interrupted.communicate()[1]
    at_interrupt = checkpoint_step(plan, stage_id, tmp_path)
    assert interrupted.returncode == 130
    label = "refine dmd-awd_logit-meanflow-s0 [hd_awd_logit]"
    assert said.splitlines()[-1] == (
        f"hdbench: {label}: stopped at step {at_interrupt} of {STEPS}; the same command goes "
        "on from there"
    )
    assert "Traceback" not in said
    assert at_kill < at_interrupt < STEPS
    assert finish(plan, stage_id, tmp_path, monkeypatch) == STEPS - at_interrupt
    assert_same_bytes(stage_id, results, tmp_path)


def test_checkpoints_change_nothing(whole, tmp_path):
    """A run that saves after every step ends with the bytes of one that saves only at its end."""
    plan, results = whole
    stage_id = find(plan, "dmd")
    copy_parents(plan, stage_id, results, tmp_path)
    run_stage(plan.stages[stage_id], tmp_path, torch.device("cpu"), 0.0)
    assert_same_bytes(stage_id, results, tmp_path)


def test_the_cost_of_a_resumed_stage_is_that_of_all_its_runs(whole, tmp_path, monkeypatch):
    plan, results = whole
    stage_id = find(plan, "teacher")
    copy_parents(plan, stage_id, results, tmp_path)
    killed_after(STEPS // 2, plan, stage_id, tmp_path)
    with safe_open(artifact.Work(tmp_path, plan.stages[stage_id]).path / CHECKPOINT, "pt") as file:
        spent = json.loads(file.metadata()["spent"])
    begun = time.perf_counter()
    finish(plan, stage_id, tmp_path, monkeypatch)
    second = time.perf_counter() - begun
    manifest = artifact.load(tmp_path, stage_id)[1]
    assert spent["wall_seconds"] < manifest["wall_seconds"] <= spent["wall_seconds"] + second + 0.01
    assert spent["core_seconds"] < manifest["core_seconds"]
