"""Teachers that ship with the repository: taken by their digest, and only if they are whole."""

from __future__ import annotations

import csv
import json
import shutil

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from hdbench.cli import main
from hdbench.core import runtime
from hdbench.core.files import MANIFEST, sha256
from hdbench.core.provenance import SHIPPED
from hdbench.report.ship import CURVE, thinned
from hdbench.stages import artifact, run
from hdbench.stages.context import WEIGHTS
from hdbench.suite.load import load_plan
from tests.support.tiny import REPOSITORY, run_until, stage_of, tiny_plan, write_suite

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def leaves_this_process_alone(monkeypatch):
    monkeypatch.setattr(runtime, "set_up", lambda threads, device: torch.device(device))


def invoke(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def set_commit(folder, commit: str) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["environment"]["commit"] = commit
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny suite, its evaluated teacher as from a clean commit, and what `ship` made of it."""
    home = tmp_path_factory.mktemp("trained")
    suite = write_suite(home)
    plan = load_plan(str(suite))
    teacher = stage_of(plan, "teacher", "teacher")
    run_until(plan, home / "results", stage_of(plan, "evaluate", "teacher"))
    set_commit(artifact.folder(home / "results", teacher), COMMIT)
    out = home / "shipped"
    done = invoke("ship", "--suite", suite, "--results", home / "results", "--out", out)
    assert done.exit_code == 0, done.output
    return suite, plan, teacher, home / "results", out


@pytest.fixture
def fresh(trained, tmp_path, monkeypatch):
    """A place with the shipped teacher, which stages take by default, and no results."""
    suite, plan, teacher, results, out = trained
    shutil.copytree(out, tmp_path / "shipped")
    monkeypatch.setattr("hdbench.cli.stages.SHIPPED", tmp_path / "shipped")
    command = ("stage", "teacher", "--suite", suite, "--results", tmp_path / "results")
    data = plan.stages[teacher].parents["data"]
    run_until(plan, tmp_path / "results", data)
    return command, tmp_path / "results", tmp_path / "shipped" / teacher


def test_what_ships_is_the_weights_with_recipe_commit_curve_and_evaluation(trained):
    _, plan, teacher, results, out = trained
    manifest = artifact.checked(out / teacher, teacher, "")
    path = artifact.folder(results, teacher)
    assert manifest["payload"][WEIGHTS] == sha256(path / WEIGHTS)
    assert manifest["environment"]["commit"] == COMMIT
    assert manifest["config"]["training"]["steps"] == plan.suite.teacher.training.steps
    assert set(manifest["payload"]) == {"evaluation.csv", "history.csv", WEIGHTS}
    measured = pd.read_csv(out / teacher / "evaluation.csv")
    assert set(measured.arm) == {"teacher"} and set(measured.steps) == {2}
    evaluated = artifact.folder(results, stage_of(plan, "evaluate", "teacher")) / "metrics.csv"
    expected = pd.read_csv(evaluated).set_index("metric").value["fd_test"]
    (value,) = measured.value[measured.metric == "fd_test_64"]
    assert value == pytest.approx(expected, rel=1e-5)


def test_a_shipped_teacher_is_taken_and_not_trained(trained, fresh, monkeypatch):
    _, _, teacher, results, _ = trained
    command, place, source = fresh
    monkeypatch.setattr(run, "STAGES", {})  # nothing could be trained
    done = invoke(*command)
    assert done.exit_code == 0 and f"taken from {source}, not trained" in done.output
    path, manifest = artifact.load(place, teacher)
    assert sha256(path / WEIGHTS) == sha256(artifact.folder(results, teacher) / WEIGHTS)
    assert manifest["environment"]["commit"] == COMMIT
    assert manifest["shipped"]["folder"] == str(source)
    assert manifest["shipped"]["manifest"] == sha256(source / MANIFEST)
    again = invoke(*command)
    assert again.exit_code == 0 and "has changed" not in again.output


def test_one_option_trains_it_anew(trained, fresh):
    _, _, teacher, results, _ = trained
    command, place, _ = fresh
    done = invoke(*command, "--teachers", "trained")
    assert done.exit_code == 0 and "not trained" not in done.output
    path, manifest = artifact.load(place, teacher)
    assert "shipped" not in manifest and (path / "history.csv").is_file()
    weights = [load_file(p / WEIGHTS) for p in (path, artifact.folder(results, teacher))]
    assert all(torch.equal(*pair) for pair in zip(*(w.values() for w in weights), strict=True))


def test_one_that_was_taken_is_not_passed_off_as_trained(trained, fresh):
    _, _, teacher, _, _ = trained
    command, place, _ = fresh
    says = f"{teacher} was taken as shipped; --again --teachers trained trains it here"
    assert invoke(*command).exit_code == 0
    assert says not in invoke(*command).output
    done = invoke(*command, "--teachers", "trained")
    assert done.exit_code == 0 and says in done.output
    done = invoke(*command, "--again", "--teachers", "trained")
    assert done.exit_code == 0 and says not in done.output
    assert "shipped" not in artifact.load(place, teacher)[1]


@pytest.mark.parametrize("damage", ["weights", "manifest", "missing"])
def test_a_damaged_one_is_refused_in_a_sentence(fresh, damage):
    command, place, source = fresh
    if damage == "weights":
        content = bytearray((source / WEIGHTS).read_bytes())
        content[-1] ^= 1
        (source / WEIGHTS).write_bytes(content)
    elif damage == "manifest":
        (source / MANIFEST).write_text("{")
    else:
        (source / WEIGHTS).unlink()
    done = invoke(*command)
    assert done.exit_code == 2
    (line,) = done.output.strip().splitlines()
    assert line.startswith(f"hdbench: {source}") and "--teachers trained" in line
    assert not list(place.glob("stages/teacher/*/manifest.json"))


def test_another_recipe_is_trained_and_that_is_said(fresh, tmp_path):
    _, place, source = fresh
    plan = tiny_plan(tmp_path, {"teacher.training.steps": 11})
    teacher = stage_of(plan, "teacher", "teacher")
    suite = write_suite(tmp_path, {"teacher.training.steps": 11})
    done = invoke("stage", "teacher", "--suite", suite, "--results", place)
    assert done.exit_code == 0
    assert f"{teacher}: shipped is {source.name}, of another recipe, seed or data" in done.output
    assert "shipped" not in artifact.load(place, teacher)[1]


@pytest.mark.parametrize(
    ("commit", "says"),
    [(f"{COMMIT}-dirty", "from a tree with changes"), ("unknown", "of no known commit")],
)
def test_a_teacher_of_no_clean_commit_does_not_ship(trained, tmp_path, commit, says):
    suite, plan, teacher, results, _ = trained
    shutil.copytree(results, tmp_path / "results")
    set_commit(artifact.folder(tmp_path / "results", teacher), commit)
    done = invoke(
        "ship", "--suite", suite, "--results", tmp_path / "results", "--out", tmp_path / "out"
    )
    assert done.exit_code == 2 and says in done.output and not (tmp_path / "out").exists()


def test_a_teacher_that_nobody_measured_does_not_ship(trained, tmp_path):
    suite, plan, teacher, results, _ = trained
    shutil.copytree(results, tmp_path / "results")
    shutil.rmtree(tmp_path / "results/stages/evaluate")
    done = invoke(
        "ship", "--suite", suite, "--results", tmp_path / "results", "--out", tmp_path / "out"
    )
    assert done.exit_code == 2 and "none of its samples is evaluated" in done.output


def test_a_shipped_curve_is_of_means(tmp_path):
    steps = range(1, 2 * CURVE + 51)
    with (tmp_path / "history.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["step", "student/loss"], *([step, 2 * step] for step in steps)])
    (tmp_path / "thin.csv").write_text(thinned(tmp_path / "history.csv"))
    frame = pd.read_csv(tmp_path / "thin.csv")
    assert frame.step.tolist() == [CURVE, 2 * CURVE, 2 * CURVE + 50]
    assert frame["student/loss"].tolist() == [CURVE + 1, 3 * CURVE + 1, 4 * CURVE + 51]


def test_what_the_repository_ships_is_whole_and_of_the_reference_run(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    plans = [load_plan(name) for name in ("textured_digits", "photographs")]
    shipped = [f"{path.parent.name}/{path.name}" for path in SHIPPED.glob("*/*")]
    assert shipped and set(shipped) <= {stage for plan in plans for stage in plan.stages}
    for stage in shipped:
        manifest = artifact.checked(SHIPPED / stage, stage, "")
        assert len(manifest["environment"]["commit"]) == 40
        measured = pd.read_csv(SHIPPED / stage / "evaluation.csv")
        assert {"real_train", "real_test"} < set(measured.arm)
