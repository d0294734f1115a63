"""Verdicts on claims: each effect against scipy's own test, Holm by hand, and what a verdict
follows from.
"""

import math

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy import stats

from hdbench.cli import main
from hdbench.core.config import validate
from hdbench.core.errors import UserError
from hdbench.report.claims import judge, values_of, write_claims
from hdbench.report.numbers import Numbers
from hdbench.report.rules import (
    RULES,
    Claim,
    Hypothesis,
    Rules,
    holm,
    outcome,
    read_rules,
    rule_text,
    verdict_of,
)
from hdbench.suite.load import load_plan
from tests.support.tiny import tiny_plan, write_suite
from tests.unit.test_tables import synthetic, values

SEEDS = {"seeds": [0, 1, 2, 3]}


@pytest.fixture
def numbers(tmp_path) -> Numbers:
    plan = tiny_plan(tmp_path, SEEDS)
    return Numbers(plan, synthetic(plan), tmp_path)


def hypothesis(effect, arms, metric="fd_test", **bound) -> Hypothesis:
    return Hypothesis(effect=effect, metric=metric, arms=arms, **bound)


def with_values(numbers, changes) -> Numbers:
    """The numbers with other values of an arm's metric (and all of its sampling steps), in the
    order of seeds.
    """
    frame = numbers.frame.copy()
    for (arm, metric), new in changes.items():
        for _, group in frame[(frame.arm == arm) & (frame.metric == metric)].groupby("nfe"):
            frame.loc[group.index, "value"] = new
    return Numbers(numbers.plan, frame, numbers.results)


def judged(numbers, **claims) -> pd.DataFrame:
    return judge(numbers, Rules(level=0.05, claims=claims)).set_index("claim")


def test_a_suite_made_for_some_claims_judges_and_corrects_for_these_alone(tmp_path):
    def found(changes) -> pd.DataFrame:
        plan = tiny_plan(tmp_path, SEEDS | changes)
        return judged(
            Numbers(plan, synthetic(plan), tmp_path),
            **{
                name: Claim(
                    says=name, tests=(hypothesis("difference", {"hd": 1, other: -1}, below=0),)
                )
                for name, other in (("A", "dmd"), ("B", "td@1"))
            },
        )

    both, one = found({}), found({"claims": ["B"]})
    assert (
        one.sentence["A"] == "This suite is not made for it."
        and one.verdict["A"] == "not testable here"
    )
    assert one.p["B"] == both.p["B"] == one.p_holm["B"] and math.isnan(one.p_holm["A"])
    assert both.p_holm["B"] == pytest.approx(min(1, max(2 * both.p.min(), both.p["B"])))
    with pytest.raises(UserError, match="suite tiny: claims: no claim 'b'"):
        found({"claims": ["b"]})


def test_a_difference_is_the_paired_t_test(numbers):
    o = outcome(values_of(numbers), hypothesis("difference", {"hd": 1, "dmd": -1}, below=0.5))
    x = values(numbers.frame, "hd", "fd_test_64") - values(numbers.frame, "dmd", "fd_test_64")
    expected = stats.ttest_1samp(x, 0.5)
    assert (o.effect, o.p, o.chains) == (pytest.approx(x.mean()), pytest.approx(expected.pvalue), 4)
    assert (o.low, o.high) == pytest.approx(tuple(expected.confidence_interval()))


def test_a_ratio_is_the_t_test_of_logarithms_and_steps_are_told_apart(numbers):
    o = outcome(values_of(numbers), hypothesis("ratio", {"hd": 1, "teacher@4": -1}, below=1.1))
    x = np.log(
        values(numbers.frame, "hd", "fd_test_64")
        / values(numbers.frame, "teacher", "fd_test_64", nfe=8)
    )
    expected = stats.ttest_1samp(x, math.log(1.1))
    assert (o.effect, o.p) == (pytest.approx(np.exp(x.mean())), pytest.approx(expected.pvalue))
    assert (o.low, o.high) == pytest.approx(tuple(np.exp(expected.confidence_interval())))


def test_a_deviation_is_of_the_distance_to_one_on_a_log_scale(numbers):
    o = outcome(
        values_of(numbers), hypothesis("deviation", {"hd": 1, "td@1": -1}, "power_band4", below=0)
    )
    a, b = (values(numbers.frame, arm, "power_band4_64") for arm in ("hd", "td"))
    assert o.effect == pytest.approx(np.mean(np.abs(np.log(a)) - np.abs(np.log(b))))


def test_a_spread_is_the_f_test_of_two_variances(numbers):
    o = outcome(values_of(numbers), hypothesis("spread", {"hd": -1, "dmd": 1}, above=1))
    a, b = (values(numbers.frame, arm, "fd_test_64").var(ddof=1) for arm in ("dmd", "hd"))
    upper = stats.f.sf(a / b, 3, 3)
    assert (o.effect, o.p) == (
        pytest.approx((a / b) ** 0.5),
        pytest.approx(2 * min(upper, 1 - upper)),
    )
    assert o.low == pytest.approx((a / b / stats.f.ppf(0.975, 3, 3)) ** 0.5)
    assert o.high == pytest.approx((a / b * stats.f.ppf(0.975, 3, 3)) ** 0.5)


def test_a_value_is_the_t_test_of_one_arm(numbers):
    o = outcome(values_of(numbers), hypothesis("value", {"teacher@4": 1}, below=6))
    x = values(numbers.frame, "teacher", "fd_test_64", nfe=8)
    expected = stats.ttest_1samp(x, 6)
    assert (o.effect, o.p, o.chains) == (pytest.approx(x.mean()), pytest.approx(expected.pvalue), 4)
    assert (o.low, o.high) == pytest.approx(tuple(expected.confidence_interval()))
    assert rule_text(o.test) == "value of fd_test, teacher@4, below 6"


def test_a_difference_of_differences_has_four_arms(numbers):
    arms = {"hd_awd_logit": 1, "hd_patch": -1, "dmd": -1, "dmd_total": 1}
    o = outcome(values_of(numbers), hypothesis("difference", arms, below=0))
    assert o.effect == pytest.approx(
        sum(k * values(numbers.frame, arm, "fd_test_64").mean() for arm, k in arms.items())
    )


def test_holm_by_hand():
    """.01 x 4, .02 x 3, max(.03 x 2, before), max(.04 x 1, before); what is not a number counts for
    nothing.
    """
    assert holm([0.03, 0.01, math.nan, 0.04, 0.02]) == pytest.approx(
        [0.06, 0.04, math.nan, 0.06, 0.06], nan_ok=True
    )
    assert holm([0.6, 0.7]) == [1, 1] and holm([]) == []


def test_holm_keeps_the_rate_of_any_false_finding():
    """At most 5% of families of 8 true bounds have any corrected p below .05."""
    draws = np.random.default_rng(0).uniform(size=(4000, 8))
    rate = np.mean([min(holm(list(p))) < 0.05 for p in draws])
    assert 0.035 < rate < 0.06


@pytest.mark.parametrize(
    ("combine", "findings", "verdict"),
    [
        ("all", ["holds", "holds"], "reproduced"),
        ("all", ["holds", "undecided"], "not reproduced"),
        ("all", ["holds", "reversed"], "not reproduced"),
        ("all", ["reversed", "undecided"], "reversed"),
        ("all", ["holds", "not made"], "not testable here"),
        ("any", ["holds", "reversed"], "reproduced"),
        ("any", ["undecided", "not made"], "not reproduced"),
        ("any", ["not made"], "not testable here"),
        ("all", ["not judged"], "not testable here"),
        ("all", [], "not testable here"),
    ],
)
def test_verdicts_follow_from_findings(combine, findings, verdict):
    assert verdict_of(Claim(says="x", combine=combine, tests=()), findings) == verdict


@pytest.mark.parametrize(
    ("shift", "verdict"), [(-9.0, "reproduced"), (9.0, "reversed"), (0.0, "not reproduced")]
)
def test_planted_effects_are_found_with_their_sign(numbers, shift, verdict):
    noise = np.array([0.1, -0.2, 0.15, -0.05])
    planted = with_values(
        numbers, {("hd", "fd_test_64"): 20 + shift + noise, ("dmd", "fd_test_64"): [20.0] * 4}
    )
    found = judged(
        planted, C=Claim(says="x", tests=(hypothesis("difference", {"hd": 1, "dmd": -1}, below=0),))
    )
    assert found.verdict["C"] == verdict
    turned = judged(
        planted, C=Claim(says="x", tests=(hypothesis("difference", {"hd": -1, "dmd": 1}, above=0),))
    )
    assert turned.verdict["C"] == verdict


def test_correction_is_over_all_tests_that_the_suite_can_make(numbers):
    one = hypothesis("difference", {"hd": 1, "dmd": -1}, below=0)
    alone, other = Claim(says="x", tests=(one,)), Claim(says="y", tests=(one, one))
    elsewhere = Claim(says="z", suites=("imagenet256",), tests=(one,))
    p = judged(numbers, A=alone).p["A"]
    found = judged(numbers, A=alone, B=other, E=elsewhere)
    assert found.p_holm["A"] == pytest.approx(min(1, 3 * p)) and math.isnan(found.p_holm["E"])
    assert found.verdict["E"] == "not testable here" and found.finding["E"] == "not judged"
    assert "imagenet256" in found.sentence["E"]


def test_missing_arms_one_chain_and_what_is_not_a_number_are_said(numbers, tmp_path):
    difference = {"hd": 1, "dmd": -1}
    claim = Claim(says="x", tests=(hypothesis("difference", difference, below=0),))
    gone = Numbers(numbers.plan, numbers.frame[numbers.frame.arm != "dmd"], tmp_path)
    assert judged(gone, C=claim).sentence["C"] == "No numbers of dmd."
    unknown = Claim(says="x", tests=(hypothesis("difference", {"hd": 1, "new_arm": -1}, below=0),))
    assert judged(numbers, C=unknown).sentence["C"] == "No numbers of new_arm."
    for broken in (
        with_values(numbers, {("hd", "fd_test_64"): [math.nan, 1, 2, 3]}),
        Numbers(
            numbers.plan,
            numbers.frame[(numbers.frame.seed == 0) | numbers.frame.seed.isna()],
            tmp_path,
        ),
    ):
        found = judged(broken, C=claim)
        assert (
            found.verdict["C"] == "not testable here"
            and "not finite, or there are fewer" in found.sentence["C"]
        )


def test_chains_that_only_one_arm_has_are_left_out(numbers, tmp_path):
    frame = numbers.frame[~((numbers.frame.arm == "dmd") & (numbers.frame.seed == 2))]
    o = outcome(
        values_of(Numbers(numbers.plan, frame, tmp_path)),
        hypothesis("difference", {"hd": 1, "dmd": -1}, below=0),
    )
    kept = [0, 1, 3]
    x = (
        values(numbers.frame, "hd", "fd_test_64")[kept]
        - values(numbers.frame, "dmd", "fd_test_64")[kept]
    )
    assert o.chains == 3 and o.p == pytest.approx(stats.ttest_1samp(x, 0).pvalue)


def test_every_arm_and_metric_of_the_committed_rules_is_of_the_reference_suite():
    plan, rules = load_plan("textured_digits"), read_rules()
    assert set(rules.claims) == {f"C{number}" for number in range(1, 10)}
    steps = {(row.arm, row.steps) for row in plan.rows}
    for claim in rules.claims.values():
        for test in claim.tests if claim.source == "suite" else ():
            for name in test.arms:
                arm, _, number = name.partition("@")
                assert arm in plan.arms and (not number or (arm, int(number)) in steps), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"below": 0, "above": 1}, "give either below or above"),
        ({}, "give either below or above"),
        ({"effect": "ratio", "below": -1}, "positive"),
        ({"effect": "spread", "above": 1, "arms": {"a": 1, "b": 1}}, "1 and -1"),
        ({"effect": "value", "above": 1}, "one arm with the coefficient 1"),
        ({"effect": "ratio", "below": 1, "arms": {"a": 1}}, "arms of a ratio are at least two"),
        ({"effect": "mean", "below": 0}, "valid: "),
        ({"below": 0, "bellow": 1}, "did you mean 'below'"),
    ],
)
def test_a_mistake_in_the_rules_is_one_sentence(change, message):
    test = {"effect": "difference", "metric": "m", "arms": {"a": 1, "b": -1}} | change
    with pytest.raises(UserError, match=message):
        validate(
            Rules, {"level": 0.05, "claims": {"C": {"says": "x", "tests": [test]}}}, "rules.yaml"
        )


def test_the_command_writes_csv_markdown_and_tex(tmp_path):
    suite = write_suite(tmp_path, SEEDS)
    plan = load_plan(str(suite))
    synthetic(plan).to_csv(tmp_path / "metrics.csv", index=False)
    result = CliRunner().invoke(
        main,
        [
            "claims",
            "--suite",
            str(suite),
            "--metrics",
            str(tmp_path / "metrics.csv"),
            "--rules",
            str(RULES),
            "--out",
            str(tmp_path / "out"),
            "--results",
            str(tmp_path / "none"),
        ],
    )
    assert result.exit_code == 0, result.output
    frame = pd.read_csv(tmp_path / "out" / plan.name / "claims.csv")
    text = (tmp_path / "out" / plan.name / "claims.md").read_text()
    assert list(frame.claim.unique()) == [f"C{number}" for number in range(1, 10)]
    for row in frame[frame.effect.notna()].itertuples():
        assert f"{row.effect:.3g}" in text and row.rule in text
    assert (tmp_path / "out" / plan.name / "claims.tex").read_text().count(r"\toprule") == 2
    other = synthetic(plan).assign(digest="0" * 16)
    written = write_claims(
        Numbers(plan, other, tmp_path, lenient=True), read_rules(RULES), tmp_path / "out"
    )
    assert all(
        "made by another version" in path.read_text() for path in written if path.suffix != ".csv"
    )
