"""Bundles: what is wrong with one is said, whatever is planted; places are what chains decide."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from io import StringIO
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy import stats

from hdbench.cli import main
from hdbench.report.collect import collect
from hdbench.report.submissions import problems, submit
from hdbench.report.submissions.leaderboard import Line, leaderboard, places
from hdbench.stages import artifact
from hdbench.suite.load import load_plan
from hdbench.suite.stage import versions_of
from tests.support.tiny import write_suite
from tests.unit.test_tables import SEEDS, fake_run

COMMIT = "1" * 40


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Suite, plan and results of a run whose every stage is there and collected."""
    folder = tmp_path_factory.mktemp("submissions")
    suite, results = write_suite(folder, SEEDS), folder / "results"
    plan = load_plan(str(suite))
    fake_run(results, plan)
    for stage in plan.stages.values():
        path = artifact.folder(results, stage.id) / "manifest.json"
        facts = {
            "versions": versions_of(stage.kind, stage.config),
            "environment": {"commit": COMMIT},
        }
        path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    collect(plan, results)
    return suite, plan, results


@pytest.fixture
def bundle(finished, tmp_path):
    """A sound bundle of two arms."""
    _, plan, results = finished
    submit(plan, results, ["hd", "hd_patch"], "mine", 3, tmp_path / "bundle")
    return tmp_path / "bundle"


def signed(bundle, name, change):
    """Change a file, and its SHA-256 in submission.json."""
    path, record = bundle / name, bundle / "submission.json"
    path.write_text(change(path.read_text()))
    data = json.loads(record.read_text())
    data["files"][name] = hashlib.sha256(path.read_bytes()).hexdigest()
    record.write_text(json.dumps(data))


def of_frame(change):
    def changed(text):
        frame = change(pd.read_csv(StringIO(text), dtype=str, keep_default_na=False))
        return frame.to_csv(index=False, lineterminator="\n")

    return changed


def test_a_bundle_has_all_of_its_arms_and_is_sound(bundle, finished):
    _, plan, results = finished
    assert problems(bundle) == []
    frame = pd.read_csv(bundle / "metrics.csv")
    whole = pd.read_csv(results / plan.name / "metrics.csv")
    pd.testing.assert_frame_equal(
        frame, whole[whole.arm.isin(["hd", "hd_patch"])].reset_index(drop=True)
    )
    result = CliRunner().invoke(main, ["validate", str(bundle)])
    assert (result.exit_code, result.output) == (0, f"{bundle}: no problems\n")


def better(frame):
    row = frame.index[frame.metric == "fd_test_64"][0]
    frame.loc[row, "value"] = "0.5"
    return frame


def swapped(frame):
    rows = frame[(frame.metric == "fd_test_64") & (frame.arm == "hd")].index
    frame.loc[rows[:2], "value"] = list(frame.value[rows[:2]][::-1])
    return frame


def manifest_with(**facts):
    def change(text):
        manifests = json.loads(text)
        manifests[-1] |= facts
        return json.dumps(manifests)

    return change


def another_setting(text):
    manifests = json.loads(text)
    refine = next(manifest for manifest in manifests if manifest["kind"] == "refine")
    refine["config"]["training"]["steps"] += 1
    return json.dumps(manifests)


PLANTED = {
    "a better number": ("metrics.csv", of_frame(better), "is not what was measured"),
    "numbers of two chains swapped": ("metrics.csv", of_frame(swapped), "is not what was measured"),
    "a chain left out": (
        "metrics.csv",
        of_frame(lambda frame: frame[(frame.seed != "1") | (frame.arm != "hd")]),
        "hd, nfe 1: fd_test_64 lacks the chains 1",
    ),
    "another chain's seed": (
        "metrics.csv",
        of_frame(lambda frame: frame.assign(seed=frame.seed.replace({"2": "7"}))),
        "no stage before it has this seed",
    ),
    "another count": (
        "metrics.csv",
        of_frame(lambda frame: frame.assign(n=frame.n.replace({"64": "640"}))),
        "is not what was measured",
    ),
    "an unknown evaluation": (
        "metrics.csv",
        of_frame(lambda frame: frame.assign(digest="0" * 16)),
        "no evaluate stage of the bundle has its digest",
    ),
    "an arm more": (
        "metrics.csv",
        of_frame(lambda frame: frame.assign(arm=frame.arm.replace({"hd": "other"}))),
        "has arms that submission.json does not name: other",
    ),
    "a stage without its parent": (
        "manifests.json",
        lambda text: json.dumps(json.loads(text)[1:]),
        "is not in the bundle",
    ),
    "another setting than trained": (
        "manifests.json",
        another_setting,
        "its digest is not that of its configuration, parents and versions",
    ),
    "a tree with changes": (
        "manifests.json",
        manifest_with(environment={"commit": f"{COMMIT}-dirty"}),
        "1 of ",
    ),
    "what is no manifest": ("manifests.json", manifest_with(payload=3), "is no manifest"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_an_error_that_is_planted_is_named(bundle, name):
    file, change, sentence = PLANTED[name]
    signed(bundle, file, change)
    listed = problems(bundle)
    assert listed and any(sentence in problem for problem in listed)
    result = CliRunner().invoke(main, ["validate", str(bundle)])
    assert result.exit_code == 1 and f"{bundle}: {len(listed)} problem" in result.output


def test_measured_files_that_are_changed_with_the_numbers_are_not_those_of_the_stage(bundle):
    signed(bundle, "metrics.csv", of_frame(better))
    frame = pd.read_csv(bundle / "metrics.csv")
    row = frame[frame.metric == "fd_test_64"].iloc[0]
    measured = f"evaluations/{row.digest}.csv"

    def change(text):
        lines = text.splitlines()
        lines = ["fd_test,0.5,0.25,64" if line.startswith("fd_test,") else line for line in lines]
        return "\n".join(lines) + "\n"

    signed(bundle, measured, change)
    assert any(problem.startswith(f"{measured}: is not what") for problem in problems(bundle))


def test_files_that_were_touched_or_taken_are_named(bundle):
    (bundle / "metrics.csv").write_text((bundle / "metrics.csv").read_text() + "\n")
    next((bundle / "evaluations").glob("*.csv")).unlink()
    listed = problems(bundle)
    assert "metrics.csv: was changed after submission.json was written" in listed
    assert len(listed) == 2 and listed[1].endswith(": is missing")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(None, "does not exist"), ("{", "cannot be read"), ('{"format": 2}', "format = 2: unknown")],
)
def test_what_is_no_bundle_is_one_sentence(tmp_path, content, sentence):
    if content is not None:
        (tmp_path / "submission.json").write_text(content)
    result = CliRunner().invoke(main, ["validate", str(tmp_path)])
    assert result.exit_code == 2 and sentence in result.output and result.output.count("\n") == 1


@pytest.mark.parametrize(
    ("arm", "sentence"), [("hdd", "did you mean 'hd'"), ("real_train", "has real images")]
)
def test_arms_that_cannot_be_submitted(finished, tmp_path, arm, sentence):
    suite, _, results = finished
    words = ["submit", "--suite", suite, "--results", results, "--arm", arm, "--title", "x"]
    words += ["--settings-tried", 0, "--out", tmp_path / "b"]
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code == 2 and sentence in result.output and not (tmp_path / "b").exists()


def line(values, nfe=1, protocol="classifier:abc", source="suite", seeds=None) -> Line:
    seeds = range(len(values)) if seeds is None else seeds
    chains = pd.DataFrame(
        {"value": values, "se": 0.1, "n": 64, "protocol": protocol, "digest": [*map(str, seeds)]},
        index=pd.Index(seeds, name="seed"),
    )
    chains["digest"] += source
    return Line(source, source, "x", nfe, protocol, "fd_64", chains, {}, "-")


def test_places_are_those_that_tests_over_chains_decide():
    generator = np.random.default_rng(0)
    noise = generator.normal(size=5)
    values = [shift + noise + 0.1 * generator.normal(size=5) for shift in (0, 0.05, 4, 9)]
    lines = [line(list(x)) for x in values]
    pairs = list(combinations(range(4), 2))
    p = [stats.ttest_rel(values[i], values[j]).pvalue for i, j in pairs]
    certain = {
        pair for pair, q in zip(pairs, stats.false_discovery_control(p), strict=True) if q <= 0.05
    }
    expected = [
        (1 + sum((i, k) in certain for i in range(4)), 4 - sum((k, j) in certain for j in range(4)))
        for k in range(4)
    ]
    assert places(lines) == expected == [(1, 2), (1, 2), (3, 3), (4, 4)]
    # of other seeds the common noise is not taken out
    apart = [line(list(x), seeds=range(10 * k, 10 * k + 5)) for k, x in enumerate(values[:2])]
    assert places(apart) == [(1, 2), (1, 2)]


def test_one_chain_has_no_place_and_other_evaluations_are_no_rivals():
    single, copies = line([0.1]), line([0.1] * 3)
    copies.chains["digest"] = "one"  # a public network's samples, the same in every chain
    lines = [line([1.0, 1.1, 1.2]), single, copies, line([9.0, 9.2, 9.1], nfe=4)]
    assert places(lines) == [(1, 1), None, None, (1, 1)]


def test_rows_of_another_protocol_stand_apart(finished, bundle, tmp_path):
    other = [line([1.0, 2.0]), line([0.5, 1.5], protocol="classifier:xyz", source="theirs")]
    table = leaderboard(other, "Digits")
    assert len(table.rows) == 1 and len(table.then) == 1 and len(table.records) == 2
    suite, _, results = finished
    metrics = next(results.glob("*/metrics.csv"))
    out = tmp_path / "board"
    words = ["leaderboard", bundle, "--suite", suite, "--metrics", metrics, "--out", out]
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code == 0, result.output
    records = pd.read_csv(f"{out}.csv")
    mine = records[records.source == "mine"].set_index("arm")
    theirs = records[(records.source != "mine") & (records.nfe == 1)].set_index("arm")
    assert list(mine.index.sort_values()) == ["hd", "hd_patch"] and "real_train" not in theirs.index
    # what is the same run to the bit has the same numbers and places
    pd.testing.assert_series_equal(mine.value, theirs.value[mine.index])
    assert (mine.place == theirs.place[mine.index]).all() and (mine.settings_tried == "3").all()
    page = (tmp_path / "board.html").read_text()
    assert page.count('sortable">') == 1 and "http" not in page
    again = CliRunner().invoke(main, [*map(str, words[:2]), *map(str, words[1:])])
    assert again.exit_code == 2 and "has the title of another" in again.output
    shutil.rmtree(bundle / "evaluations")
    broken = CliRunner().invoke(main, list(map(str, words)))
    assert broken.exit_code == 2 and "is missing; `hdbench validate" in broken.output


def test_rows_that_are_no_number_are_last_and_have_no_place():
    broken = line([math.nan, 1.0], source="broken")
    table = leaderboard([line([3.0, 3.5]), broken, line([1.0, 1.5], source="first")], "Digits")
    assert [row[:2] for row in table.rows] == [["first", "1-2"], ["suite", "1-2"], ["broken", "-"]]


def test_manifests_in_a_circle_and_measured_files_that_are_no_table_are_named(bundle):
    def circle(text):
        manifests = json.loads(text)
        manifests[0]["parents"] = {"sample": manifests[-1]["id"]}
        return json.dumps(manifests)

    whole = (bundle / "manifests.json").read_text()
    signed(bundle, "manifests.json", circle)
    assert any("its digest is not that of" in problem for problem in problems(bundle))
    signed(bundle, "manifests.json", lambda _: whole)
    measured = next((bundle / "evaluations").glob("*.csv"))

    def as_measured(text):
        manifests = json.loads(text)
        for manifest in manifests:
            if manifest["digest"] == measured.stem:
                manifest["payload"]["metrics.csv"] = hashlib.sha256(b"x\n1\n").hexdigest()
        return json.dumps(manifests)

    signed(bundle, f"evaluations/{measured.name}", lambda _: "x\n1\n")
    signed(bundle, "manifests.json", as_measured)
    assert any("is no table of metrics" in problem for problem in problems(bundle))


def test_a_row_that_was_trained_on_the_distance_is_shown_and_not_ranked():
    lines = [line([1.0, 1.1, 1.2]), line([0.1, 0.2, 0.1])._replace(is_judged=False)]
    assert places(lines) == [(1, 1), None]
    table = leaderboard(lines, "Digits")
    assert [row[:2] for row in table.rows] == [["suite‖", "-"], ["suite", "1"]]
    assert any(note.startswith("‖") for note in table.notes)
