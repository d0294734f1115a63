"""`hdbench init` makes a folder from which suites run; `hdbench run` needs one."""

from __future__ import annotations

import re
import sys

import pytest
from click.testing import CliRunner

import hdbench
from hdbench.cli import main
from hdbench.tools import workspace
from tests.support.tiny import REPOSITORY


def test_a_workspace_is_the_workflow_and_overwrites_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(main, ["init", "lab"]).exit_code == 0
    for name in ("Snakefile", "workflow/suites/digits.yaml", "paper_tables/published.csv"):
        assert (tmp_path / "lab" / name).read_bytes() == (REPOSITORY / name).read_bytes()
    (tmp_path / "lab/Snakefile").write_text("mine")
    result = CliRunner().invoke(main, ["init", "lab"])
    assert result.exit_code == 2 and "is there already" in result.output
    assert (tmp_path / "lab/Snakefile").read_text() == "mine"


def test_a_link_or_a_file_in_a_folders_place_stops_it_before_anything_is_written(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/slurm").write_text("mine")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/Snakefile").symlink_to(tmp_path / "nowhere")
    for name, place in (("a", "slurm"), ("b", "Snakefile")):
        result = CliRunner().invoke(main, ["init", str(tmp_path / name)])
        assert result.exit_code == 2 and f"{name}/{place}: is there already" in result.output
        assert [path.name for path in (tmp_path / name).iterdir()] == [place]
    assert not (tmp_path / "nowhere").exists()


def test_a_wheel_without_its_workflow_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(hdbench, "__file__", str(tmp_path / "hdbench/__init__.py"))
    monkeypatch.setattr(workspace, "SHARED", "no/such/")
    result = CliRunner().invoke(main, ["init", str(tmp_path / "lab")])
    assert result.exit_code == 2 and "lacks its workflow" in result.output


def test_a_run_without_the_workflow_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["run", "--suite", "digits"])
    assert result.exit_code == 2 and "hdbench init" in result.output


def test_a_run_without_snakemake_says_what_brings_it(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setitem(sys.modules, "snakemake", None)
    result = CliRunner().invoke(main, ["run", "--suite", "digits"])
    assert result.exit_code == 2 and "pip install 'hdbench[workflow]'" in result.output


def test_a_run_that_lacks_what_it_needs_from_outside_does_not_begin(tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr("subprocess.run", lambda *words, **how: pytest.fail("it began"))
    words = ["run", "--suite", "imagenet256", "--results", str(tmp_path)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2 and len(result.output.splitlines()) == 1
    assert re.match(r"hdbench: imagenet256: .+ is not at .+, nor \d+ more", result.output)


def test_the_version_is_that_of_the_package():
    assert CliRunner().invoke(main, ["--version"]).output.strip().endswith(hdbench.__version__)
