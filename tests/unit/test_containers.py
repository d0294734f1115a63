"""The two recipes of containers: one image, the environment of the lock file, files that exist."""

from __future__ import annotations

import re

from tests.support.tiny import REPOSITORY

FOLDER = REPOSITORY / "containers"
DOCKER = {"FROM", "RUN", "WORKDIR", "COPY", "CMD"}


def instructions() -> list[tuple[str, str]]:
    lines = (FOLDER / "Dockerfile").read_text(encoding="utf-8").splitlines()
    pairs = [line.partition(" ") for line in lines if line and not line.startswith("#")]
    return [(name, rest) for name, _, rest in pairs]


def sections() -> dict[str, list[str]]:
    """Lines of an Apptainer definition by section, its header under ""."""
    parts: dict[str, list[str]] = {"": []}
    name = ""
    for line in (FOLDER / "hdbench.def").read_text(encoding="utf-8").splitlines():
        if line.startswith("%"):
            name = line[1:]
            parts[name] = []
        elif line.strip() and not line.startswith("#"):
            parts[name].append(line.strip())
    return parts


def test_both_recipes_have_the_same_base_and_steps():
    docker = instructions()
    assert {name for name, _ in docker} == DOCKER and docker[0][0] == "FROM"
    definition = sections()
    assert definition[""] == ["Bootstrap: docker", f"From: {docker[0][1]}"]
    steps = [rest for name, rest in docker if name == "RUN"]
    assert [line for line in definition["post"] if not line.startswith("cd ")] == steps
    (moved,) = [line.removeprefix("cd ") for line in definition["post"] if line.startswith("cd ")]
    assert definition["files"] == [f". {moved}"] and ("WORKDIR", moved) in docker


def test_the_environment_is_the_lock_files_installed_as_by_make():
    make = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    plugin = re.search(r"^PLUGIN := (.*)$", make, re.MULTILINE)[1]
    lock = re.search(r"^LOCK := (.*)$", make, re.MULTILINE)[1]
    assert "pip install --require-hashes -r $(LOCK)" in make
    assert "pip install --no-deps --no-build-isolation -e . -e $(PLUGIN)" in make
    packages = [rest for name, rest in instructions() if rest.startswith("pip install")]
    options = "pip install --no-cache-dir"
    assert packages == [
        f"{options} --require-hashes -r {lock}",
        f"{options} --no-deps --no-build-isolation . {plugin}",
    ]
    assert (REPOSITORY / lock).is_file() and (REPOSITORY / plugin / "pyproject.toml").is_file()


def test_what_is_copied_is_there_and_results_stay_outside():
    copied = [rest.split()[0] for name, rest in instructions() if name == "COPY"]
    assert copied and all((REPOSITORY / path).exists() for path in copied)
    left_out = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").split()
    assert {".git", ".venv", "results", "data", "weights"} <= set(left_out)
