"""What is seen of a training before its end: the steps up to its checkpoint, as lines of blocks."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

from hdbench.cli import main
from hdbench.core.errors import Interrupted
from hdbench.stages import artifact, loop
from hdbench.stages.run import run_stage
from hdbench.suite.load import load_plan
from hdbench.tools import tensorboard
from hdbench.tools.status.history import history_of
from hdbench.tools.status.lines import follow
from hdbench.tools.status.sparklines import BLOCKS, medians_of, sparkline
from tests.support.tiny import run_until, stage_of, tiny_plan, write_suite
from tests.unit.test_tables import publish

STOPPED_AT = 5


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Suite, results and id of a teacher that a signal has stopped after some steps."""
    folder = tmp_path_factory.mktemp("watching")
    suite, results = write_suite(folder), folder / "results"
    plan = load_plan(str(suite))
    teacher = stage_of(plan, "teacher", "hd")
    for parent in plan.stage(teacher).parents.values():
        run_until(plan, results, parent)

    @contextmanager
    def after_some_steps():
        steps = iter(range(1, 1000))
        yield lambda: next(steps) == STOPPED_AT

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(loop, "interruptible", after_some_steps)
        run_stage(plan.stage(teacher), results, torch.device("cpu"), 1000.0)
    return suite, results, teacher


def test_the_history_up_to_a_checkpoint_is_the_beginning_of_the_finished_one(stopped, tmp_path):
    suite, results, teacher = stopped
    results = shutil.copytree(results, tmp_path / "results")
    stage = load_plan(str(suite)).stage(teacher)
    before = history_of(results, stage)
    assert not (artifact.folder(results, teacher) / "manifest.json").exists()
    assert list(before.index) == list(range(1, STOPPED_AT + 1))
    losses = history_of(results, stage, "/loss")
    assert 0 < len(losses.columns) < len(before.columns)
    run_stage(stage, results, torch.device("cpu"), 1000.0)
    after = history_of(results, stage)
    assert len(after) == stage.training.steps > STOPPED_AT
    pd.testing.assert_frame_equal(before, after.head(STOPPED_AT), check_exact=True)


def test_there_is_no_history_of_a_stage_that_has_not_begun(stopped, tmp_path):
    suite, _, teacher = stopped
    assert history_of(tmp_path, load_plan(str(suite)).stage(teacher)).empty


@pytest.mark.parametrize(
    ("values", "blocks"),
    [
        ([math.e**k for k in range(8)], BLOCKS),  # positive: equal steps of the logarithm
        (list(range(-7, 1)), BLOCKS),
        (list(range(0, -8, -1)), BLOCKS[::-1]),
        ([2.0] * 5, BLOCKS[4] * 5),
        ([3.0], BLOCKS[4]),
        ([-1.0, 1e9, -1.0, 1.0, 2.0, 1.0], BLOCKS[0] + BLOCKS[-1]),  # one outlier moves no median
    ],
)
def test_a_sparkline_is_the_heights_of_medians(values, blocks):
    width = 2 if len(values) == 6 else 32
    assert sparkline(np.array(values), width) == blocks


def test_medians_are_of_all_values_in_groups_of_nearly_equal_size():
    values = np.arange(1000.0)
    medians = medians_of(values, 32)
    assert len(medians) == 32 and (np.diff(medians) > 0).all()
    assert np.ptp(np.diff(medians)) <= 1 and (medians[0], medians[-1]) == (15.5, 984)
    assert list(medians_of(values[:3], 32)) == [0, 1, 2]


def test_status_shows_the_losses_of_a_stage_that_was_stopped(stopped, tmp_path):
    suite, results, teacher = stopped
    words = ["status", "--suite", str(suite), "--results"]
    plan = load_plan(str(suite))
    losses = history_of(results, plan.stage(teacher), "/loss")
    output = CliRunner().invoke(main, [*words, str(results)]).output
    shown = [line for line in output.splitlines() if set(line) & set(BLOCKS)]
    for name, line in zip(losses, shown, strict=True):
        values = losses[name].to_numpy()
        assert name.removesuffix("/loss") in line and f" {sparkline(values)} " in line
        assert line.rstrip().endswith(f"{values[0]:.3g} to {values[-1]:.3g}") and len(line) <= 118
    assert "loss of" in output
    assert "loss of" not in CliRunner().invoke(main, [*words, str(tmp_path)]).output


def scalars(folder: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """By run and name the steps and values that TensorBoard itself reads below the folder."""
    events = {}
    for run in {path.parent for path in folder.rglob("events.out.tfevents.*")}:
        reader = EventAccumulator(str(run), {SCALARS: 0}).Reload()
        events[run.relative_to(folder).as_posix()] = {
            name: [(event.step, event.value) for event in reader.Scalars(name)]
            for name in reader.Tags()[SCALARS]
        }
    return events


def test_tensorboard_reads_every_step_once_through_a_stop_and_a_second_command(stopped, tmp_path):
    suite, results, teacher = stopped
    results, out = shutil.copytree(results, tmp_path / "results"), tmp_path / "board"
    stage = load_plan(str(suite)).stage(teacher)
    words = ["tensorboard", *("--suite", suite, "--results", results, "--out", out)]
    for steps in (STOPPED_AT, STOPPED_AT, stage.training.steps):
        if steps > STOPPED_AT:
            run_stage(stage, results, torch.device("cpu"), 1000.0)
        result = CliRunner().invoke(main, list(map(str, words)))
        assert result.exit_code == 0, result.output
        name, by_name = next((n, r) for n, r in scalars(out).items() if n.startswith("teacher/"))
        assert name.endswith(f".{teacher.partition('/')[2]}")
        history = history_of(results, stage)
        assert set(by_name) == set(history.columns)
        for scalar, events in by_name.items():
            assert [step for step, _ in events] == list(range(1, steps + 1))
            values = np.array([value for _, value in events], np.float32)
            np.testing.assert_array_equal(values, history[scalar].to_numpy(np.float32))


def test_without_a_trained_step_tensorboard_has_nothing_to_show(stopped, tmp_path):
    words = ["tensorboard", "--suite", str(stopped[0]), "--results", str(tmp_path / "none")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2 and f"no stage of {stopped[0]} has trained" in result.output


def test_events_follow_a_stage_and_its_second_beginning(stopped, tmp_path, monkeypatch):
    suite, results, teacher = stopped
    plan = load_plan(str(suite))
    lengths = iter([2, 4, 4, 1, 3])
    full = history_of(results, plan.stage(teacher))
    monkeypatch.setattr(tensorboard, "history_of", lambda *_: full.head(next(lengths)))
    run = tensorboard.Run(tmp_path / "run")
    for added, steps in ((2, 2), (2, 4), (0, 4), (1, 1), (2, 3)):
        assert run.update(results, plan.stage(teacher)) == added
        for events in scalars(tmp_path)["run"].values():
            assert [step for step, _ in events] == list(range(1, steps + 1))
    run.close()


def test_a_run_is_a_line_a_finished_stage_also_of_those_that_end_with_it(tmp_path):
    plan, results, lines = tiny_plan(tmp_path), tmp_path / "results", []
    stages = list(plan.stages)
    publish(results, plan, stages[0])

    def show(line: str) -> None:
        lines.append(line)
        if len(lines) < 4:  # the next stage ends while this line is shown
            publish(results, plan, stages[len(lines)], wall_seconds=60.0 * len(lines))

    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as process:
        process.wait()
        assert follow(plan, results, process, show, every=0) == 3
    total = len(stages)
    assert lines[0] == f"tiny: 1 of {total} stages are done"
    for place, (line, took) in enumerate(
        zip(lines[1:], ("60 s", "2 min", "3 min"), strict=True), 1
    ):
        assert line.startswith(f"[{place + 1:2}/{total}] {stages[place].rpartition('-')[0]}")
        assert f" {took}  " in line
