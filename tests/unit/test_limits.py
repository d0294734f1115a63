"""Sizes that no machine counts to or holds are refused while a suite is planned."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from hdbench.cli import main
from hdbench.core.config import validate
from hdbench.core.errors import UserError
from hdbench.suite.schema import RunConfig
from tests.support.tiny import tiny_plan, write_suite

ABSURD = {
    "batch": ({"base.trajectory.batch": 10**12}, "batch = 1000000000000: more than 1,000,000,000"),
    "steps": ({"base.trajectory.steps": 10**18}, "no stage takes that many"),
    "equal": (
        {"base.trajectory.steps": 10**9, "base.trajectory.batch": 10**9},
        "arms.dmd_total.refine.steps.equal_total = 'hd': these are 3.99e+16 steps",
    ),
    "sampling": ({"arms.teacher.steps": [10**9]}, "arms.teacher.steps = 1000000000: more than"),
    "depth": ({"network.depth": 10**9}, "network.depth = 1000000000: more than 10,000"),
    "width": ({"network.width": 2**25, "network.depth": 1000}, "network.width = 33554432 at depth"),
    "ratio": ({"network.mlp_ratio": 1e300}, "which no machine has"),
    "classifier": ({"classifier.network.width": 10**8}, "classifier.network.width = 100000000:"),
    "samples": ({"evaluation.samples": 10**15}, "evaluation.samples = 1000000000000000: more"),
    "chains": ({"seeds": list(range(2000))}, "10 arms of 2000 chains are more than 10,000"),
    "negative": ({"seeds": [-1]}, "seeds.0 = -1: must be greater than or equal to 0"),
    "seed": ({"seeds": [10**18]}, "seeds: 1000000000000000000 is not from 0 to"),
    "bits": ({"data.seed": 2**63}, "beyond 64 bits"),
    "grid": (
        {"arms": {"a{x}_{y}": {"x": list(range(99)), "y": list(range(99))}}},
        "arms.a{x}_{y}: stands for 9,801 arms, more than 1,000",
    ),
}


@pytest.mark.parametrize("kind", ABSURD)
def test_an_absurd_size_is_refused_by_its_key(tmp_path, kind):
    changes, sentence = ABSURD[kind]
    path = write_suite(tmp_path, changes)
    result = CliRunner().invoke(main, ["plan", "--suite", str(path), "--results", str(tmp_path)])
    assert result.exit_code == 2, result.output + str(result.exception)
    assert sentence in result.output and len(result.output.splitlines()) == 1


@pytest.mark.parametrize(
    "changes", [{"seeds": [10**18 - 1]}, {"data.seed": 10**18}, {"arms.teacher.steps": [10**5]}]
)
def test_a_large_size_that_can_be_is_planned(tmp_path, changes):
    tiny_plan(tmp_path, changes)


LONG = "a" * 300
NAMES = {  # of paths and samples that no system or table takes
    "nul": (("compare", "a\0.csv", "b.csv"), "has no NUL character"),
    "nul suite": (("plan", "--suite", "a\0.yaml"), "has a NUL character"),
    "nul out": (("evaluate", "--samples", "x", "--out", "a\0.csv"), "has no NUL character"),
    "long": (("compare", f"{LONG}.csv", "b.csv"), "File name too long"),
    "long suite": (("plan", "--suite", LONG), "File name too long; give a shorter path"),
    "nan": (
        ("evaluate", "--samples", "x", "--name", "NaN"),
        "tables read 'NaN' as a missing value",
    ),
    "file": (("evaluate", "--samples", "null.npz"), "tables read 'null' as a missing value"),
    "line": (("evaluate", "--samples", "x", "--name", "a\nb"), "all are shown"),
    "blank": (("evaluate", "--samples", "x", "--name", " "), "is not empty"),
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_name_that_cannot_be_is_refused(kind):
    words, sentence = NAMES[kind]
    words += ("--protocol", "clean_fid") if words[0] == "evaluate" else ()
    result = CliRunner().invoke(main, list(words))
    assert result.exit_code == 2, result.output + str(result.exception)
    assert sentence in " ".join(result.output.split())


def test_a_nul_in_a_suite_is_refused_with_its_line(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text('title: tiny\ndata: {name: "a\\0b"}\n')
    result = CliRunner().invoke(main, ["plan", "--suite", str(path)])
    assert result.exit_code == 2 and "line 2: 'a\\x00b' has a NUL character" in result.output


def test_a_device_that_is_none_is_refused_in_a_dry_run():
    run = yaml.safe_load(Path("workflow/config.yaml").read_text(encoding="utf-8"))
    for device in ("cpu", "auto", "cuda", "cuda:1"):
        validate(RunConfig, run | {"device": device}, "config")
    with pytest.raises(UserError, match="device = 'gpu': unknown; use cpu, cuda or auto"):
        validate(RunConfig, run | {"device": "gpu"}, "config")
