"""Files that forges read: workflows call the Makefile's targets, forms and versions are right."""

from __future__ import annotations

import re

import pytest
import yaml

import hdbench
from tests.support.tiny import REPOSITORY

TARGETS = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
WORKFLOWS = sorted((REPOSITORY / ".github/workflows").glob("*.yml"))
FORMS = sorted((REPOSITORY / ".github/ISSUE_TEMPLATE").glob("*.yml"))


def test_workflows_and_documents_call_targets_that_there_are():
    assert WORKFLOWS and "demo" in TARGETS
    paths = [*WORKFLOWS, REPOSITORY / ".ci/run", *REPOSITORY.glob("*.md")]
    paths += (REPOSITORY / "docs").rglob("*.md")
    for path in paths:
        called = re.findall(r"(?:^|[ `])make ([a-z][a-z-]+)", path.read_text(encoding="utf-8"))
        commands = {name for name in called if name in TARGETS or "-" in name}
        assert commands <= TARGETS, (path, commands - TARGETS)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_tests_the_supported_versions(path):
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    assert all(step.keys() & {"run", "uses"} for job in jobs.values() for step in job["steps"])
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_has_a_name_and_what_it_asks(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert form["name"] and form["description"]
    assert all(item["attributes"]["label"] for item in form["body"])


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == hdbench.__version__
    assert citation["license"] == "Apache-2.0" and citation["authors"]
