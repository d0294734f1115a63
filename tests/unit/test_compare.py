"""Two runs compared: every interval and p value against scipy's own tests, and what is said of rows
that do not match.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy import stats

from hdbench.cli import main
from hdbench.metrics.records import COLUMNS, with_count
from hdbench.report.compare import compare

SE = 0.1


def frame(
    values: dict[str, dict[int | None, float]],
    suite="digits",
    arm="hd",
    n=4000,
    protocol="classifier:abc",
    se=SE,
):
    """Rows of one arm: value by metric and seed."""
    rows = [
        {
            "suite": suite,
            "arm": arm,
            "seed": seed,
            "nfe": 1,
            "metric": metric if protocol == "cost" else with_count(metric, n),
            "value": value,
            "protocol": protocol,
            "digest": "d",
        }
        | ({} if protocol == "cost" else {"se": se, "n": n})
        for metric, by_seed in values.items()
        for seed, value in by_seed.items()
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def chains(values, seeds=range(9)) -> dict[int, float]:
    return dict(zip(seeds, values, strict=False))  # as many seeds as there are values


def only(a, b, **options) -> pd.Series:
    found = compare(a, b, **options).rows
    assert len(found) == 1
    return found.iloc[0]


@pytest.fixture
def files(tmp_path):
    """Writes two frames and runs the command on them."""

    def run(a, b, *options):
        paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
        for path, table in zip(paths, (a, b), strict=True):
            table.to_csv(path, index=False) if isinstance(table, pd.DataFrame) else path.write_text(
                table
            )
        return CliRunner().invoke(main, ["compare", *map(str, paths), *map(str, options)])

    return run


def test_chains_of_the_same_seeds_are_paired_in_any_order():
    a, b = np.array([5.0, 7.0, 6.1, 9.0]), np.array([5.5, 7.4, 6.8, 9.3])
    row = only(frame({"fd": chains(a)}), frame({"fd": dict(reversed(chains(b).items()))}))
    expected = stats.ttest_rel(b, a)
    low, high = expected.confidence_interval(0.95)
    assert (row.low, row.high, row.p) == pytest.approx((low, high, expected.pvalue), rel=1e-9)
    assert (row.a, row.b, row.difference) == pytest.approx((a.mean(), b.mean(), (b - a).mean()))
    assert (
        row.p_adjusted == row.p
        and row.verdict == "moved"
        and row.method == "paired"
        and row.chains == "4"
    )


def test_of_chains_that_only_some_have_the_shared_are_paired():
    a, b = chains([5.0, 7.0, 6.1, 40.0], [0, 1, 2, 7]), chains([70.0, 5.5, 7.4, 6.8], [9, 0, 1, 2])
    row = only(frame({"fd": a}), frame({"fd": b}))
    low, high = stats.ttest_rel([5.5, 7.4, 6.8], [5.0, 7.0, 6.1]).confidence_interval(0.95)
    assert (row.low, row.high, row.chains) == (pytest.approx(low), pytest.approx(high), "3")


@pytest.mark.parametrize("seeds", [range(10, 13), [0, 20, 21]])
def test_other_chains_have_welchs_interval(seeds):
    a, b = np.array([5.0, 7.0, 6.1, 9.0]), np.array([15.0, 14.0, 17.5])
    row = only(frame({"fd": chains(a)}), frame({"fd": chains(b, seeds)}))
    expected = stats.ttest_ind(b, a, equal_var=False)
    low, high = expected.confidence_interval(0.95)
    assert (row.low, row.high, row.p) == pytest.approx((low, high, expected.pvalue), rel=1e-9)
    assert row.method == "separate" and row.chains == "4 and 3"


@pytest.mark.parametrize("seed", [0, 5, None])
def test_a_single_chain_each_has_both_sampling_errors(seed):
    row = only(frame({"fd": {0: 5.0}}), frame({"fd": {seed: 5.3}}, se=0.2))
    se = (SE**2 + 0.2**2) ** 0.5
    assert (row.difference, row.high - row.difference, row.p) == pytest.approx(
        (0.3, stats.norm.ppf(0.975) * se, 2 * stats.norm.sf(0.3 / se))
    )
    assert row.method == "sampling" and row.chains == ("1" if seed == 0 else "1 and 1")


def test_one_chain_against_several_others_scatters_as_they_do():
    """Student's t of pooled scatter, to which a single chain adds nothing but its own weight."""
    several = np.array([5.0, 7.0, 6.1])
    row = only(frame({"fd": {0: 12.0}}), frame({"fd": chains(several, [1, 2, 3])}))
    expected = stats.ttest_ind_from_stats(
        several.mean(), several.std(ddof=1), 3, 12.0, 0.0, 1, equal_var=True
    )
    assert (
        row.difference / (row.high - row.difference) * stats.t.ppf(0.975, 2),
        row.p,
    ) == pytest.approx((expected.statistic, expected.pvalue))
    assert row.method == "one alone" and row.chains == "1 and 3"


def test_one_chain_against_several_with_it_among_them_is_that_chain():
    row = only(frame({"fd": {2: 5.0}}), frame({"fd": chains([1.0, 9.0, 5.1])}))
    assert row.difference == pytest.approx(0.1) and row.method == "sampling" and row.chains == "1"


def test_differences_that_do_not_scatter_are_judged_by_the_sampling_errors():
    """Metrics that count images move in steps; three equal steps are no proof."""
    a, b = (chains((np.array([3599, 3203, 1407]) + more) / 4000) for more in (0, 1))
    assert 0 < np.std(list(b.values()) - np.array(list(a.values())))  # of rounding alone
    row = only(frame({"recall": a}), frame({"recall": b}))
    assert row.verdict == "within noise" and row.method == "sampling"
    assert row.high - row.difference == pytest.approx(
        stats.norm.ppf(0.975) * (2 * 3 * SE**2) ** 0.5 / 3
    )
    assert (
        only(frame({"recall": a}, se=np.nan), frame({"recall": b}, se=np.nan)).verdict
        == "no error known"
    )


def test_false_discoveries_are_controlled_over_all_compared_rows():
    """As scipy adjusts them, over the rows that differ; costs and what is not comparable do not
    count either.
    """
    generator = np.random.default_rng(0)
    a = {f"m{i}": chains(generator.normal(size=5)) for i in range(30)}
    b = {
        name: chains(np.array(list(by.values())) + shift + 0.2 * generator.normal(size=5))
        for (name, by), shift in zip(a.items(), [*[2.0] * 4, *[0.0] * 26], strict=True)
    } | {"m29": a["m29"]}
    cost = frame({"seconds": chains([1.0, 2.0])}, protocol="cost")
    nan = frame({"broken": chains([1.0, np.nan])})
    found = compare(
        pd.concat([frame(a), cost, nan]), pd.concat([frame(b), cost, nan]), costs=True
    ).rows.set_index("metric")
    raw = [
        stats.ttest_rel(list(b[name].values()), list(a[name].values())).pvalue
        for name in a
        if name != "m29"
    ]
    expected = stats.false_discovery_control(raw)
    assert list(found.p_adjusted[[f"{name}_4k" for name in a]]) == pytest.approx([*expected, 1.0])
    assert 4 <= sum(expected <= 0.05) < sum(np.array(raw) <= 0.05)
    moved = found[found.verdict == "moved"]
    assert {f"m{i}_4k" for i in range(4)} <= set(moved.index) and len(moved) == sum(
        expected <= 0.05
    )
    assert list(found.index[: len(moved)]) == list(moved.sort_values("p").index)
    assert found.verdict["m29_4k"] == "identical" and found.verdict["broken_4k"] == "not a number"
    assert found.verdict["seconds"] == "identical" and np.isnan(found.p_adjusted["seconds"])


def test_one_bit_is_not_identical():
    a = chains([0.5, 0.25])
    assert only(frame({"m": a}), frame({"m": a})).verdict == "identical"
    assert (
        only(frame({"m": a}), frame({"m": {1: 0.25}})).verdict == "identical"
    )  # on the chain that both have
    assert (
        only(frame({"m": a}), frame({"m": a | {1: np.nextafter(0.25, 1)}})).verdict
        == "within noise"
    )


def test_costs_are_ratios_and_only_on_demand():
    a, b = (
        frame({"seconds": chains(v)}, protocol="cost") for v in ([1.0, 2.0, 4.0], [3.0, 4.0, 8.0])
    )
    quality = frame({"fd": chains([1.0, 2.0])})
    row = (
        compare(pd.concat([a, quality]), pd.concat([b, quality]), costs=True)
        .rows.set_index("metric")
        .loc["seconds"]
    )
    ratios = np.array([3.0, 2.0, 2.0])
    assert (row.ratio, row.high) == pytest.approx(
        (ratios.mean(), stats.t.interval(0.95, 2, loc=ratios.mean(), scale=stats.sem(ratios))[1])
    )
    assert row.verdict == "cost" and np.isnan(row.p)
    assert list(compare(pd.concat([a, quality]), pd.concat([b, quality])).rows.metric) == ["fd_4k"]


@pytest.mark.parametrize("seed", [0, 1])
def test_costs_of_one_chain_are_a_ratio_whatever_its_seed(seed):
    a, b = (
        frame({"forward_equivalents": {seed: value}}, protocol="cost", n=None)
        for value in (2.0, 3.0)
    )
    row = only(a, b, costs=True)
    assert (row.ratio, row.verdict) == (1.5, "cost") and np.isnan(row.high)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"n": 450}, "not comparable: other N"),
        ({"protocol": "classifier:xyz"}, "not comparable: other protocol"),
    ],
)
def test_numbers_of_another_count_or_protocol_are_not_compared(changes, verdict, files):
    a, b = frame({"fd": chains([1.0, 2.0, 3.0])}), frame({"fd": chains([9.0, 9.1, 9.3])}, **changes)
    row = only(a, b)
    assert row.verdict == verdict and np.isnan(row.p) and np.isnan(row.difference)
    result = files(a, b)
    assert (
        result.exit_code == 0
        and verdict in result.output
        and "none could be compared" in result.output
    )
    assert files(a, b, "--fail-if-moved").exit_code == 1


def test_a_chain_of_another_count_is_named_with_both():
    a = frame({"fd": chains([1.0, 2.0, 3.0])})
    assert only(a, a.assign(n=a.n.where(a.seed != 1, 50000))).note == "4000 and 4000/50000"


def test_rows_of_one_file_alone_are_counted_and_ten_are_named(files):
    shared = frame({"fd": chains([1.0, 2.0])})
    more = pd.concat([shared, frame({f"m{i:02}": chains([1.0, 2.0]) for i in range(12)}, arm="td")])
    assert (
        compare(more, shared).only_a == [f"td 1 m{i:02}_4k" for i in range(12)]
        and not compare(more, shared).only_b
    )
    output = files(shared, more).output
    assert "12 rows only in B" in output and "td 1 m09_4k" in output and "m10" not in output


def test_suites_of_other_names_are_matched_by_their_arms_and_single_arms_by_their_metrics(files):
    a, b = frame({"fd": chains([1.0, 2.0])}), frame({"fd": chains([1.0, 2.0])}, suite="demo")
    assert only(a, b).verdict == "identical" and "matched without it" in files(a, b).output
    one, other = frame({"fid": {None: 5.0}}, arm="mine"), frame({"fid": {None: 9.0}}, arm="yours")
    assert only(one, other).arm == "mine / yours" and only(one, other).verdict == "moved"


def test_the_report_is_narrow_names_what_moved_first_and_exits_with_1_only_where_asked(
    files, tmp_path
):
    generator = np.random.default_rng(3)
    values = {f"classifier_score{i}": chains(1000 * generator.normal(size=3)) for i in range(40)}
    moved = {
        "classifier_score7": chains(
            [v + 5000 + i for i, v in enumerate(values["classifier_score7"].values())]
        )
    }
    a, b = (frame(v, arm="dmd_awd_logit_total_of_all_arms") for v in (values, values | moved))
    result = files(a, b, "--out", tmp_path / "out/moved.csv")
    lines = result.output.splitlines()
    assert result.exit_code == 0 and max(map(len, lines[2:])) <= 118
    first = next(line for line in lines if "classifier_score" in line)
    assert "classifier_score7_4k" in first and first.endswith("moved")
    last = " ".join(lines[-2:])
    assert "1 of 40 quality rows moved beyond noise" in last and "39 identical to the bit." in last
    table = pd.read_csv(tmp_path / "out/moved.csv")
    assert len(table) == 40 and table.verdict[0] == "moved" and table.suite[0] == "digits"
    assert (
        files(a, b, "--fail-if-moved").exit_code == 1
        and files(a, a, "--fail-if-moved").exit_code == 0
    )
    assert files(a, b, "--fail-if-moved", "--metric", "classifier_score8").exit_code == 0


def test_chains_that_one_file_lacks_are_named_and_fail_where_asked(files):
    a = pd.concat(
        [
            frame({"fd": chains([1.0, 2.0, 3.0])}),
            frame({"fd": chains([4.0, 5.0], [10, 11])}, arm="td"),
        ]
    )
    b = pd.concat(
        [
            frame({"fd": chains([1.0, 2.0], [0, 1])}),
            frame({"fd": chains([4.0, 5.0], [20, 21])}, arm="td"),
        ]
    )
    assert (
        compare(a, b).lost == ["hd 2"] and compare(b, a).lost == []
    )  # td has other seeds altogether
    for name, one, two in (("A", a, b), ("B", b, a)):
        assert f"Chains of which only {name} has all numbers: hd 2." in files(one, two).output
    both = frame({"fd": chains([1.0, 2.0, 3.0]), "recall": chains([0.1, 0.2, 0.3])})
    without = both[
        ~((both.metric == "fd_4k") & (both.seed == 2))
    ]  # a number of a chain that is there otherwise
    assert (
        compare(both, without).lost == ["hd 2"]
        and files(both, without, "--fail-if-moved").exit_code == 1
    )
    hd = {name: table[table.arm == "hd"] for name, table in {"a": a, "b": b}.items()}
    assert files(hd["a"], hd["b"], "--fail-if-moved").exit_code == 1
    assert files(hd["b"], hd["a"], "--fail-if-moved").exit_code == 0
    gone = frame({"fd": chains([1.0, 2.0]), "recall": chains([0.1, 0.2])})
    assert files(gone, gone[gone.metric == "fd_4k"], "--fail-if-moved").exit_code == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "not a file of metrics"),
        ("arm,value\nhd,1\n", "columns are"),
        (None, "does not exist"),
        (pd.concat([frame({"fd": {0: 1.0}})] * 2), "appear more than once"),
        (frame({"other": {0: 1.0}}, arm="x", suite="y"), "no row is in both"),
    ],
)
def test_what_cannot_be_used_is_one_sentence_and_code_2(content, said, files, tmp_path):
    result = files(frame({"fd": {0: 1.0}}), frame({"fd": {0: 1.0}}) if content is None else content)
    if content is None:
        result = CliRunner().invoke(
            main, ["compare", str(tmp_path / "a.csv"), str(tmp_path / "absent.csv")]
        )
    assert result.exit_code == 2 and said in result.output and result.output.count("\n") == 1


def test_an_unknown_metric_is_named_with_the_nearest(files):
    a = frame({"recall": {0: 1.0}})
    result = files(a, a, "--metric", "recal")
    assert result.exit_code == 2 and "did you mean 'recall'" in result.output
    assert files(a, a, "--metric", "recall_4k").exit_code == 0


def test_two_arms_of_one_file_are_paired_by_their_chains(tmp_path):
    hd, patch, teacher = [4.0, 5.0, 7.0], [3.0, 4.5, 5.0], [1.0, 2.0, 2.5]
    arms = [frame({"fd": chains(hd)}), frame({"fd": chains(patch)}, arm="patch")]
    for nfe, shift in ((10, 0.0), (50, 1.0)):
        values = chains([value + shift for value in teacher])
        arms.append(frame({"fd": values}, arm="teacher").assign(nfe=nfe))
    path, out = tmp_path / "a.csv", tmp_path / "out.csv"
    pd.concat(arms).to_csv(path, index=False)

    def run(a, b):
        words = ["compare", a, b, "--in", str(path), "--out", str(out), "--force"]
        return CliRunner().invoke(main, words)

    for a, b, x, y in (("hd", "patch", hd, patch), ("teacher@10", "hd", teacher, hd)):
        assert run(a, b).exit_code == 0
        row = pd.read_csv(out).iloc[0]
        test = stats.ttest_rel(y, x)
        assert row.p == pytest.approx(test.pvalue) and row.method == "paired"
        assert (row.low, row.high) == pytest.approx(test.confidence_interval(0.95))
    assert "A has nfe 10 alone, B 1;" in run("teacher@10", "hd").output
    for a, said in (("hdd", "did you mean 'hd'"), ("teacher@5", "has numbers of nfe 10, 50")):
        result = run(a, "patch")
        assert result.exit_code == 2 and said in result.output and result.output.count("\n") == 1
    # of teacher's two numbers of evaluations none is that of hd
    assert "no row is in both" in run("teacher", "hd").output
