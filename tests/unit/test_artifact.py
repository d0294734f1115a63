"""Artifacts: what a manifest says, what is refused, and that a stage is published whole or not."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import resource
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from hdbench import stages
from hdbench.cli import main
from hdbench.core import runtime
from hdbench.core.errors import Divergence, UserError
from hdbench.core.files import MANIFEST, Fingerprint
from hdbench.methods.pretraining import flow_matching
from hdbench.stages import artifact
from hdbench.stages.artifact import Work, folder
from hdbench.stages.loop import CHECKPOINT
from hdbench.stages.run import run_stage
from hdbench.stages.sources import SOURCES
from hdbench.suite.plan import Plan
from hdbench.suite.stage import Stage, config_of
from tests.support.tiny import run_until, stage_of, tiny_plan, write_suite


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Plan, Path]:
    """The teacher and what it needs."""
    path = tmp_path_factory.mktemp("done")
    plan = tiny_plan(path)
    run_until(plan, path, stage_of(plan, "teacher", "td"))
    return plan, path


@pytest.fixture
def copied(done, tmp_path) -> tuple[Plan, Path, Stage]:
    """A copy to break: the plan, the results folder, the teacher's stage."""
    plan, results = done
    shutil.copytree(results / "stages", tmp_path / "stages")
    return plan, tmp_path, plan.stages[stage_of(plan, "teacher", "td")]


def run(plan: Plan, stage: Stage, results: Path, checkpoint_seconds: float = 1000.0) -> None:
    run_stage(stage, results, torch.device("cpu"), checkpoint_seconds)


def test_a_manifest_says_what_the_artifact_is(done):
    plan, results = done
    stage = plan.stages[stage_of(plan, "teacher", "td")]
    path, manifest = artifact.load(results, stage.id)
    assert set(manifest) == {
        "id",
        "kind",
        "version",
        "digest",
        "config",
        "parents",
        "seed",
        "environment",
        "wall_seconds",
        "core_seconds",
        "gpu_seconds",
        "queue_seconds",
        "peak_memory_bytes",
        "ranks",
        "network_evaluations",
        "forward_equivalents",
        "parameters",
        "versions",
        "inputs",
        "sources",
        "parent_manifests",
        "registrations",
        "payload",
    }
    assert manifest["id"] == f"teacher/s0-{manifest['digest']}"
    assert (manifest["kind"], manifest["version"], manifest["seed"]) == ("teacher", 1, 0)
    assert config_of(stage.kind, manifest["config"]) == stage.config
    assert manifest["config"]["training"]["steps"] == plan.suite.teacher.training.steps
    assert manifest["parents"] == {"data": next(iter(plan.stages))}
    assert manifest["environment"].keys() >= {
        "python",
        "torch",
        "numpy",
        "device",
        "machine",
        "processor",
        "commit",
    }
    assert manifest["environment"]["processor"]
    assert manifest["environment"]["torch"] == torch.__version__.split("+")[0]
    assert manifest["wall_seconds"] > 0 and manifest["core_seconds"] > 0
    assert (manifest["gpu_seconds"], manifest["queue_seconds"], manifest["ranks"]) == (0, 0, 1)
    assert 50e6 < manifest["peak_memory_bytes"] < 50e9
    assert manifest["forward_equivalents"] == 3 * 12 * 16  # forward and backward, steps, batch
    assert manifest["parameters"] == sum(
        tensor.numel() for tensor in load_file(path / "weights.safetensors").values()
    )
    assert manifest["payload"] == {
        name: hashlib.sha256((path / name).read_bytes()).hexdigest()
        for name in ("history.csv", "weights.safetensors")
    }
    # no checkpoint is left, nor a work folder or a lock
    assert {file.name for file in path.iterdir()} == {MANIFEST, *manifest["payload"]}
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def break_manifest(path: Path, change) -> None:
    manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    (path / MANIFEST).write_text(json.dumps(change(manifest)), encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "damage", "complaint"),
    [
        (
            "weights.safetensors",
            lambda path: (path / "weights.safetensors").open("r+b").write(b"\xff"),
            "differs from its manifest",
        ),
        (
            "history.csv",
            lambda path: (path / "history.csv").write_text(""),
            "differs from its manifest",
        ),
        (
            "history.csv",
            lambda path: (path / "history.csv").unlink(),
            "named in the manifest but missing",
        ),
        (
            MANIFEST,
            lambda path: break_manifest(path, lambda m: m | {"id": "teacher/s1-0123456789abcdef"}),
            "is of teacher/s1-0123456789abcdef",
        ),
        (MANIFEST, lambda path: (path / MANIFEST).write_text('{"id": '), "not a manifest"),
        (MANIFEST, lambda path: break_manifest(path, list), "not a manifest"),
        (MANIFEST, lambda path: break_manifest(path, lambda m: {"id": m["id"]}), "not a manifest"),
        (
            MANIFEST,
            lambda path: break_manifest(path, lambda m: m | {"parameters": "many"}),
            "not a manifest",
        ),
        (
            MANIFEST,
            lambda path: break_manifest(path, lambda m: m | {"core_seconds": -1}),
            "not a manifest",
        ),
        (
            MANIFEST,
            lambda path: break_manifest(path, lambda m: m | {"environment": None}),
            "not a manifest",
        ),
        (MANIFEST, lambda path: (path / MANIFEST).write_text("[" * 5000), "not a manifest"),
    ],
)
def test_a_broken_artifact_is_refused_by_itself_and_by_what_needs_it(
    copied, file, damage, complaint
):
    plan, results, stage = copied
    path = folder(results, stage.id)
    damage(path)
    sentence = f"{path / file}: {complaint}; delete the folder {path} and run again"
    child = plan.stages[stage_of(plan, "trajectory", "td")]
    for needs_it in (stage, child):
        with pytest.raises(UserError) as error:
            run(plan, needs_it, results)
        assert str(error.value) == sentence
    assert not folder(results, child.id).exists()
    shutil.rmtree(path)
    run(plan, stage, results)  # what the sentence says to do works
    artifact.load(results, stage.id)


def test_a_missing_parent_is_named_with_the_command_that_makes_it(copied, monkeypatch):
    plan, results, stage = copied
    shutil.rmtree(folder(results, stage.id))
    monkeypatch.setattr(runtime, "set_up", lambda threads, device: torch.device(device))
    suite = write_suite(results)
    command = [
        "stage",
        "trajectory",
        "--suite",
        str(suite),
        "--results",
        str(results),
        "--arm",
        "td",
    ]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2
    assert result.output == (
        f"hdbench: {folder(results, stage.id)}: this artifact does not exist yet; make it with "
        f"`hdbench stage teacher --id {stage.id}` or let `snakemake` make everything in order\n"
    )
    advised = [
        "stage",
        "teacher",
        "--id",
        stage.id,
        "--suite",
        str(suite),
        "--results",
        str(results),
    ]
    assert CliRunner().invoke(main, advised).exit_code == 0
    assert CliRunner().invoke(main, command).exit_code == 0


def test_a_finished_stage_is_not_run_again(copied, monkeypatch):
    plan, results, stage = copied
    files = sorted(folder(results, stage.id).iterdir())
    before = [file.stat().st_mtime_ns for file in files]
    monkeypatch.setitem(
        stages.STAGES, "teacher", lambda context: pytest.fail("the stage was run again")
    )
    run(plan, stage, results)
    assert [file.stat().st_mtime_ns for file in files] == before


def test_a_crash_before_the_rename_publishes_nothing_and_is_made_good(done, copied, monkeypatch):
    plan, whole = done
    _, results, stage = copied
    path = folder(results, stage.id)
    shutil.rmtree(path)

    def crash(source, target):
        assert (Path(source) / MANIFEST).is_file()
        raise SystemError("crash")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", crash)
        with pytest.raises(SystemError):
            run(plan, stage, results)
    assert not artifact.exists(results, stage.id) and not path.exists()
    with pytest.raises(UserError, match="does not exist yet"):
        artifact.load(results, stage.id)
    run(plan, stage, results)
    _, manifest = artifact.load(results, stage.id)
    assert manifest["payload"] == artifact.load(whole, stage.id)[1]["payload"]
    assert {file.name for file in path.iterdir()} == {MANIFEST, *manifest["payload"]}
    assert not Work(results, stage).path.exists()


def test_a_folder_without_a_manifest_is_replaced(copied):
    """The workflow engine makes the output's folder before it starts a job."""
    plan, results, stage = copied
    path = folder(results, stage.id)
    (path / MANIFEST).unlink()
    (path / "stray").write_text("of an older run", encoding="utf-8")
    run(plan, stage, results)
    assert {file.name for file in path.iterdir()} == {
        MANIFEST,
        "history.csv",
        "weights.safetensors",
    }
    artifact.load(results, stage.id)


def in_another_process(plan: Plan, stage: Stage, results: Path, monkeypatch, work) -> int:
    """Start the stage in a forked process that does `work`; returns once it is at it."""
    reader, writer = os.pipe()

    def at_work(context):
        os.write(writer, b"at work")
        return work(context)

    child = os.fork()
    if child == 0:
        try:
            monkeypatch.setitem(stages.STAGES, stage.kind, at_work)
            run(plan, stage, results)
        finally:
            os._exit(0)
    os.close(writer)  # so that the next line ends if the child does
    assert os.read(reader, 7) == b"at work"
    os.close(reader)
    return child


def test_a_second_process_waits_for_the_first_and_takes_its_result(copied, monkeypatch, capfd):
    plan, results, stage = copied
    shutil.rmtree(folder(results, stage.id))
    do = stages.STAGES["teacher"]
    child = in_another_process(
        plan, stage, results, monkeypatch, lambda context: time.sleep(0.5) or do(context)
    )
    monkeypatch.setitem(
        stages.STAGES, "teacher", lambda context: pytest.fail("the stage was run twice")
    )
    run(plan, stage, results)
    assert (
        f"{stage.id}: another process is working on this stage; waiting for it\n"
        in capfd.readouterr().err
    )
    artifact.load(results, stage.id)
    os.waitpid(child, 0)
    assert [path.name for path in (results / "stages/teacher").iterdir()] == [
        folder(results, stage.id).name
    ]


def test_a_second_process_takes_over_from_one_that_was_killed(copied, monkeypatch):
    plan, results, stage = copied
    shutil.rmtree(folder(results, stage.id))
    child = in_another_process(plan, stage, results, monkeypatch, lambda context: signal.pause())
    seen = []

    def kill() -> None:
        seen.append(artifact.exists(results, stage.id))
        os.kill(child, signal.SIGKILL)

    timer = threading.Timer(0.5, kill)
    timer.start()
    run(plan, stage, results)
    timer.join()
    os.waitpid(child, 0)
    assert seen == [False]  # while the first process lived, the second did not work
    artifact.load(results, stage.id)


def test_costs_are_those_of_all_runs(tmp_path, monkeypatch):
    """Seconds add up over runs, also where a checkpoint has none; memory is the most of any."""
    plan = tiny_plan(tmp_path)
    stage = plan.stages[stage_of(plan, "teacher", "td")]
    monkeypatch.setenv("SUBMITIT_QUEUE_SECONDS", "30.5")
    monkeypatch.setenv("SUBMITIT_GPUS", "8")
    first = Work(tmp_path, stage).cost()
    assert first["queue_seconds"] == 30.5 and first["gpu_seconds"] == 8 * first["wall_seconds"] > 0
    monkeypatch.setenv("SUBMITIT_QUEUE_SECONDS", "100")
    monkeypatch.delenv("SUBMITIT_GPUS")
    second = Work(tmp_path, stage)
    second.spent.update(first | {"peak_memory_bytes": 1e15})
    cost = second.cost()
    assert cost["queue_seconds"] == 130.5 and cost["gpu_seconds"] == first["gpu_seconds"]
    assert cost["peak_memory_bytes"] == 1e15 and cost["wall_seconds"] > first["wall_seconds"]
    old = Work(tmp_path, stage)
    old.spent.update({"wall_seconds": 50.0, "core_seconds": 40.0})
    assert (
        old.cost().keys() == first.keys()
        and old.cost()["queue_seconds"] == 100
        and old.cost()["wall_seconds"] > 50
    )
    assert (
        old.cost()["peak_memory_bytes"] == 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )


@pytest.mark.parametrize("name", ["SUBMITIT_QUEUE_SECONDS", "SUBMITIT_GPUS"])
@pytest.mark.parametrize("value", ["many", "-1", "nan"])
def test_a_cost_that_is_not_a_number_is_refused_before_any_work(tmp_path, monkeypatch, name, value):
    plan = tiny_plan(tmp_path)
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as error:
        run(plan, plan.stages[next(iter(plan.stages))], tmp_path)
    assert str(error.value) == f"{name} = {value}: must be a number, 0 or more"
    assert not (tmp_path / "stages").exists()


def test_results_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "set_up", lambda threads, device: torch.device(device))
    (tmp_path / "file").write_text("", encoding="utf-8")
    suite, results = write_suite(tmp_path), tmp_path / "file/results"
    result = CliRunner().invoke(
        main, ["stage", "data", "--suite", str(suite), "--results", str(results)]
    )
    assert result.exit_code == 2
    assert result.output == (
        f"hdbench: {results}/stages/data: cannot be written (Not a directory); choose another "
        "--results folder\n"
    )


@pytest.mark.parametrize(
    "damage", [lambda raw: b"", lambda raw: b"not a checkpoint", lambda raw: raw[: len(raw) // 2]]
)
def test_a_broken_checkpoint_is_named(copied, damage, monkeypatch):
    plan, results, stage = copied
    weights = folder(results, stage.id) / "weights.safetensors"
    raw = weights.read_bytes()
    shutil.rmtree(folder(results, stage.id))
    checkpoint = Work(results, stage).path / CHECKPOINT
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(damage(raw))
    with pytest.raises(UserError) as error:
        run(plan, stage, results)
    assert str(error.value).startswith(f"{checkpoint}: not a usable checkpoint (")
    assert str(error.value).endswith("); delete it to start this stage afresh")
    checkpoint.unlink()
    run(plan, stage, results)
    assert weights.read_bytes() == raw


def test_a_divergence_stops_keeps_the_last_good_checkpoint_and_can_go_on(done, copied, monkeypatch):
    """Not a number in step 7, counted from 0: the checkpoint of 7 good steps stays, exact."""
    plan, whole = done
    _, results, stage = copied
    shutil.rmtree(folder(results, stage.id))
    calls, loss_of = [], flow_matching.flow_matching_loss

    def poisoned(*arguments, **options):
        loss, scalars = loss_of(*arguments, **options)
        calls.append(loss)
        if len(calls) != 8:
            return loss, scalars
        return loss * float("nan"), {"loss": loss * float("nan")}

    with monkeypatch.context() as patch:
        patch.setattr(flow_matching, "flow_matching_loss", poisoned)
        with pytest.raises(Divergence) as error:
            run(plan, stage, results, checkpoint_seconds=0.0)
    with (folder(whole, stage.id) / "history.csv").open(encoding="utf-8") as file:
        losses = [float(row["student/loss"]) for row in csv.DictReader(file)]
    assert str(error.value).startswith("diverged at step 7 of 12, update student: loss nan, ")
    assert str(error.value).endswith("; last losses: " + json.dumps({"student/loss": losses[2:7]}))
    assert not artifact.exists(results, stage.id)
    checkpoint = load_file(Work(results, stage).path / CHECKPOINT)
    assert checkpoint["history/000/student/loss"].tolist() == losses[:7]
    assert all(tensor.isfinite().all() for tensor in checkpoint.values())
    run(plan, stage, results)
    assert (
        artifact.load(results, stage.id)[1]["payload"]
        == artifact.load(whole, stage.id)[1]["payload"]
    )


def test_a_huge_learning_rate_ends_with_one_sentence_and_code_1(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "set_up", lambda threads, device: torch.device(device))
    suite = write_suite(
        tmp_path, {"teacher.training.learning_rate": 1.0e6, "teacher.training.schedule": "constant"}
    )
    options = ["--suite", str(suite), "--results", str(tmp_path), "--checkpoint-seconds", "0"]
    assert CliRunner().invoke(main, ["stage", "data", *options]).exit_code == 0
    result = CliRunner().invoke(main, ["stage", "teacher", *options])
    assert result.exit_code == 1
    last = result.output.splitlines()[-1]
    assert (
        last.startswith("hdbench: diverged at step ")
        and '; last losses: {"student/loss": [' in last
    )
    assert "Traceback" not in result.output
    (work,) = (tmp_path / "stages/teacher").glob(".*.partial")
    assert {path.name for path in work.iterdir()} == {CHECKPOINT, SOURCES}
    assert all(tensor.isfinite().all() for tensor in load_file(work / CHECKPOINT).values())


def test_a_users_path_that_cannot_be_looked_at_is_one_sentence():
    with pytest.raises(UserError, match=r"^x{300}: cannot be read \(File name too long\)$"):
        Fingerprint("x" * 300)
