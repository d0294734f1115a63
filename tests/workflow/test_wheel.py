"""The wheel in an environment of its own, used from another folder: no repository is needed."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tiny import REPOSITORY

COPIED = ("hdbench", "workflow", "profiles", "slurm", "Snakefile", "pyproject.toml", "README.md",
          "LICENSE")  # fmt: skip


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """An environment with the wheel; what it depends on is shared with this one."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # setuptools builds beside the source
    for name in COPIED:
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copyfile
        source.mkdir(exist_ok=True)
        copy(REPOSITORY / name, source / name)
    (source / "paper_tables").mkdir()
    shutil.copy(REPOSITORY / "paper_tables/published.csv", source / "paper_tables")
    pip = [sys.executable, "-m", "pip", "--quiet"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation"]
    run([*pip, "wheel", *offline, "--wheel-dir", folder, source], folder)
    run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], folder)
    (wheel,) = folder.glob("*.whl")
    python = folder / "venv/bin/python"
    run([*pip, "--python", python, "install", *offline, wheel], folder)
    (packages,) = (folder / "venv/lib").glob("python*/site-packages")
    (packages / "shared.pth").write_text("\n".join(site.getsitepackages()))
    return python


def run(command: list, folder: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["PYTHONWARNINGS"] = "ignore"
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_brings_the_workflow_and_runs_from_another_folder(python, tmp_path):
    lab = tmp_path / "lab"
    where = run([python, "-c", "import hdbench; print(hdbench.__file__)"], tmp_path)
    assert Path(where.strip()).is_relative_to(python.parents[1])
    assert " files in lab;" in run([python, "-m", "hdbench", "init", "lab"], tmp_path)
    shipped = {
        p.relative_to(REPOSITORY) for p in (REPOSITORY / "workflow").rglob("*") if p.is_file()
    }
    here = {p.relative_to(lab) for p in lab.rglob("*") if p.is_file()}
    assert here >= {path for path in shipped if "prereg" not in path.parts}
    jobs = run(
        [python, "-m", "snakemake", "--dry-run", "--cores", "1", "--config", "suite=digits"], lab
    )
    assert "all_ablations" in jobs
