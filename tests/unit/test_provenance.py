"""What a run was made with: the committed record, and the environment that stages note."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import pytest

from hdbench.core.files import sha256
from hdbench.core.provenance import UNKNOWN, environment, lock
from hdbench.report.provenance import ENVIRONMENTS, STAGES, described, ran, read_run
from tests.support.tiny import REPOSITORY

COMMITTED = sorted((REPOSITORY / "paper_tables").glob(f"*/{STAGES}"))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name)
def test_a_committed_record_is_read_and_written_to_the_byte(path):
    run = read_run(path.parent)
    assert run.suite == path.parent.name and 0 < len(run.stages) <= run.stages_of_plan
    for file, content in run.contents(path.parent).items():
        assert file.read_bytes() == content, file
    named = {stage.environment for stage in run.stages}
    assert named == run.environments.keys()  # each once, and none that no stage names
    assert len({str(sorted(items.items())) for items in run.environments.values()}) == len(named)
    text = path.with_name(ENVIRONMENTS).read_text() + path.read_text()
    assert "/home" not in text and "/work" not in text and "/tmp" not in text


@pytest.mark.parametrize("commit", ["a" * 40, "a" * 40 + "-dirty", UNKNOWN])
def test_a_row_has_the_commit_and_whether_the_tree_was_clean(commit):
    manifest = {"id": "data/x-0", "core_seconds": 1, "environment": {"commit": commit, "x": "1"}}
    stage, items = ran(manifest)
    assert described(stage) == commit and stage.clean == (commit == "a" * 40)
    assert items == {"x": "1"} and stage.environment == ran(manifest)[0].environment
    assert stage.environment != ran(manifest | {"registrations": {"x": "1"}})[0].environment


def test_an_environment_names_no_machine_and_no_folder():
    recorded = environment("cpu")
    assert recorded.keys() >= {"python", "torch", "system", "machine", "lock", "commit"}
    for value in recorded.values():
        assert value != platform.node() and os.sep not in value and str(Path.home()) not in value


def test_the_lock_is_named_where_what_is_installed_has_its_versions(tmp_path):
    file = tmp_path / "requirements.lock"
    assert lock(file) == UNKNOWN
    lock.cache_clear()
    numpy = f"numpy=={version('numpy')} ; python_version >= '3' \\\n    --hash=sha256:0\n"
    elsewhere = "torch==0.1 ; sys_platform == 'nowhere'\nnot-installed==1\n"
    file.write_text("# comment\n" + numpy + elsewhere)
    assert lock(file) == sha256(file)
    lock.cache_clear()
    file.write_text(numpy + "pandas==0.1\n")
    assert lock(file) == f"other: pandas {version('pandas')}, locked 0.1"
    lock.cache_clear()
    file.write_text("<<<<<<< HEAD\n" + numpy)
    assert lock(file).startswith("other: requirements.lock has a line that is no requirement")
    lock.cache_clear()
