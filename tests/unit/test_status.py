"""What is done, running, failed, interrupted and waiting, from files alone; the time left."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from hdbench.cli import main
from hdbench.stages import artifact
from hdbench.stages.loop import CHECKPOINT
from hdbench.suite.load import load_plan
from hdbench.tools.status import report as status
from hdbench.tools.status import states as of_stages
from tests.support.tiny import REPOSITORY, stage_of, tiny_plan, write_suite
from tests.unit.test_tables import publish


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """A Snakemake log in the folder where the tests are started is none of theirs."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def plan(tmp_path):
    return tiny_plan(tmp_path)


def begin(
    plan, results: Path, stage_id: str, step: int | None = None, spent: float = 0.0
) -> artifact.Work:
    """What a stage leaves that ended without a result, with a checkpoint where a step is given."""
    work = artifact.Work(results, plan.stage(stage_id))
    with pytest.raises(RuntimeError), work.locked():
        raise RuntimeError
    if step is not None:
        header = {"step": str(step), "spent": json.dumps({"wall_seconds": spent})}
        save_file({"x": np.zeros(1)}, work.path / CHECKPOINT, header)
    return work


def snakemake_says(results: Path, text: str, age: float = -10.0) -> Path:
    """A log beside the results, written so many seconds ago."""
    log = results.parent / ".snakemake/log/2026-01-01T000000.1.snakemake.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(text)
    os.utime(log, (time.time() - age,) * 2)
    return log


def failure(stage_id: str, how: str) -> str:
    return (
        f"Command 'set -euo pipefail;  python -m hdbench stage x --id {stage_id} --threads 1' "
        f"{how}.\n"
    )


def states(plan, results) -> dict[str, str]:
    return status.look(plan, results).set_index("stage").state.to_dict()


def test_a_stage_is_in_one_of_five_states(plan, tmp_path):
    results = tmp_path / "results"
    done, running, failed, interrupted = (
        stage_of(plan, "refine", arm) for arm in ("hd", "hd_patch", "dmd", "dmd_total")
    )
    publish(results, plan, done)
    begin(plan, results, failed, step=3), begin(plan, results, interrupted)
    snakemake_says(results, failure(failed, "returned non-zero exit status 1"))
    with artifact.Work(results, plan.stage(running)).locked() as work:
        save_file({"x": np.zeros(1)}, work.path / CHECKPOINT, {"step": "5", "spent": "{}"})
        frame = status.look(plan, results).set_index("stage")
        found = frame.state.to_dict()
        assert {found.pop(stage) for stage in (done,)} == {"done"} and found.pop(
            running
        ) == "running"
        assert (found.pop(failed), found.pop(interrupted)) == ("failed", "interrupted") and set(
            found.values()
        ) == {"waiting"}
        assert (frame.step[running], frame.steps[running], frame.step[failed]) == (5, 8, 3)
        text = status.report(plan, status.with_time_left(status.look(plan, results)))
    assert f"\n1 of {len(plan.stages)} stages done, 1 running, 1 failed, 1 interrupted; " in text
    assert (
        "hd_patch" in text
        and "5 of 8" in text
        and "exit code 1 (diverged" in " ".join(text.split())
    )
    assert max(map(len, text.splitlines())) <= 118
    assert states(plan, results)[running] == "interrupted"


@pytest.mark.parametrize(
    ("how", "age", "state", "why"),
    [
        (
            "returned non-zero exit status 1",
            -10,
            "failed",
            "exit code 1 (diverged or another error), says ",
        ),
        (
            "returned non-zero exit status 137",
            -10,
            "failed",
            "exit code 137 (out of memory or killed), says ",
        ),
        ("returned non-zero exit status 99", -10, "failed", "exit code 99, says "),
        (
            "returned non-zero exit status 130",
            -10,
            "interrupted",
            "exit code 130 (stopped by a signal), says ",
        ),
        ("died with <Signals.SIGKILL: 9>", -10, "interrupted", "Signals.SIGKILL: 9, says "),
        ("returned non-zero exit status 1", 60, "interrupted", "no log of Snakemake says why"),
    ],
)
def test_why_a_stage_ended_is_what_a_log_says_that_is_younger_than_its_begin(
    plan, tmp_path, how, age, state, why
):
    results, (mine, other) = (
        tmp_path / "results",
        (stage_of(plan, "refine", arm) for arm in ("hd", "dmd")),
    )
    begin(plan, results, mine), begin(plan, results, other)
    log = snakemake_says(results, failure(mine, how), age)
    found = status.look(plan, results).set_index("stage").loc[mine]
    assert found.state == state and why in found.why and (log.name in found.why) == (age < 0)
    assert status.look(plan, results).set_index("stage").state[other] == "interrupted"


def test_a_manifest_that_cannot_be_read_is_a_failure_that_says_what_to_do(plan, tmp_path):
    stage = stage_of(plan, "refine", "hd")
    path = artifact.folder(tmp_path, stage)
    path.mkdir(parents=True)
    (path / "manifest.json").write_text("{")
    found = status.look(plan, tmp_path).set_index("stage").loc[stage]
    assert found.state == "failed" and f"delete the folder {path}" in found.why


def test_to_look_takes_no_lock_and_writes_nothing(plan, tmp_path, capsys):
    results, stage = tmp_path / "results", stage_of(plan, "refine", "hd")
    work = begin(plan, results, stage, step=2)
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*")}
    assert not work.claimed() and states(plan, results)[stage] == "interrupted"
    assert {path: path.stat().st_mtime_ns for path in results.rglob("*")} == before
    with work.locked():
        assert work.claimed() and work.claimed()
    assert "another process" not in capsys.readouterr().err and not work.claimed()


def test_time_left_is_the_median_pace_of_the_kind_times_the_work_left(plan, tmp_path):
    results = tmp_path / "results"
    work = {stage.id: of_stages.work_of(plan, stage) for stage in plan.stages.values()}
    refine = [stage for stage, known in plan.stages.items() if known.kind == "refine"]
    for stage, pace in zip(refine[:3], (1.0, 2.0, 30.0), strict=True):
        publish(results, plan, stage, wall_seconds=pace * work[stage])
    begin(plan, results, refine[3], step=2, spent=1e6)
    trajectory = stage_of(plan, "trajectory", "td")
    with artifact.Work(results, plan.stage(trajectory)).locked() as running:
        save_file(
            {"x": np.zeros(1)},
            running.path / CHECKPOINT,
            {"step": "4", "spent": json.dumps({"wall_seconds": 8.0})},
        )
        frame = status.with_time_left(status.look(plan, results), start_up=5.0)
    left = frame.set_index("stage").left
    assert list(left[refine[:3]]) == [0, 0, 0]
    assert left[refine[4]] == pytest.approx(2.0 * work[refine[4]] + 5)
    steps = plan.stage(refine[3]).training.steps
    # at the pace of the finished; at its own pace, with nothing to start
    assert left[refine[3]] == pytest.approx(2.0 * work[refine[3]] * (1 - 2 / steps) + 5)
    assert left[trajectory] == pytest.approx(8.0 / 4 * (10 - 4))
    other = next(
        stage for stage in plan.stages if stage.startswith("trajectory") and stage != trajectory
    )
    # none has finished
    assert left[other] == pytest.approx(8.0 / (work[trajectory] * 4 / 10) * work[other] + 5)
    assert math.isnan(left[stage_of(plan, "teacher", "hd")])
    assert "; at least " in status.summary(frame, 3) and "on 3 stages at a time" in status.summary(
        frame, 3
    )
    known = frame[frame.left.notna()]
    for cores, slots in ((None, 1), (4, 4)):
        assert (
            f"; about {status.duration(known.left.sum() / slots)} left on {slots} stage"
            in status.summary(known, cores)
        )


def test_real_images_say_nothing_of_the_time_that_sampling_takes(plan, tmp_path):
    publish(tmp_path, plan, stage_of(plan, "sample", "real_train"), wall_seconds=0.01)
    left = status.with_time_left(status.look(plan, tmp_path)).set_index("stage").left
    assert (
        math.isnan(left[stage_of(plan, "sample", "hd")])
        and left[stage_of(plan, "sample", "real_test")] == 0.01
    )


def test_work_is_forward_equivalents_and_sampling_steps(plan):
    refine = plan.stage(stage_of(plan, "refine", "hd_patch"))
    teacher = plan.stage(stage_of(plan, "teacher", "hd"))
    assert of_stages.work_of(plan, teacher) == 12 * 16 * 3
    assert of_stages.work_of(plan, refine) > of_stages.work_of(
        plan, plan.stage(stage_of(plan, "refine", "hd"))
    )
    assert {of_stages.work_of(plan, s) for s in plan.stages.values() if s.kind == "sample"} == {
        64,
        2 * 64,
        4 * 64,
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (89.4, "89 s"),
        (90, "2 min"),
        (2100, "35 min"),
        (5300, "88 min"),
        (5400, "1 h 30 min"),
        (7500, "2 h 05 min"),
        (math.nan, "-"),
    ],
)
def test_durations(seconds, text):
    assert status.duration(seconds) == text


def test_the_command_watches_until_all_is_done_or_it_is_stopped(tmp_path, monkeypatch):
    suite = write_suite(tmp_path)
    plan, results = load_plan(str(suite)), tmp_path / "r"
    command = ["status", "--suite", str(suite), "--results", str(results), "--watch", "7"]
    missing = CliRunner().invoke(main, command[:-2])
    assert missing.exit_code == 0 and f"There is no folder {results} yet" in missing.output
    assert "time left unknown" in missing.output
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 2:
            raise KeyboardInterrupt
        for stage in list(plan.stages)[:1]:
            publish(results, plan, stage)

    monkeypatch.setattr(status.time, "sleep", sleep)
    stopped = CliRunner().invoke(main, command)
    assert stopped.exit_code == 130 and slept == [7, 7] and "Traceback" not in stopped.output
    assert (
        f"0 of {len(plan.stages)} stages done" in stopped.output
        and f"1 of {len(plan.stages)} stages" in stopped.output
    )
    for stage in list(plan.stages)[1:]:
        publish(results, plan, stage)
    whole = CliRunner().invoke(main, command)
    assert whole.exit_code == 0 and slept == [7, 7]
    assert (
        whole.output.splitlines()[-1]
        == f"{len(plan.stages)} of {len(plan.stages)} stages done, 0 running, 0 failed"
    )


def test_hundreds_of_stages_take_less_than_two_seconds(tmp_path):
    plan = load_plan(str(REPOSITORY / "workflow/suites/textured_digits.yaml"))
    for stage in list(plan.stages)[::2]:
        publish(tmp_path, plan, stage)
    begun = time.process_time()
    status.report(plan, status.with_time_left(status.look(plan, tmp_path)))
    assert len(plan.stages) > 200 and time.process_time() - begun < 2
