"""A package outside the repository adds one of each kind of thing, and a suite runs with them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.support.tiny import REPOSITORY

EXTENSION = REPOSITORY / "tests/extension"
ARMS = {"real_test", "teacher", "td", "hd"}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder into which pip has installed the package, and nothing else."""
    folder = tmp_path_factory.mktemp("extension")
    copy = shutil.copytree(EXTENSION, folder / "source")  # pip builds beside the source
    install = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps"]
    install += ["--no-build-isolation", "--target", str(folder / "site"), str(copy)]
    done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture
def workspace(tmp_path) -> Path:
    """The repository's workflow and the package's suite."""
    for name in ("Snakefile", "workflow", "profiles"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    shutil.copy(EXTENSION / "suite.yaml", tmp_path / "stripes.yaml")
    return tmp_path


def run(workspace: Path, site: Path | None, *command: str) -> subprocess.CompletedProcess:
    """`python -m COMMAND` in the workspace; with the package on the path, or without."""
    path = os.pathsep.join(map(str, filter(None, (site, REPOSITORY))))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=workspace,
        env=environment,
        capture_output=True,
        text=True,
    )


def rendered(workspace: Path, pattern: str) -> Path:
    """The one file of the suite's results that matches; its folder's name ends with a digest."""
    paths = list(workspace.glob(f"results/stripes*/{pattern}"))
    assert len(paths) == 1, (pattern, paths)
    return paths[0]


def test_a_suite_runs_with_what_an_installed_package_adds(workspace, site):
    theory = f"theory={REPOSITORY / 'tests/support/theory.yaml'}"
    command = ("snakemake", "--cores", "1", "--config", "suite=stripes.yaml", theory, "flops=none")
    done = run(workspace, site, *command)
    assert done.returncode == 0, done.stderr

    manifests = [json.loads(path.read_text()) for path in workspace.rglob("manifest.json")]
    text = json.dumps(manifests)
    for name in ("velocity_distillation", "max_pooled", "stripes"):
        assert f'"{name}"' in text, name

    metrics = pd.read_csv(rendered(workspace, "metrics.csv"))
    values = metrics[metrics.metric == "brightness_64"].set_index("arm").value
    assert set(values.index) == ARMS
    assert values.between(0.2, 0.8).all()
    assert {"fd_train_64", "accuracy_64"} <= set(metrics.metric)

    table = pd.read_csv(rendered(workspace, "tables/brightness.csv"))
    assert set(table.arm) == ARMS
    shown = table.set_index("arm").brightness_64
    assert shown.to_dict() == pytest.approx(values.to_dict())
    assert rendered(workspace, "figures/brightness.png").stat().st_size > 2_000


def test_without_the_package_its_names_are_unknown(workspace):
    done = run(workspace, None, "hdbench", "plan", "--suite", "stripes.yaml")
    assert done.returncode == 2
    unknown = '"(stripes|velocity_distillation|max_pooled|brightness)": unknown'
    assert re.fullmatch(rf"hdbench: stripes.yaml: \S+ = {unknown}.*\n", done.stderr), done.stderr


def test_a_package_that_takes_a_name_of_ours_is_named(workspace, tmp_path):
    info = tmp_path / "clash/clash-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: clash\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[hdbench.heads]\nmine = clash:Mine\n")
    (info.parent / "clash.py").write_text(
        "from hdbench.methods.discriminators.patch import Patch\n"
        "class Mine(Patch):\n    name = 'conv'\n"
    )
    done = run(workspace, info.parent, "hdbench", "plan", "--suite", "digits")
    assert done.returncode == 2
    assert done.stderr == (
        "hdbench: hdbench.heads: entry point 'mine' of clash: the name 'conv' is taken by a class "
        "of hdbench; rename one, or uninstall clash\n"
    )
