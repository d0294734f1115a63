"""What was changed by hand is named, cell by cell; an arm computed anew is compared in its SE."""

from __future__ import annotations

import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from hdbench.cli import main
from hdbench.core.errors import UserError
from hdbench.core.files import sha256, write_together
from hdbench.metrics.records import read_metrics
from hdbench.report.claims import write_claims
from hdbench.report.collect import collect
from hdbench.report.numbers import Numbers
from hdbench.report.provenance import METRICS, Run, ran
from hdbench.report.rules import read_rules
from hdbench.report.tables import write_tables
from hdbench.suite.load import load_plan
from hdbench.tools import prose
from hdbench.tools.verify import derive
from hdbench.tools.verify.compare import differences
from hdbench.tools.verify.rerun import EXACT, TOLERANCE, Known, moved, rerun
from tests.support.tiny import REPOSITORY, run_until, tiny_plan, write_suite
from tests.unit.test_tables import synthetic

TABLES = Path("paper_tables")
TINY = TABLES / "tiny"
DOCUMENT = "# Results\n\nThe distance of HD is {{ fd_test of hd in tiny }}.\n\nThe end.\n"


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> Path:
    """A folder with a suite `tiny`, its metrics, tables and claims, and a document."""
    folder = tmp_path_factory.mktemp("verify")
    (folder / "workflow/suites").mkdir(parents=True)
    shutil.copy(REPOSITORY / "tests/support/claims.yaml", folder / "workflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        tables = {"main": {"rows": ["teacher", "hd", "dmd"]}}
        write_suite(Path("workflow/suites"), {"seeds": [0, 1, 2], "tables": tables})
        plan = load_plan("tiny")
        frame = synthetic(plan)
        write_tables(plan, frame, Path("results"), TABLES)
        write_claims(Numbers(plan, frame, Path("results")), read_rules(), TABLES)
        stages = [
            ran({"id": stage, "core_seconds": 1.0, "environment": {"commit": "a" * 40}})
            for stage in plan.stages
        ]
        run = Run(
            suite="tiny",
            title="",
            stages_of_plan=len(stages),
            digests={METRICS: sha256(TINY / METRICS)},
            environments={stage.environment: items for stage, items in stages},
            stages=tuple(stage for stage, _ in stages),
        )
        write_together(run.contents(TINY))
        Path("docs").mkdir()
        Path("docs/results.in.md").write_text(DOCUMENT)
        prose.forget()
        prose.write(Path("docs/results.in.md"), TABLES)
        prose.forget()
    return folder


@pytest.fixture
def committed(rendered, tmp_path, monkeypatch):
    """A copy of the folder, in which a test may change what it likes."""
    shutil.copytree(rendered, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy")
    prose.forget()
    yield
    prose.forget()


def verified(code: int, *words: str) -> list[str]:
    """The sentences of `hdbench verify`."""
    result = CliRunner().invoke(main, ["verify", *words], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stdout.splitlines()


def test_what_is_as_it_was_rendered_has_no_difference(committed):
    assert verified(0) == ["2 checks: no differences"]


def test_a_changed_metric_is_named_by_the_cells_that_show_it(committed):
    frame = read_metrics(TINY / METRICS)
    here = (frame.arm == "hd") & (frame.metric == "fd_test_64") & (frame.seed == 1)
    frame.assign(value=frame.value.where(~here, 2 * frame.value)).to_csv(
        TINY / METRICS, index=False
    )
    said = verified(1)
    assert f"{TINY / METRICS}: is not the file that was collected with {TINY}/stages.csv" in said
    cell = re.compile(rf"{TINY}/main.csv: line \d+, hd, column fd_test_64: committed is '")
    assert len(list(filter(cell.match, said))) == 1
    assert any(line.startswith("docs/results.md: line 3: committed is") for line in said)
    assert not any("dmd, column fd_test_64:" in line for line in said)


ROWS = {"csv": "hd,", "md": "| MeanFlow → DMD ", "tex": r"MeanFlow $\rightarrow$ DMD &"}


def test_cells_and_lines_changed_by_hand_are_named_and_nothing_else(committed):
    expected = []
    for kind, start in ROWS.items():
        path = TINY / f"main.{kind}"
        lines = path.read_text().splitlines()
        index = next(i for i, line in enumerate(lines) if line.startswith(start))
        number = re.findall(r"\d+\.\d+", lines[index])[0]
        lines[index] = lines[index].replace(number, "9" + number, 1)
        path.write_text("\n".join(lines) + "\n")
        expected.append((f"{path}: line {index + 1}", "9" + number))
    path = Path("docs/results.md")
    path.write_text(path.read_text().replace("The end.", "The very end."))
    *said, total = verified(1)
    assert total == "2 checks: 4 differences" and len(said) == 4
    for place, number in expected:
        (line,) = (line for line in said if line.startswith(place))
        assert number in line and (".tex" in place or ", column " in line)
    assert said[-1] == (
        "docs/results.md: line 5: committed is 'The very end.', re-derived 'The end.'"
    )


def test_a_changed_record_is_named(committed):
    stages = (TINY / "stages.csv").read_text()
    (TINY / "stages.csv").write_text(stages.replace(",yes,", ",no,", 1))
    assert "environments.json: is not of the run of" in verified(1)[0]


def test_a_release_needs_clean_tagged_commits_and_the_locked_versions(committed):
    untagged, other = derive.check_release(TABLES)
    assert untagged == f"{TINY}/stages.csv: commit aaaaaaaaaaaa has no tag in this repository"
    assert "stages ran with other versions than the lock file's" in other


def test_a_folder_without_metrics_is_refused_in_a_sentence(committed):
    result = CliRunner().invoke(main, ["verify", "workflow", "--suite", "tiny"])
    assert result.exit_code == 2
    assert result.output == (
        "hdbench: workflow: has no metrics of the suite tiny that tables were rendered from\n"
    )


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("a.csv", "a,b\nx,1\n", "a,b\nx,1.0000000000001\n", []),
        ("a.csv", "a,b\nx,1\n", "a,c\nx,1\n", ["a.csv: the columns are a, b; re-derived, a, c"]),
        ("a.csv", "a,b\nx,1\ny,2\n", "a,b\nx,1\n", ["a.csv: line 3, y, is not re-derived"]),
        ("a.csv", "a,b\nx,1\n", "a,b\nx,1\ny,2\n", ["a.csv: line 3, y, is missing"]),
        ("a.md", "x\n", "x\ny\n", ["a.md: before line 2 is missing: y"]),
        ("a.md", "x\ny\n", "y\n", ["a.md: line 1 is not re-derived: x"]),
    ],
)
def test_differences_of_texts(name, old, new, said):
    assert list(differences(Path(name), old, new)) == said


def test_the_tolerance_is_in_standard_errors_of_the_difference():
    known = Known(10.0, 0.3, "p", 1.0)
    limit = TOLERANCE * math.hypot(0.3, 0.4)
    for sign in (-1, 1):
        assert not moved("fd", known, 10 + sign * 0.999 * limit, 0.4, trained=False)
        assert moved("fd", known, 10 + sign * 1.001 * limit, 0.4, trained=False)
        scatter = TOLERANCE * math.sqrt(2) * 1.0  # two chains differ by that, one standard error
        assert not moved("fd", known, 10 + sign * 0.999 * scatter, 0.4, trained=True)
        assert moved("fd", known, 10 + sign * 1.001 * scatter, 0.4, trained=True)
    assert moved(EXACT[0], known, 10.001, math.nan, trained=True)
    nothing = Known(10.0, math.nan, "p", math.nan)
    assert not moved("fd", nothing, 10.009, math.nan, trained=False)
    assert moved("fd", nothing, 10.011, math.nan, trained=False)
    assert moved("fd", known, math.nan, math.nan, trained=False)
    assert not moved("fd", known._replace(value=math.nan), math.nan, math.nan, trained=False)


@pytest.mark.slow
def test_an_arm_computed_anew_is_compared_with_what_is_committed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = tiny_plan(tmp_path)
    stages = [row.stages["evaluate"] for row in plan.rows if row.arm == "real_test"]
    for stage in stages:
        run_until(plan, tmp_path / "r", stage)
    frame = collect(plan, tmp_path / "r", partial=True)
    file = tmp_path / "tables" / plan.name / METRICS
    file.parent.mkdir(parents=True)
    frame.to_csv(file, index=False)
    cpu = torch.device("cpu")
    same = rerun(plan, "real_test", None, tmp_path / "tables", cpu)
    assert not same.differences and same.equal == same.compared == len(frame)
    certain = frame.se > 0
    assert certain.sum() > 3
    frame.assign(value=frame.value + 20 * frame.se.where(certain, 0)).to_csv(file, index=False)
    other = rerun(plan, "real_test", None, tmp_path / "tables", cpu)
    assert len(other.differences) == certain.sum() and "real_test: fd_train_64 is " in str(other)
    frame.assign(digest="0" * 16).to_csv(file, index=False)
    with pytest.raises(UserError, match="no committed number is of its present stages"):
        rerun(plan, "real_test", None, tmp_path / "tables", cpu)
    monkeypatch.setattr(
        "hdbench.tools.verify.rerun.committed",
        lambda plan, row, tables: {"fd": Known(1.0, 0.1, "p", math.nan)},
    )
    with pytest.raises(UserError, match="how far a training moves its numbers is not known"):
        rerun(replace(plan), "hd", None, tmp_path / "tables", cpu)
