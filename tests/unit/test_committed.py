"""Committed tables are renderings of the metrics committed beside them."""

import pytest

from hdbench.suite.load import load_plan
from hdbench.tools.verify.derive import check_suite
from tests.support import shipped
from tests.support.tiny import REPOSITORY


@pytest.mark.parametrize("suite", ["claims_one_teacher", "textured_digits", "local_flaws"])
def test_committed_tables_are_renderings_of_the_committed_metrics(suite, monkeypatch):
    """Suites of several chains; with one, intervals are of artifacts that are not committed."""
    monkeypatch.chdir(REPOSITORY)
    plan = shipped.as_shipped(load_plan(suite))
    assert not list(check_suite(plan, REPOSITORY / "paper_tables"))
