"""Verdicts on claims: effects against direct computation, findings by their intervals, the logic
of several tests, and one sentence for each mistake.
"""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from hdbench.cli import main
from hdbench.core.config import validate
from hdbench.core.errors import UserError
from hdbench.metrics import metric_of
from hdbench.report.claims import judge, write_claims
from hdbench.report.effects import Mean, Measured, measured
from hdbench.report.numbers import Numbers
from hdbench.report.rules import RULES, Claim, Hypothesis, Margin, Rules, read_rules, rule_text
from hdbench.report.sequences import mean_interval, spread_interval
from hdbench.report.verdicts import Judgement, Levels, fewest, finding, judge_claim, verdict_of
from hdbench.suite.load import load_plan
from tests.support.tiny import tiny_plan, write_suite
from tests.unit.test_tables import synthetic, values

CLAIMS = "C1 C2 C2b C3 C4 C5 C5b C5c C5d C6 C7 C8 C9".split()
SEEDS = {"seeds": list(range(10))}
HALF = Margin(metrics=("fd_test",), size=4.0, secondary=0.5, reason="x")
NOISE = np.array([0.1, -0.2, 0.15, -0.05, 0.02, 0.12, -0.11, 0.07, -0.14, 0.04])


@pytest.fixture
def numbers(tmp_path) -> Numbers:
    plan = tiny_plan(tmp_path, SEEDS)
    return Numbers(plan, synthetic(plan), tmp_path)


def hypothesis(effect, arms, metric="fd_test", **bound) -> Hypothesis:
    return Hypothesis(effect=effect, metric=metric, arms=arms, **bound)


HD_DMD = hypothesis("difference", {"hd": 1, "dmd": -1}, below=0)


def with_values(numbers, changes) -> Numbers:
    """The numbers with other values of an arm's metric (and all of its sampling steps), in the
    order of seeds.
    """
    frame = numbers.frame.copy()
    for (arm, metric), new in changes.items():
        for _, group in frame[(frame.arm == arm) & (frame.metric == metric)].groupby("nfe"):
            frame.loc[group.index, "value"] = new
    return Numbers(numbers.plan, frame, numbers.results)


def planted(numbers, shift, scatter=1.0) -> Numbers:
    """dmd at 20 and hd at 20 + shift, whose difference scatters by about 0.11 x scatter."""
    return with_values(
        numbers,
        {("hd", "fd_test_64"): 20 + shift + scatter * NOISE, ("dmd", "fd_test_64"): [20.0] * 10},
    )


def judged(numbers, margins=(), **claims) -> pd.DataFrame:
    rules = Rules(level=0.05, margins=margins, claims=claims)
    return judge(numbers, rules).set_index("claim")


def claim(*tests, **changes) -> Claim:
    return Claim(says="x", tests=tests, **changes)


def only(numbers, test, *margins) -> pd.Series:
    """The row of a claim of this test alone."""
    return judged(numbers, margins, C=claim(test)).loc["C"]


def test_a_difference_is_the_sequence_of_the_paired_differences(numbers):
    row = only(numbers, HD_DMD)
    x = values(numbers.frame, "hd", "fd_test_64") - values(numbers.frame, "dmd", "fd_test_64")
    assert (row.effect, row.chains) == (pytest.approx(x.mean()), 10)
    assert (row.low, row.high) == pytest.approx(mean_interval(x, 0.05))
    assert row.detectable == pytest.approx((row.high - row.low) / 2)


def test_a_ratio_is_of_logarithms_and_steps_are_told_apart(numbers):
    row = only(numbers, hypothesis("ratio", {"hd": 1, "teacher@4": -1}, below=1.1))
    teacher = values(numbers.frame, "teacher", "fd_test_64", nfe=8)
    x = np.log(values(numbers.frame, "hd", "fd_test_64") / teacher)
    assert row.effect == pytest.approx(np.exp(x.mean()))
    assert (row.low, row.high) == pytest.approx(tuple(np.exp(mean_interval(x, 0.05))))


def test_a_deviation_is_of_the_mean_logarithms_from_zero(numbers):
    row = only(numbers, hypothesis("deviation", {"hd": 1, "td@1": -1}, "power_band4", below=0))
    a, b = (np.log(values(numbers.frame, arm, "power_band4_64")) for arm in ("hd", "td"))
    assert row.effect == pytest.approx(abs(a.mean()) - abs(b.mean()))
    assert row.low <= row.effect <= row.high


def test_a_spread_is_paired(numbers):
    row = only(numbers, hypothesis("spread", {"hd": -1, "dmd": 1}, above=1))
    a, b = (values(numbers.frame, arm, "fd_test_64") for arm in ("dmd", "hd"))
    assert row.effect == pytest.approx(a.std(ddof=1) / b.std(ddof=1))
    assert (row.low, row.high) == pytest.approx(spread_interval(a, b, 0.05))


def test_a_value_is_of_one_arm(numbers):
    test = hypothesis("value", {"teacher@4": 1}, below=6)
    x = values(numbers.frame, "teacher", "fd_test_64", nfe=8)
    row = only(numbers, test)
    assert (row.low, row.high) == pytest.approx(mean_interval(x, 0.05))
    assert rule_text(test) == row.rule == "value of fd_test, teacher@4, below 6"


def test_a_difference_of_differences_has_four_arms(numbers):
    arms = {"hd_awd_logit": 1, "hd_patch": -1, "dmd": -1, "dmd_total": 1}
    row = only(numbers, hypothesis("difference", arms, below=0))
    assert row.effect == pytest.approx(
        sum(k * values(numbers.frame, arm, "fd_test_64").mean() for arm, k in arms.items())
    )


@pytest.mark.parametrize(
    ("shift", "scatter", "verdict", "narrower"),
    [
        (-9.0, 1, "supported", "supported"),
        (9.0, 1, "contradicted", "contradicted"),
        (0.0, 1, "negligible", "negligible"),
        (0.0, 10, "negligible", "undecided"),
        (0.0, 60, "undecided", "undecided"),
        (-1.0, 1, "supported", "supported"),  # on the claimed side, though within the margin
    ],
)
def test_planted_effects_are_found_with_their_sign(numbers, shift, scatter, verdict, narrower):
    numbers = planted(numbers, shift, scatter)
    turned = hypothesis("difference", {"hd": -1, "dmd": 1}, above=0)
    for test in (HD_DMD, turned):
        row = only(numbers, test, HALF)
        assert (row.verdict, row.verdict_secondary) == (verdict, narrower)
        assert row.finding == verdict and row.finding_secondary == narrower
    assert only(numbers, HD_DMD).verdict == ("undecided" if shift == 0 else verdict)  # no margin


@pytest.mark.parametrize(
    ("shift", "verdict"), [(0.0, "supported"), (9.0, "contradicted"), (-9.0, "contradicted")]
)
def test_a_claim_of_no_effect_is_within_the_margin_or_beyond_it(numbers, shift, verdict):
    test = hypothesis("difference", {"hd": 1, "dmd": -1}, within="margin")
    row = only(planted(numbers, shift), test, HALF)
    assert row.verdict == verdict and row.rule.endswith("within the margin")
    assert only(planted(numbers, 4, 10), test, HALF).verdict == "undecided"


@pytest.mark.parametrize(
    ("shift", "verdict"), [(0.0, "supported"), (3.0, "contradicted"), (-3.0, "contradicted")]
)
def test_a_range_has_two_ends(numbers, shift, verdict):
    test = hypothesis("ratio", {"hd": 1, "dmd": -1}, above=0.9, below=1.1)
    row = only(planted(numbers, shift), test)
    assert row.verdict == verdict and row.rule.endswith("between 0.9 and 1.1")


def test_a_relative_margin_is_a_contrast_with_its_arm_seed_by_seed(numbers):
    """|d| < 20% of T: d - .2 T is below 0 and d + .2 T above it, so the scatter of T counts."""
    margin = Margin(metrics=("fd_*",), share=0.2, of="teacher@4", secondary=0.01, reason="x")
    teacher = 20 + 5 * NOISE[::-1]
    numbers = with_values(planted(numbers, 1.0, 8), {("teacher", "fd_test_64"): teacher})
    x = 1 + 8 * NOISE
    row = only(numbers, HD_DMD, margin)
    assert mean_interval(x - 0.2 * teacher, 0.05)[1] < 0 < mean_interval(x + 0.2 * teacher, 0.05)[0]
    assert (row.verdict, row.verdict_secondary) == ("negligible", "undecided")
    assert row.margin.startswith("20% of teacher@4, 4.0") and row.margin.endswith("(1%)")
    wild = with_values(numbers, {("teacher", "fd_test_64"): 20 + 150 * NOISE})
    assert only(wild, HD_DMD, margin).verdict == "undecided"  # of the same mean
    gone = Numbers(numbers.plan, numbers.frame[numbers.frame.arm != "teacher"], numbers.results)
    assert only(gone, HD_DMD, margin).verdict == "undecided"


def test_a_count_is_exact_and_takes_no_share_of_the_level(numbers):
    test = hypothesis("ratio", {"teacher@4": 1, "hd": -1}, "sampling_flops", above=7, unit="exact")
    frame = numbers.frame[numbers.frame.metric == "fd_test_64"]
    counts = frame.assign(metric="sampling_flops", value=frame.nfe.clip(1) * 1.0, protocol="cost")
    counted = Numbers(numbers.plan, pd.concat([numbers.frame, counts]), numbers.results)
    found = judged(counted, A=claim(HD_DMD), C=claim(test))
    assert found.verdict["C"] == "supported" and found.found["C"] == "8"
    assert found.level["A"] == 0.05 and math.isnan(found.level["C"])
    chained = test.model_copy(update={"unit": "chain"})
    row = only(counted, chained)
    assert row.verdict == "not testable here" and "unit `exact`" in row.sentence
    within = hypothesis(
        "difference", {"teacher@4": 1, "hd": -1}, "sampling_flops", within="margin", unit="exact"
    )
    for share, verdict in ((0.9, "supported"), (0.8, "contradicted")):  # of 8, the gap is 7
        margin = Margin(metrics=("sampling_flops",), share=share, of="teacher@4", reason="x")
        assert only(counted, within, margin).verdict == verdict
    differing = test.model_copy(update={"metric": "fd_test"})
    assert "declared exact differs" in only(counted, differing).sentence


def test_the_level_is_divided_over_claims_and_within_them_where_one_test_decides(numbers):
    other = hypothesis("difference", {"hd": 1, "td@1": -1}, below=0)
    elsewhere = Claim(says="z", suites=("imagenet256",), tests=(HD_DMD,))
    found = judged(numbers, A=claim(HD_DMD), B=claim(HD_DMD, other), E=elsewhere)
    x = values(numbers.frame, "hd", "fd_test_64") - values(numbers.frame, "dmd", "fd_test_64")
    assert set(found.level) == {0.025}
    a, b = found.loc["A"], found.loc["B"].iloc[0]
    assert (a.low, a.low_alone) == pytest.approx((mean_interval(x, 0.025)[0],) * 2)
    assert (b.low, b.low_alone) == pytest.approx(
        (mean_interval(x, 0.025)[0], mean_interval(x, 0.0125)[0])
    )
    assert found.verdict["E"] == "not testable here" and found.finding["E"] == "not judged"
    assert "imagenet256" in found.sentence["E"]
    claims = (claim(HD_DMD, other), claim(HD_DMD, other, combine="any"))
    every, some = (Levels.of(one, 0.02) for one in claims)
    assert (every.support, every.refute) == (some.refute, some.support) == (0.02, 0.01)


def test_what_one_test_decides_takes_the_narrower_level(numbers):
    """hd is just above dmd at the level of one test, not at that of one in twelve."""
    scatters = np.linspace(1, 40, 200)
    lows = [mean_interval(1 + scatter * NOISE, 0.05)[0] for scatter in scatters]
    just = planted(numbers, 1.0, scatters[np.argmin(np.abs(np.array(lows) - 0.05))])
    assert only(just, HD_DMD).verdict == "contradicted"
    many = judged(just, C=claim(*[HD_DMD] * 12))
    assert set(many.verdict) == {"undecided"}
    dual = judged(just, C=claim(*[HD_DMD] * 12, combine="any"))
    assert set(dual.verdict) == {"contradicted"}  # all of them, so at the claim's level


@pytest.mark.parametrize(
    ("combine", "findings", "verdict"),
    [
        ("all", ["supported", "supported"], "supported"),
        ("all", ["supported", "undecided"], "undecided"),
        ("all", ["supported", "contradicted"], "contradicted"),
        ("all", ["negligible", "undecided"], "negligible"),
        ("all", ["negligible", "contradicted"], "contradicted"),
        ("all", ["negligible", "not made"], "negligible"),
        ("all", ["supported", "not made"], "not testable here"),
        ("any", ["supported", "contradicted"], "supported"),
        ("any", ["supported", "not made"], "supported"),
        ("any", ["contradicted", "contradicted"], "contradicted"),
        ("any", ["contradicted", "negligible"], "negligible"),
        ("any", ["contradicted", "undecided"], "undecided"),
        ("any", ["contradicted", "not made"], "undecided"),
        ("any", ["not made"], "not testable here"),
        ("all", ["not judged"], "not testable here"),
        ("all", [], "not testable here"),
    ],
)
def test_verdicts_follow_from_findings(combine, findings, verdict):
    assert verdict_of(Claim(says="x", combine=combine, tests=()), findings) == verdict


def test_any_is_the_dual_of_all():
    """Not (a and b) is (not a) or (not b), in three values."""
    opposite = {"supported": "contradicted", "contradicted": "supported", "undecided": "undecided"}
    every, some = (Claim(says="x", combine=word, tests=()) for word in ("all", "any"))
    for a in opposite:
        for b in opposite:
            turned = [opposite[a], opposite[b]]
            assert opposite[verdict_of(every, [a, b])] == verdict_of(some, turned)


@pytest.mark.parametrize("combine", ["all", "any"])
def test_a_wrong_verdict_is_as_rare_as_its_level_whichever_way_it_is_wrong(combine):
    """Two of three tests at their bounds, and one where it cannot decide: errors over all looks."""
    rng = np.random.default_rng(0)
    sure = {"all": -50.0, "any": 50.0}[combine]  # so that the others decide
    wrong = {"supported": 0, "contradicted": 0}
    for _ in range(300):
        x = rng.normal(size=(3, 14)) + np.array([[0.0], [0.0], [sure]])
        looks = {verdict_at(x[:, :n], combine, 0.1) for n in range(4, 15)}
        for verdict in wrong:
            wrong[verdict] += verdict in looks
    assert max(wrong.values()) / 300 <= 0.1


def verdict_at(x, combine, level) -> str:
    """Of the claim that the means of the rows of x (tests, seeds) are below 0."""
    one = claim(*[HD_DMD] * len(x), combine=combine)
    effects = [Mean(values=values, n=len(values), mixture=1.0) for values in x]
    return Judgement(
        claim=one,
        levels=Levels.of(one, level),
        tests=tuple(Measured(test=HD_DMD, effect=e, seeds=e.n) for e in effects),
        margins=(None,) * len(x),
        mixture=1.0,
    ).verdict


def test_the_sentence_says_which_test_decided_and_what_is_missing(numbers, tmp_path):
    td = hypothesis("difference", {"td@1": 1, "dmd": -1}, below=0)
    numbers = with_values(planted(numbers, -9.0), {("td", "fd_test_64"): 29 + NOISE})
    both = {"A": claim(HD_DMD, td), "B": claim(HD_DMD, td, combine="any")}
    found = judged(numbers, **both).groupby(level=0).first()
    assert found.sentence["A"] == (
        "Decided by td@1 - dmd in fd_test: contradicted; all of 2 tests must be supported."
    )
    assert found.sentence["B"] == (
        "Decided by hd - dmd in fd_test: supported; any of 2 tests must be supported."
    )
    assert only(numbers, HD_DMD).sentence == "Its test is supported."
    assert judged(numbers, A=claim(HD_DMD, HD_DMD)).sentence.iloc[0] == (
        "Of 2 tests: 2 supported; all of them must be supported."
    )
    row = only(planted(numbers, -1.0, 20), HD_DMD)
    assert row.verdict == "undecided" and row.needed > 10
    assert row.sentence == (
        "At 10 chains its test is undecided; at these means and scatters about "
        f"{row.needed} would decide."
    )
    unsettled = with_values(numbers, {("td", "fd_test_64"): 20 + 20 * NOISE})
    assert (
        judged(unsettled, A=claim(HD_DMD, td))
        .sentence.iloc[0]
        .startswith("At 10 chains 1 of 2 tests is undecided (td@1 - dmd in fd_test); at these")
    )
    absent = hypothesis("spread", {"hd": 1, "dmd": -1}, above=1, unit="stage2_seed")
    either = judged(planted(numbers, -1.0, 20), A=claim(HD_DMD, absent, combine="any"))
    assert either.sentence.iloc[0].startswith(
        "At 10 chains 1 of 2 tests is undecided (hd - dmd in fd_test), 1 not computed "
        "(hd / dmd in fd_test); at these"
    )
    narrow = only(planted(numbers, 0.0, 10), HD_DMD, HALF)
    assert narrow.sentence == "Its test is negligible. At the narrower margin: undecided."
    few = Numbers(numbers.plan, numbers.frame[numbers.frame.seed.isin([0, 1, 2])], tmp_path)
    assert only(few, HD_DMD).sentence.startswith(
        "At 3 chains its test is undecided, since an interval takes at least 5; at these"
    )


def test_the_number_needed_is_the_first_at_which_the_interval_decides(numbers):
    row = only(planted(numbers, -1.0, 20), HD_DMD)
    x = -1 + 20 * NOISE
    assert mean_interval(x, 0.05, n=row.needed)[1] < 0 < mean_interval(x, 0.05, n=row.needed - 1)[1]
    assert fewest(lambda n: n >= 77) == 77 and fewest(lambda n: n >= 10_000) == 10_000
    assert fewest(lambda n: False) is None


def test_missing_arms_one_chain_and_what_is_not_a_number_are_said(numbers, tmp_path):
    gone = Numbers(numbers.plan, numbers.frame[numbers.frame.arm != "dmd"], tmp_path)
    assert only(gone, HD_DMD).sentence == "No numbers of dmd."
    unknown = hypothesis("difference", {"hd": 1, "new_arm": -1}, below=0)
    assert only(numbers, unknown).sentence == "No numbers of new_arm."
    broken = only(with_values(numbers, {("hd", "fd_test_64"): [math.nan, *range(1, 10)]}), HD_DMD)
    assert broken.verdict == "not testable here"
    assert broken.sentence == "Not computed: a number is missing or not finite."
    zero = with_values(numbers, {("hd", "fd_test_64"): [0.0, *range(1, 10)]})
    ratio = hypothesis("ratio", {"hd": 1, "dmd": -1}, below=1)
    assert "no logarithm" in only(zero, ratio).sentence
    first = numbers.frame[(numbers.frame.seed == 0) | numbers.frame.seed.isna()]
    one = only(Numbers(numbers.plan, first, tmp_path), HD_DMD)
    assert (one.verdict, one.chains) == ("undecided", 1) and pd.isna(one.needed)
    assert one.sentence == (
        "At one chain its test is undecided, since an interval takes at least 5; one says nothing "
        "of another training run."
    )


def test_chains_that_only_one_arm_has_are_left_out(numbers, tmp_path):
    frame = numbers.frame[~((numbers.frame.arm == "dmd") & (numbers.frame.seed == 2))]
    row = only(Numbers(numbers.plan, frame, tmp_path), HD_DMD)
    kept = [0, 1, *range(3, 10)]
    x = values(numbers.frame, "hd", "fd_test_64") - values(numbers.frame, "dmd", "fd_test_64")
    assert row.chains == 9 and row.effect == pytest.approx(x[kept].mean())


def stage_two(name, metric, unit):
    """Chain 7 has one stage-2 seed, 8 four, 9 six; the teacher is the same for all of a chain."""
    index = [*((8, s) for s in range(80, 84)), *((9, s) for s in range(90, 96))]
    level = {8: -3.0, 9: 5.0}
    rng = np.random.default_rng(1)
    x = [40 + level[chain] * (name == "hd") + 0.1 * rng.normal() for chain, _ in index]
    teacher = [40.0 + chain for chain, _ in index]
    return pd.Series(teacher if name == "teacher" else x, index=pd.MultiIndex.from_tuples(index))


def test_stage_two_seeds_are_those_of_one_teacher():
    test = hypothesis("difference", {"hd": 1, "dmd": -1}, below=0, unit="stage2_seed")
    margin = Margin(metrics=("fd_test",), share=0.1, of="teacher", reason="x")
    first = measured(stage_two, test, margin, 1.0)
    assert first.seeds == 4 and first.effect.estimate == pytest.approx(-3, abs=0.3)
    assert list(first.reference) == [48] * 4
    named = measured(stage_two, test.model_copy(update={"teacher": 9}), margin, 1.0)
    assert named.seeds == 6 and named.effect.estimate == pytest.approx(5, abs=0.3)
    assert finding(named, margin, Levels(support=0.05, refute=0.05)) == "contradicted"
    none = measured(stage_two, test.model_copy(update={"teacher": 5}), margin, 1.0)
    assert none.effect is None and "no further stage-2 seeds" in none.problem
    assert rule_text(test).endswith("over stage-2 seeds of one teacher")

    def unfinished(*names):
        return stage_two(*names).drop([(8, s) for s in range(81, 84)])

    assert measured(unfinished, test, margin, 1.0).seeds == 1  # not those of the next teacher


def test_further_seeds_of_stage_two_are_in_claims_of_that_unit_and_in_no_other_number(tmp_path):
    """Chain 1 has further stage-2 seeds: its teacher is a constant, and tables have chains."""
    seeds = {"seeds": [1, 2], "stage2_seeds": {"1": list(range(101, 110))}}
    plan = tiny_plan(tmp_path, seeds)
    frame = synthetic(plan)
    further = synthetic(replace(plan, rows=plan.further), np.random.default_rng(1))
    both = Numbers(plan, pd.concat([frame, further]), tmp_path)
    entry = both.entries("hd")[0]
    assert both(entry, "fd_test_64") == Numbers(plan, frame, tmp_path)(entry, "fd_test_64")
    assert both.over == "2 complete chains"
    hd, dmd = (
        [
            values(frame, arm, "fd_test_64")[0],
            *further[(further.arm == arm) & (further.metric == "fd_test_64")].value,
        ]
        for arm in ("hd", "dmd")
    )
    row = only(both, HD_DMD.model_copy(update={"unit": "stage2_seed"}))
    assert (row.chains, row.unit) == (10, "stage2_seed")
    assert row.effect == pytest.approx(np.mean(hd) - np.mean(dmd))
    teacher = values(frame, "teacher", "fd_test_64", nfe=8)[0]
    ratio = hypothesis("ratio", {"hd": 1, "teacher@4": -1}, below=1, unit="stage2_seed")
    row = only(both, ratio)
    assert row.effect == pytest.approx(np.exp(np.mean(np.log(hd))) / teacher)
    none = tiny_plan(tmp_path, {"seeds": [1, 2]})
    row = only(Numbers(none, synthetic(none), tmp_path), ratio)
    assert row.verdict == "not testable here" and "no further stage-2 seeds" in row.sentence


def test_a_suite_made_for_some_claims_judges_these_alone(tmp_path):
    def found(changes) -> pd.DataFrame:
        plan = tiny_plan(tmp_path, SEEDS | changes)
        td = hypothesis("difference", {"hd": 1, "td@1": -1}, below=0)
        return judged(Numbers(plan, synthetic(plan), tmp_path), A=claim(HD_DMD), B=claim(td))

    both, one = found({}), found({"claims": ["B"]})
    assert one.sentence["A"] == "This suite is not made for it."
    assert one.verdict["A"] == "not testable here"
    assert one.level["B"] == 2 * both.level["B"] == 0.05
    with pytest.raises(UserError, match="suite tiny: claims: no claim 'b'"):
        found({"claims": ["b"]})


@pytest.mark.parametrize("suite", ["textured_digits", "claims", "local_flaws"])
def test_the_suites_have_every_arm_of_the_claims_that_they_judge(suite):
    plan, rules = load_plan(suite), read_rules()
    assert list(rules.claims) == CLAIMS
    steps = {(row.arm, row.steps) for row in plan.rows}
    units = set()
    for claim in (rules.claims[name] for name in plan.suite.claims or CLAIMS):
        for test in claim.tests if claim.source == "suite" else ():
            units.add(test.unit)
            assert metric_of(test.metric), test.metric
            for name in test.arms:
                arm, _, number = name.partition("@")
                assert arm in plan.arms and (not number or (arm, int(number)) in steps), name
    assert units == ({"chain"} if suite == "local_flaws" else {"chain", "stage2_seed"})
    assert bool(plan.suite.stage2_seeds) == (suite == "claims")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"below": 0, "above": 1}, "above = 1.0: a range is from above to below"),
        ({}, "give below, above, both for a range, or within alone"),
        ({"below": 0, "within": "margin"}, "or within alone"),
        (
            {"within": "margin"},
            "rules.yaml: margins = none is for the difference of m, though claims.C",
        ),
        ({"below": 0, "teacher": 1}, "teacher belongs to unit: stage2_seed"),
        ({"below": 0, "unit": "seed"}, 'unit = "seed": unknown; did you mean'),
        ({"effect": "deviation", "below": 0, "arms": {"a": 1, "b": -2}}, "1 and -1"),
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


@pytest.mark.parametrize(
    ("margins", "message"),
    [
        ([{"share": 0.1, "of": "a", "size": 1}], "one of share, size and factor, not a mixture"),
        ([{}], "one of share, size and factor"),
        ([{"share": 0.1}], "share and of, the arm that it is a share of, go together"),
        ([{"size": 1, "effects": ["ratio"]}], "a factor is of ratio, spread and deviation"),
        ([{"factor": 1.1}], "a factor is of ratio, spread and deviation"),
        ([{"size": 1, "secondary": 2}], "secondary = 2.0: it is narrower than 1.0"),
        (
            [{"size": 1}, {"size": 2, "metrics": ["*"]}],
            "rules.yaml: margins = 2 of them are for the difference of m",
        ),
        ([{"size": 1, "reason": None}], "reason"),
    ],
)
def test_a_mistake_in_the_margins_is_one_sentence(margins, message):
    test = {"effect": "difference", "metric": "m", "arms": {"a": 1, "b": -1}, "below": 0}
    rules = {
        "level": 0.05,
        "margins": [{"metrics": ["m"], "reason": "x"} | margin for margin in margins],
        "claims": {"C": {"says": "x", "tests": [test]}},
    }
    with pytest.raises(UserError, match=message) as error:
        validate(Rules, rules, "rules.yaml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [(69.73, "supported"), (69.66, "supported"), (138.7, "contradicted"), (14.5, "contradicted")],
)
def test_c8_is_judged_by_counts_alone_and_takes_no_share_of_the_level(numbers, ratio, verdict):
    rules = read_rules(RULES)
    counts = {"teacher@250": 1e12 * ratio, "student": 1e12}

    def flops(name, metric, unit):
        assert (metric, unit) == ("sampling_flops_decoded", "exact")
        return pd.Series([counts[name]], index=[0])

    frame = judge(numbers, rules, flops=flops)
    row = frame.set_index("claim").loc["C8"]
    assert (row.verdict, row.chains) == (verdict, 1) and row.effect == pytest.approx(ratio)
    without = judge(numbers, rules)
    assert "`hdbench flops` makes them" in without.set_index("claim").loc["C8"].sentence
    others = [found[found.claim != "C8"] for found in (frame, without)]
    pd.testing.assert_frame_equal(*others)


def test_the_best_standard_head_is_beaten_where_each_is_and_none_works_within_the_margin():
    rules = read_rules(RULES)

    def judged_with(**arms):
        def values(name, metric, unit):
            level = {"hd": 20.0, "teacher@25": 20.0}.get(name, arms.get(name, 20.0))
            return pd.Series(level + NOISE * (1 + len(name) / 50))

        claims = {key: rules.claims[key] for key in ("C5b", "C5c", "C5d")}
        return {
            key: judge_claim(claim, rules, values, len(claims)).verdict
            for key, claim in claims.items()
        }

    assert judged_with(hd_awd_logit=15.0) == {
        "C5b": "supported",
        "C5c": "supported",
        "C5d": "supported",
    }
    assert judged_with(hd_awd_logit=15.0, hd_conv=10.0) == {
        "C5b": "contradicted",
        "C5c": "contradicted",
        "C5d": "supported",
    }
    assert judged_with(hd_pooled=25.0, hd_awd_logit=15.0)["C5d"] == "contradicted"


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
    assert list(frame.claim.unique()) == CLAIMS
    for row in frame[frame.effect.notna()].itertuples():
        assert f"{row.effect:.3g}" in text and row.rule in text
    assert (tmp_path / "out" / plan.name / "claims.tex").read_text().count(r"\toprule") == 4
    other = synthetic(plan).assign(digest="0" * 16)
    written = write_claims(
        Numbers(plan, other, tmp_path, lenient=True), read_rules(RULES), tmp_path / "out"
    )
    assert all(
        "made by another version" in path.read_text() for path in written if path.suffix != ".csv"
    )
