"""A metric whose features a model was trained on is shown and marked, but decides nothing."""

import math
from dataclasses import replace

import pytest

from hdbench.evaluation.weights import PUBLIC
from hdbench.methods import OBJECTIVES
from hdbench.methods.discriminators import HEADS
from hdbench.methods.distribution.dmd import DMD
from hdbench.metrics import METRICS
from hdbench.report import document
from hdbench.report.claims import judge
from hdbench.report.numbers import Numbers
from hdbench.report.rules import Claim, Rules
from hdbench.report.tables.render import render
from hdbench.suite.trained_on import CLASSIFIER, read_by, refusal, shared, trained_on
from tests.support.tiny import tiny_plan
from tests.unit.test_claims import HD_DMD, hypothesis
from tests.unit.test_tables import synthetic

POWER = hypothesis("ratio", {"hd": 1, "dmd": -1}, metric="power_band2", below=1)


@pytest.fixture
def numbers(tmp_path) -> Numbers:
    plan = tiny_plan(tmp_path, {"seeds": list(range(10))})
    frame = synthetic(plan)
    frame.loc[(frame.arm == "dmd") & (frame.metric == "fd_test_64"), "value"] = 1e-3  # the best
    return Numbers(plan, frame, tmp_path)


@pytest.fixture
def on_the_classifier(monkeypatch):
    """DMD as if its loss saw the classifier that measures."""
    monkeypatch.setattr(DMD, "trains_on", (CLASSIFIER,))


def verdicts(numbers: Numbers):
    claims = {
        "distance": Claim(says="x", tests=(HD_DMD,)),
        "power": Claim(says="y", tests=(POWER,)),
    }
    return judge(numbers, Rules(level=0.05, claims=claims)).set_index("claim")


def test_everything_says_what_it_trains_on_and_reads_in_known_names():
    for kind in (*OBJECTIVES.values(), *HEADS.values()):
        assert isinstance(kind.trains_on, tuple), kind
        if kind.__module__.startswith("hdbench."):
            assert set(kind.trains_on) <= {*PUBLIC, CLASSIFIER}, kind
    for metric in METRICS.values():
        if metric.needs:
            assert metric.reads, f"{metric.name} compares features, so it reads some"


def test_what_a_metric_reads_is_its_protocols_network(numbers):
    plan = numbers.plan
    suite = plan.suite
    assert read_by(plan, "fd_test") == read_by(plan, "recall_64") == {"classifier"}
    assert read_by(plan, "power_band2_64") == read_by(plan, "train_images") == frozenset()
    evaluation = suite.evaluation.model_copy(update={"protocol": "imagenet256_wide"})
    plan = replace(plan, suite=suite.model_copy(update={"evaluation": evaluation}))
    assert read_by(plan, "fid_50k") == read_by(plan, "mind") == {"inception"}
    assert read_by(plan, "recall") == {"inception"}
    assert read_by(plan, "fdr3_50k") == {"convnextv2", "dinov2", "clip"}
    assert read_by(plan, "fdr6") == read_by(plan, "fdr3") | {"inception", "mae", "siglip2"}
    assert read_by(plan, "cmmd") == {"clip_336", "clip"}
    assert read_by(plan, "fd_dinov2") == {"dinov2"}


def test_a_stage_below_counts_and_another_arm_does_not(numbers, on_the_classifier):
    plan = numbers.plan
    assert trained_on(plan, "dmd") == trained_on(plan, "hd") == {"classifier"}
    assert trained_on(plan, "td") == frozenset()
    assert shared(plan, "hd", "fd_test_64") and not shared(plan, "hd", "power_band1_64")
    assert not shared(plan, "nobody", "fd_test_64")


def test_a_claim_by_such_a_metric_is_refused_in_one_sentence(numbers, on_the_classifier):
    frame = verdicts(numbers)
    assert (
        frame.verdict["distance"] == "not testable here"
        and frame.finding["distance"] == "not judged"
    )
    assert frame.sentence["distance"] == (
        "hd was trained on the features of classifier, which fd_test reads: a metric that is a "
        "training loss decides nothing; test one of other networks."
    )
    assert frame.verdict["power"] != "not testable here"
    assert refusal(numbers.plan, ["td", "teacher"], "fd_test") == ""


def test_claims_by_other_metrics_are_decided_as_before(numbers, monkeypatch):
    before = verdicts(numbers)
    assert "not testable here" not in set(before.verdict)
    alone = judge(numbers, Rules(level=0.05, claims={"power": Claim(says="y", tests=(POWER,))}))
    monkeypatch.setattr(DMD, "trains_on", ("classifier",))
    refused = verdicts(numbers).loc["power"]
    assert refused.low == alone.low[0]  # a claim that is not judged takes no share of the level
    assert refused.low != before.low["power"] and math.isfinite(refused.effect)


def test_tables_show_the_number_marked_and_do_not_rank_it(numbers, monkeypatch):
    table = render(numbers, "main")
    arms = [entry.arm for entry, _, _ in table.rows]
    column = [c.key for c in table.columns].index("fd_test_64")
    best = (arms.index("dmd"), column)
    assert table.ranks.get(best) == "best" and not table.trained
    monkeypatch.setattr(DMD, "trains_on", ("classifier",))
    table = render(numbers, "main")
    assert best in table.trained and best not in table.ranks
    text = document.to_markdown(table.document)
    row = next(line for line in text.splitlines() if "0.001" in line and "DMD" in line)
    assert "‖" in row and "‖ Trained on the features" in text
    assert "trained on a metric's features" in table.records().note[best[0]]
