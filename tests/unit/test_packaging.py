"""What is declared is what is imported and locked; evaluation needs no extra."""

from __future__ import annotations

import ast
import functools
import itertools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hdbench.cli import group, main
from hdbench.tools.workspace import ENTRIES
from tests.support.tiny import REPOSITORY

PLUGIN = REPOSITORY / "plugins/snakemake-executor-plugin-submitit"
# modules whose distribution has another name
DISTRIBUTIONS = {
    "yaml": "pyyaml",
    "pydantic_core": "pydantic",  # pinned by it to one version
    "PIL": "pillow",
    "cleanfid": "clean-fid",
    "sklearn": "scikit-learn",
    "skimage": "scikit-image",
    "open_clip": "open-clip-torch",
}
PIN = re.compile(r"(?P<name>[\w.-]+)==(?P<version>[^ ;]+)(?: ; [^\\]+)?( --hash=sha256:\w{64})+")


def project(folder: Path) -> dict:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in requirements}


BASE = names(project(REPOSITORY)["dependencies"])
EXTRAS = {
    name: names(lines) for name, lines in project(REPOSITORY)["optional-dependencies"].items()
}


USED = ("workflow", "report", "scale", "parquet")  # by modules of the package


@functools.cache
def imported(folder: str = "hdbench") -> dict[str, str]:
    """The distributions that the modules of a folder import, and where."""
    modules = {}
    for path in sorted((REPOSITORY / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    modules[alias.name.partition(".")[0]] = str(path)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules[node.module.partition(".")[0]] = str(path)
    strangers = modules.keys() - sys.stdlib_module_names - {"hdbench"}
    return {canonicalize_name(DISTRIBUTIONS.get(m, m)): modules[m] for m in strangers}


def test_every_import_of_the_package_is_declared():
    declared = BASE.union(*(EXTRAS[name] for name in USED))
    assert not {name: path for name, path in imported().items() if name not in declared}


def test_nothing_is_declared_that_no_module_imports():
    by_others = {"snakemake", "pygments", "tokenizers"}  # commands, the report, transformers
    assert BASE.union(*(EXTRAS[name] for name in USED)) == imported().keys() | by_others


def test_every_requirement_is_locked_with_hashes_and_at_a_version_that_it_allows():
    text = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
    lines = re.sub(r"#.*\n", "", text).replace(" \\\n   ", "").splitlines()
    matches = [PIN.fullmatch(line) for line in lines]
    assert len(lines) > 100 and None not in matches, lines[matches.index(None)]
    pins = {canonicalize_name(match["name"]): match["version"] for match in matches}
    wanted = project(PLUGIN)["dependencies"] + project(REPOSITORY)["dependencies"]
    for extra in project(REPOSITORY)["optional-dependencies"].values():
        wanted += extra
    for requirement in map(Requirement, wanted):
        if requirement.name != "hdbench":
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)])
    assert "://" not in text  # no index, no host


def test_a_command_without_its_extra_says_what_brings_it(monkeypatch):
    for module, extra in group.EXTRAS.items():
        assert canonicalize_name(DISTRIBUTIONS.get(module, module)) in EXTRAS[extra]

    def lacking(name, *args, **kwargs):
        raise ModuleNotFoundError(f"No module named {name!r}", name="matplotlib")

    monkeypatch.setattr("hdbench.suite.load.load_plan", lacking)
    result = CliRunner().invoke(main, ["plan"])
    assert result.exit_code == 2 and "pip install 'hdbench[report]'" in result.output


@pytest.mark.slow
def test_evaluation_imports_nothing_of_any_extra():
    """Every module of it, in a process in which the extras' modules are not there."""
    hidden = sorted(group.EXTRAS.keys() | {"pygments", "submitit", "threadpoolctl", "pytest"})
    program = f"""
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys({hidden}))
import hdbench.cli, hdbench.evaluation, hdbench.metrics, hdbench.report.protocols
for package in (hdbench.evaluation, hdbench.metrics):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for folder in ("hdbench/evaluation", "hdbench/metrics"):  # imports in functions, too
        assert not {n: path for n, path in imported(folder).items() if n not in BASE}


def test_the_wheel_brings_every_file_that_a_workspace_has():
    toml = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = toml["tool"]["setuptools"]["data-files"].values()
    brought = {
        path.relative_to(REPOSITORY).as_posix()
        for pattern in itertools.chain.from_iterable(patterns)
        for path in REPOSITORY.glob(pattern)
    }
    tracked = subprocess.run(
        ["git", "ls-files", *ENTRIES], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert brought >= set(tracked.stdout.split()) > set()
