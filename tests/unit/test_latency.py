"""Latencies side by side: what is measured, how it reaches the metrics, table and figure."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from hdbench.core.errors import UserError
from hdbench.core.pixels import load_images
from hdbench.metrics.records import COLUMNS
from hdbench.report.columns import latencies as latency_columns
from hdbench.report.figures.efficiency import AXES, GUIDANCE, ONE, REUSE, SOLVERS, family
from hdbench.report.latency import (
    FULL,
    SINGLE,
    latencies,
    latency_file,
    read_latencies,
    sampler_key,
)
from hdbench.report.numbers import Entry, Numbers
from hdbench.stages import artifact
from hdbench.tools.latency import measure
from tests.support.tiny import run_until, tiny_plan
from tests.unit.test_figures import drawn, points
from tests.unit.test_tables import synthetic

TRAINING_FREE = {
    "arms.teacher_heun": {
        "trajectory": None, "refine": None, "steps": [2, 3], "sampling": {"solver": "heun"},
    },
    "arms.teacher_cached": {
        "trajectory": None, "refine": None, "steps": [4],
        "sampling": {"reuse": {"name": "deepcache", "first": 2, "last": 2, "every": 2}},
    },
    "arms.guided": {
        "trajectory": {"objective": {"name": "guidance_distillation", "trajectory_steps": 2}},
        "refine": None, "steps": [2, 4],
    },
    "evaluation.batch": 16,
    "seeds": [0, 1],
}  # fmt: skip


def test_a_sampler_is_measured_once_for_all_rows_that_have_it(tmp_path):
    plan = tiny_plan(tmp_path, TRAINING_FREE)
    keys = {(row.arm, row.seed, row.steps): sampler_key(plan, row) for row in plan.rows if row.nfe}
    assert keys["teacher", 0, 2] == keys["teacher", 1, 2] != keys["teacher", 0, 4]
    assert keys["hd", 0, 1] == keys["dmd", 1, 1] == keys["td", 0, 1]
    others = {keys[name, 0, 4] for name in ("teacher", "teacher_cached", "guided")}
    assert len(others) == 3 and keys["td", 0, 2] != keys["cd", 0, 2]
    path = measure(plan, tmp_path, torch.device("cpu"), rounds=1)
    measured = read_latencies(path)
    assert path == latency_file(plan, tmp_path)
    assert measured["milliseconds"].keys() == set(keys.values())
    assert measured["provenance"]["full_batch"] == 16 and measured["provenance"]["processor"]
    for row in plan.rows:
        given = latencies(measured, plan, row) if row.nfe else ()
        found = {number["metric"]: number["value"] for number in given}
        assert found.keys() == ({SINGLE, FULL} if row.nfe else set())
        assert all(value > 0 for value in found.values())


def with_latencies(plan, frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with FLOPs and latencies by a rule: multiples of nfe."""
    rows = frame[(frame.metric == "fd_test_64") & frame.seed.notna()]
    rows = rows.assign(se=np.nan, n=pd.NA, protocol="cost")
    factors = {"sampling_flops": 3e6, SINGLE: 10.0, FULL: 1.0}
    costs = [rows.assign(metric=name, value=f * rows.nfe) for name, f in factors.items()]
    frame = frame[~frame.metric.isin(factors)]
    return pd.concat([frame.astype(COLUMNS), *(cost.astype(COLUMNS) for cost in costs)])


def test_the_figure_stands_where_the_latencies_say_and_says_what_is_missing(tmp_path):
    plan = tiny_plan(tmp_path, TRAINING_FREE)
    frame = with_latencies(plan, synthetic(plan))
    figure, note = drawn("efficiency", plan, frame[~frame.metric.isin([SINGLE, FULL])])
    assert "Latencies are not measured" in note and len(figure.axes) == 1
    figure, note = drawn("efficiency", plan, frame)
    assert "not measured" not in note and "see environments.json" in note
    numbers = Numbers(plan, frame, tmp_path)
    entries = [e for arm in plan.arms if not plan.arms[arm].real for e in numbers.entries(arm)]
    for axis, metric in zip(figure.axes, AXES, strict=True):
        expected = {
            (AXES[metric][1] * numbers(e, metric).value, numbers(e, "fd_test_64").value)
            for e in entries
        }
        found = np.array(sorted(place for place, _ in points(axis)))
        np.testing.assert_allclose(found, np.array(sorted(expected)))
    of = lambda arm, steps: family(plan.arms[arm], steps)
    assert of("teacher", 2) == SOLVERS["euler"] and of("teacher_heun", 2) == SOLVERS["heun"]
    assert of("teacher_cached", 4) == REUSE and of("guided", 2) == GUIDANCE
    assert of("td", 1) == of("hd", 1) == ONE != of("td", 2)


def test_the_cost_table_has_them_where_they_are_measured(tmp_path):
    plan = tiny_plan(tmp_path, TRAINING_FREE)
    assert not latency_columns(Numbers(plan, synthetic(plan), tmp_path))
    single, full = latency_columns(Numbers(plan, with_latencies(plan, synthetic(plan)), tmp_path))
    entry = Entry("teacher", 4, 8)
    assert (single.cell(entry).value, full.cell(entry).value) == (80.0, 8.0)
    assert np.isnan(single.cell(entry).half_width)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{}",
        '{"provenance": {"a": 1}, "milliseconds": {"k": {"x": -1}}}',
        '{"provenance": 3, "milliseconds": {}}',
    ],
)
def test_another_file_is_refused_in_one_sentence(tmp_path, text):
    path = tmp_path / "latency.json"
    assert read_latencies(path) is None
    path.write_text(text)
    with pytest.raises(UserError, match="not a file of `hdbench latency`"):
        read_latencies(path)
    path.write_text(json.dumps({"provenance": {"a": 1}, "milliseconds": {}}))
    assert read_latencies(path)


def test_the_teacher_is_sampled_by_the_arms_own_sampling(tmp_path):
    """The same noises through Euler, Heun and reuse: other images, of the same labels."""
    plan = tiny_plan(tmp_path, TRAINING_FREE)
    images = {}
    for arm, steps in (("teacher", 4), ("teacher_heun", 3), ("teacher_cached", 4)):
        rows = (row for row in plan.rows if (row.arm, row.seed, row.steps) == (arm, 0, steps))
        stage = next(rows).stages["sample"]
        run_until(plan, tmp_path, stage)
        images[arm] = load_images(artifact.load(tmp_path, stage)[0] / "samples.npz")
    teacher, heun, cached = images.values()
    assert torch.equal(teacher[1], heun[1]) and torch.equal(teacher[1], cached[1])
    assert not torch.equal(teacher[0], heun[0])
    nfe = {(row.arm, row.steps): row.nfe for row in plan.rows}
    assert nfe["teacher", 4] == 8 and nfe["teacher_heun", 3] == 10 and nfe["teacher_cached", 4] == 8
    assert nfe["guided", 4] == 4
