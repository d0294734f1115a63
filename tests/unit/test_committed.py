"""Committed tables are renderings of the metrics committed beside them, to the byte."""

import pandas as pd
import pytest

from hdbench.experiments.flops import read_flops
from hdbench.experiments.theory.values import read_theory
from hdbench.metrics.records import read_metrics
from hdbench.report.claims import write_claims
from hdbench.report.numbers import Numbers
from hdbench.report.rules import read_rules
from hdbench.report.tables import write_tables
from hdbench.report.validation import expected_digests, of_suite
from hdbench.suite.load import load_plan
from tests.support import shipped
from tests.support.tiny import REPOSITORY

COMMITTED = REPOSITORY / "paper_tables"


@pytest.mark.parametrize("suite", ["textured_digits", "local_flaws"])
def test_committed_tables_are_renderings_of_the_committed_metrics(suite, tmp_path, monkeypatch):
    """Suites of several chains; with one, intervals are of artifacts that are not committed."""
    monkeypatch.chdir(REPOSITORY)
    plan = shipped.as_shipped(load_plan(suite))
    frame = of_suite(plan, read_metrics(COMMITTED / suite / "metrics.csv"), [])
    frame = frame.assign(digest=expected_digests(plan, frame))  # whatever its stages' ids were
    write_tables(plan, frame, tmp_path, tmp_path)
    theory = read_theory(COMMITTED / "theory/metrics.csv", missing_is_none=False)
    flops = read_flops(COMMITTED / "flops/metrics.csv")
    write_claims(Numbers(plan, frame, tmp_path), read_rules(), tmp_path, theory, flops=flops)
    paths = [path for path in (COMMITTED / suite).iterdir() if path.suffix in (".md", ".tex")]
    paths += [
        path for path in (COMMITTED / suite).glob("*.csv") if path.stem not in ("claims", "metrics")
    ]
    assert len(paths) > 20
    for path in paths:
        assert (tmp_path / suite / path.name).read_bytes() == path.read_bytes(), path.name
    claims = [pd.read_csv(folder / suite / "claims.csv") for folder in (COMMITTED, tmp_path)]
    pd.testing.assert_frame_equal(*claims)  # the last digits of p are SciPy's
