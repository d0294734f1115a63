"""`hdbench status` says of each expected number whether a run has come to it."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from hdbench.cli import main
from hdbench.core.errors import UserError
from hdbench.suite.load import load_plan
from hdbench.suite.reading import find_suite, read_suite
from hdbench.tools.status import expected
from tests.support.tiny import stage_of, tiny_plan, write_suite
from tests.unit.test_tables import publish

SOURCE = {"source": "Somebody, Table 1"}
TEACHER = {"arm": "teacher", "steps": 4, "metric": "fd_test", "value": 2.0} | SOURCE
ACCURACY = {"arm": "td", "metric": "accuracy", "value": 0.8, "doubt": "another seed"} | SOURCE
CURVE = {
    "arm": "td",
    "stage": "trajectory",
    "scalar": "student/loss",
    "points": [[4, 2.5], [8, 1.0]],
    "window": 4,
} | SOURCE
EXPECTED = {"expected": {"metrics": [TEACHER, ACCURACY], "curves": [CURVE]}, "seeds": [0, 1]}


@pytest.fixture
def plan(tmp_path):
    return tiny_plan(tmp_path, EXPECTED)


def evaluate(plan, results, arm: str, steps: int, seed: int, metric: str, value: float) -> None:
    row = next(row for row in plan.rows if (row.arm, row.steps, row.seed) == (arm, steps, seed))
    text = f"metric,value,se,n\n{metric},{value},0.1,64\n"
    publish(results, plan, row.stages["evaluate"], {"metrics.csv": text})


def verdicts(plan, results) -> list[str]:
    return [row.verdict for row in expected.compare(plan, results)]


def test_nothing_is_measured_yet(plan, tmp_path):
    assert verdicts(plan, tmp_path) == ["not yet"] * 4
    assert expected.table(expected.compare(tiny_plan(tmp_path), tmp_path)) == ""


@pytest.mark.parametrize(
    ("metric", "arm", "steps", "values", "number", "verdict"),
    [
        ("fd_test", "teacher", 4, (2.19, 1.0), 0, "on track"),
        ("fd_test", "teacher", 4, (2.19, 2.21), 0, "off track"),
        ("accuracy", "td", 1, (0.73, 1.0), 1, "on track"),
        ("accuracy", "td", 1, (0.71,), 1, "off track"),
    ],
)
def test_the_worse_side_of_a_metric_is_off_track(
    plan, tmp_path, metric, arm, steps, values, number, verdict
):
    """Of any chain; a metric of other sampling steps is none of it."""
    for seed, value in enumerate(values):
        evaluate(plan, tmp_path, arm, steps, seed, metric, value)
    evaluate(plan, tmp_path, arm, 2, 0, metric, 1e3)
    row = expected.compare(plan, tmp_path)[number]
    assert row.values == list(values) and row.verdict == verdict
    assert verdicts(plan, tmp_path).count("not yet") == 3


@pytest.mark.parametrize(
    ("losses", "found", "said"),
    [
        ([1, 2, 3, 4, 1, 1, 1, 1.3], [2.5, 1.075], ["on track", "on track"]),
        ([1, 2, 3, 4, 1, 1, 1, 1.5], [2.5, 1.125], ["on track", "off track"]),
        ([1, 2, 3, 2, 1, 1, 1], [2.0], ["off track", "not yet"]),
        ([1, 2, 3], [], ["not yet", "not yet"]),
    ],
)
def test_a_point_of_a_curve_is_the_mean_of_the_steps_before_it(plan, tmp_path, losses, found, said):
    """On either side, and only once the step is reached."""
    history = "step,student/loss\n" + "".join(f"{n},{x}\n" for n, x in enumerate(losses, 1))
    publish(tmp_path, plan, stage_of(plan, "trajectory", "td"), {"history.csv": history})
    rows = expected.compare(plan, tmp_path)[2:]
    assert [value for row in rows for value in row.values] == pytest.approx(found)
    assert [row.verdict for row in rows] == said


def test_the_command_says_whose_number_is_missed(tmp_path):
    suite = write_suite(tmp_path, EXPECTED)
    evaluate(load_plan(str(suite)), tmp_path / "r", "td", 1, 1, "accuracy", 0.5)
    result = CliRunner().invoke(
        main, ["status", "--suite", str(suite), "--results", str(tmp_path / "r")]
    )
    lines = [line.split() for line in result.output.splitlines()]
    assert ["td", "accuracy", "in", "1", "step", "0.8", "0.5", "off", "track"] in lines
    note = "td, accuracy in 1 step: 0.8 is of Somebody, Table 1; another seed."
    assert note in result.output and "fd_test in 4 steps: " not in result.output


@pytest.mark.parametrize(
    ("kind", "change", "sentence"),
    [
        ("metrics", {"arm": "teachr"}, ".arm = 'teachr': unknown arm; did you mean 'teacher'?"),
        ("metrics", {"steps": 3}, ".steps = 3: arm 'teacher' has [2, 4]; name one"),
        ("metrics", {"metric": "fid"}, ".metric = 'fid': the suite measures nothing of that name"),
        ("metrics", {"value": 1.0, "within": 0.0}, "within"),
        ("curves", {"arm": "x"}, ".arm = 'x': unknown arm"),
        ("curves", {"stage": "refine"}, ".stage = 'refine': arm 'td' trains no such stage"),
        ("curves", {"arm": "real_train", "stage": "teacher"}, "'real_train' trains no such stage"),
        ("curves", {"points": [[3, 1.0]]}, "each needs 4 steps before it"),
    ],
)
def test_what_no_run_can_come_to_is_refused(tmp_path, kind, change, sentence):
    entry = {"metrics": TEACHER, "curves": CURVE}[kind] | change
    with pytest.raises(UserError) as error:
        tiny_plan(tmp_path, {"expected": {kind: [entry]}})
    assert sentence in str(error.value)


def test_what_a_suite_expects_is_not_inherited():
    """Another suite may train another teacher."""
    assert read_suite(find_suite("textured_digits"))["expected"]
    assert "expected" not in read_suite(find_suite("claims"))


def test_expectations_are_of_no_stage(tmp_path, plan):
    assert plan.stages.keys() >= tiny_plan(tmp_path).stages.keys()
