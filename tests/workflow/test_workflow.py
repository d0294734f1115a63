"""The DAG: a mistake stops it before any job, and a new or failed arm touches no other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from hdbench.core.files import MANIFEST
from hdbench.report.figures import FIGURES
from hdbench.report.tables import tables_of
from hdbench.stages import artifact
from hdbench.suite.jobs import read_job
from hdbench.suite.load import load_plan
from tests.support.tiny import REPOSITORY, changed, run_until, stage_of, write_suite


@pytest.fixture
def workspace(tmp_path) -> Path:
    """A folder with the repository's workflow alone: no test touches the repository's results."""
    for name in ("Snakefile", "workflow", "profiles"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    return tmp_path


def snakemake(workspace: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *arguments, "--config"]
    command += ["suite=tiny.yaml", f"theory={REPOSITORY / 'tests/support/theory.yaml'}"]
    return subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True)


def pretend_done(workspace: Path) -> None:
    """What Snakemake sees of a finished run: its files, parents first, and its records of them."""
    plan = load_plan("tiny.yaml")
    folder = workspace / "results" / plan.name
    files = [artifact.folder(workspace / "results", stage) / MANIFEST for stage in plan.stages]
    files += [folder / name for name in ("metrics.csv", "environment.csv")]
    files += [
        folder / "tables" / f"{table}.{kind}"
        for table in (*tables_of(plan), "claims")
        for kind in ("csv", "md", "tex", "html")
    ]
    pictures = [f"{figure}.{kind}" for figure in FIGURES for kind in ("png", "html")]
    files += [folder / "figures" / picture for picture in pictures]
    files += [
        workspace / "results/theory" / name
        for name in ("metrics.csv", *(f"theory.{kind}" for kind in ("csv", "md", "png")))
    ]
    files += [
        workspace / "results/flops" / name
        for name in ("metrics.csv", *(f"flops.{kind}" for kind in ("csv", "md", "tex", "html")))
    ]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert snakemake(workspace, "--touch", "--forceall").returncode == 0


def planned(output: str) -> dict[str, list[str]]:
    """Jobs of a dry run: the stages or files that each rule would make."""
    jobs: dict[str, list[str]] = {}
    for rule, body in re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)+)", output, re.MULTILINE):
        made = re.search(r"^    output: (.*)$", body, re.MULTILINE)
        jobs.setdefault(rule, []).append(made[1] if made else "")
    return jobs


def test_a_mistake_in_the_suite_stops_the_dag_with_code_2(workspace):
    path = write_suite(workspace, {"arms.hd_patch.refine.objective.discriminator": "pach"})
    result = snakemake(workspace)
    said = [line for line in result.stderr.splitlines() if line.startswith("hdbench:")]
    assert said == [
        f'hdbench: {path.name}: arms.hd_patch.refine.objective.discriminator = "pach": unknown; '
        "did you mean 'patch'?"
    ]
    assert result.returncode == 2
    assert "Traceback" not in result.stdout + result.stderr
    assert not (workspace / "results").exists()


def test_a_new_arm_plans_its_own_jobs_and_no_other(workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    arms = {"td": {"refine": None}, "hd": {}}
    rows = {"tables": {}}
    write_suite(workspace, {"arms": arms, **rows})
    pretend_done(workspace)
    assert planned(snakemake(workspace, "--dry-run", "--quiet", "host").stdout) == {}
    write_suite(
        workspace,
        {"arms": arms, **rows, "title": "An edit of words is rendered, and no stage runs"},
    )
    rendering = {"collect", "tables", "claims", "figures", "all_ablations"}
    assert planned(snakemake(workspace, "--dry-run", "--quiet", "host").stdout).keys() == rendering

    arms["hd_pooled"] = {"refine": {"objective": {"discriminator": "pooled"}}}
    plan = load_plan(str(write_suite(workspace, {"arms": arms, **rows})))
    jobs = planned(snakemake(workspace, "--dry-run", "--quiet", "host").stdout)
    own = {
        kind: [f"results/stages/{stage_of(plan, kind, 'hd_pooled')}/manifest.json"]
        for kind in ("refine", "sample", "evaluate")
    }
    assert {rule: made for rule, made in jobs.items() if rule in own} == own
    assert jobs.keys() == own.keys() | rendering
    folder = f"results/{plan.name}"
    assert jobs["collect"] == [f"{folder}/metrics.csv, {folder}/environment.csv"]


def test_one_diverging_arm_leaves_the_others_whole(workspace, monkeypatch):
    """Its row is '-', the others are evaluated and rendered, and the run as a whole fails."""
    monkeypatch.chdir(workspace)
    arms = {
        "real_test": {"trajectory": None, "refine": None, "real": "test"},
        "teacher": {"trajectory": None, "refine": None, "steps": [2]},
        "broken": {"trajectory": None, "refine": {"learning_rate": 1.0e30}},
    }
    data = changed({"arms": arms, "tables": {"main": {"rows": list(arms)}}})
    (workspace / "tiny.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    plan, results = load_plan("tiny.yaml"), workspace / "results"
    for stage in (stage_of(plan, "evaluate", "real_test"), stage_of(plan, "sample", "teacher")):
        run_until(plan, results, stage)
    assert not artifact.exists(results, stage_of(plan, "evaluate", "teacher"))

    result = snakemake(workspace)
    assert result.returncode == 1
    assert "hdbench: diverged at step " in result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    broken = stage_of(plan, "refine", "broken")
    assert not artifact.exists(results, broken)
    assert "hdbench: diverged at step " in (results / "logs" / f"{broken}.log").read_text()
    assert read_job(results, broken).stage == plan.stage(broken)
    metrics = pd.read_csv(results / plan.name / "metrics.csv")
    assert set(metrics.arm) == {"real_test", "teacher"}
    assert {"fd_train_64", "accuracy_64"} <= set(metrics[metrics.arm == "teacher"].metric)
    table = pd.read_csv(
        results / plan.name / "tables/main.csv", index_col="arm", keep_default_na=False
    )
    assert list(table.index) == list(arms)
    assert table.fd_test_64["broken"] == "" and table.note["broken"] == "not available"
    assert float(table.fd_test_64["teacher"]) > 0 and table.note["teacher"] == ""
    assert not (workspace / "paper_tables").exists()  # a run publishes nothing
    assert {path.stem for path in (results / plan.name / "figures").glob("[!.]*")} == set(FIGURES)


def test_the_documented_module_plans_the_suite_and_a_rule_of_its_own(workspace):
    write_suite(workspace)
    config = yaml.safe_load((REPOSITORY / "workflow/config.yaml").read_text(encoding="utf-8"))
    (workspace / "mine.yaml").write_text(yaml.safe_dump(config | {"flops": "none"}))
    text = (REPOSITORY / "config/README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (workspace / "Snakefile.mine").write_text(code)
    words = ("mine", "--snakefile", "Snakefile.mine", "--dry-run", "--quiet", "host")
    result = snakemake(workspace, *words)
    assert result.returncode == 0, result.stderr
    jobs = planned(result.stdout)
    plan = load_plan(str(workspace / "tiny.yaml"))
    kinds = [stage.kind for stage in plan.stages.values()]
    assert jobs["mine"] == ["mine.txt"] and len(jobs["refine"]) == kinds.count("refine")
    assert "flops" not in jobs and "figures" not in jobs
