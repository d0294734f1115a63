"""Numbers in documents are renderings of the committed metrics, and fail where they differ."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy import stats

from hdbench.cli import main
from hdbench.core.errors import UserError
from hdbench.suite.load import load_plan
from hdbench.tools import prose
from tests.support.tiny import REPOSITORY, write_suite
from tests.unit.test_tables import synthetic, values


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> pd.DataFrame:
    """A working folder with a suite `tiny` and its rendered metrics, which are returned."""
    (tmp_path / "workflow/suites").mkdir(parents=True)
    (tmp_path / "paper_tables/tiny").mkdir(parents=True)
    shutil.copy(REPOSITORY / "workflow/claims.yaml", tmp_path / "workflow")
    monkeypatch.chdir(tmp_path)
    frame = synthetic(load_plan(str(write_suite(Path("workflow/suites"), {"seeds": [0, 1, 2]}))))
    frame.to_csv("paper_tables/tiny/metrics.csv", index=False)
    prose.forget()
    return frame


def shown(key: str) -> str:
    text = prose.fill(f"<!-- hdbench tiny {key} -->?<!-- / -->", Path("paper_tables"), "d.md")
    return re.fullmatch(r"<!-- hdbench .* -->(.*)<!-- / -->", text).group(1)


def test_spans_show_means_differences_ratios_and_verdicts(tiny):
    hd, dmd = (values(tiny, arm, "fd_test_64") for arm in ("hd", "dmd"))
    assert float(shown("fd_test hd").split(" ± ")[0]) == pytest.approx(hd.mean(), rel=0.02)
    assert float(shown("fd_test hd - dmd").split(" ± ")[0]) == pytest.approx(
        (hd - dmd).mean(), abs=0.51
    )
    assert shown("ratio fd_test hd / dmd").startswith(f"{np.exp(np.log(hd / dmd).mean()):.2f} [")
    assert shown("chains") == "3" and shown("verdict C9") == "not testable here"
    steps = values(tiny, "teacher", "recall_64", nfe=8)
    assert float(shown("recall teacher@4").split(" ± ")[0]) == pytest.approx(steps.mean(), rel=0.02)


def test_the_lowest_is_of_the_arms_named_or_of_all_models_in_one_step(tiny):
    frame = tiny.copy()
    for arm, nfe, value in (
        ("real_train", 0, 0.1),
        ("teacher", 8, 0.2),
        ("td", 1, 2.0),
        ("hd", 1, 3.0),
        ("hd_patch", 1, np.nan),
    ):
        here = (frame.metric == "fd_test_64") & (frame.arm == arm) & (frame.nfe == nfe)
        assert here.any()
        frame.loc[here, "value"] = value
    frame.to_csv("paper_tables/tiny/metrics.csv", index=False)
    prose.forget()
    lowest = f"MeanFlow, {shown('fd_test td@1')}"
    assert shown("lowest fd_test hd td hd_patch") == lowest
    assert shown("lowest fd_test").startswith(lowest)
    assert shown("lowest fd_test hd hd_patch") == f"MeanFlow → DMD, {shown('fd_test hd')}"
    assert shown("lowest fd_test hd_patch") == "-"


def test_words_are_those_that_the_interval_of_the_difference_allows(tiny):
    frame = tiny.copy()

    def put(arm: str, values: list[float]) -> None:
        here = (frame.metric == "fd_test_64") & (frame.arm == arm) & (frame.nfe == 1)
        assert here.sum() == len(values)
        frame.loc[here, "value"] = values

    put("hd", [3.0, 4.0, 5.0])
    put("td", [5.0, 6.1, 6.9])  # paired: 2.0 ± 0.25
    put("dmd", [4.0, 4.0, 5.1])
    frame.to_csv("paper_tables/tiny/metrics.csv", index=False)
    prose.forget()
    assert shown("compare fd_test td@1 - hd").startswith("higher (+2.00 ± 0.2")
    assert shown("compare fd_test hd - td@1").startswith("lower (-2.00 ± 0.2")
    assert shown("compare fd_test dmd - hd").startswith("not told apart (+0.4 ± 1.4")
    assert shown("lowest fd_test hd td").endswith(shown("fd_test hd"))
    assert shown("lowest fd_test hd td dmd").endswith(" (not told apart from it: Teacher → DMD)")
    frame[frame.seed == 0].to_csv("paper_tables/tiny/metrics.csv", index=False)
    prose.forget()
    assert shown("compare fd_test hd - td@1").startswith("lower in its one chain (-2")
    assert shown("lowest fd_test hd td").endswith(", in one chain")


def test_updates_of_the_generator_are_of_recipes_with_a_second_stage(monkeypatch):
    prose.forget()
    monkeypatch.chdir(REPOSITORY)
    plan = load_plan("textured_digits")
    steps = {
        plan.stage(row.stages["refine"]).training.planned_steps
        for row in plan.rows
        if row.arm in plan.recipes and "refine" in row.stages
    }
    text = prose.value("textured_digits updates", Path("paper_tables"))
    assert text == f"{min(steps):,} to {max(steps):,}"


def test_numbers_of_the_probes_and_their_differences_within_seeds(tiny):
    cosines = {"awd_n64_flip4": [0.1, 0.2, 0.3], "conv_n64_flip4": [0.15, 0.2, 0.28]}
    frame = pd.DataFrame(
        [
            {
                "suite": "probes",
                "arm": arm,
                "seed": seed,
                "nfe": 0,
                "metric": "cosine",
                "value": value,
                "protocol": "probe",
            }
            for arm, values in cosines.items()
            for seed, value in enumerate(values)
        ],
        columns=list(tiny),
    )
    Path("paper_tables/probes").mkdir()
    frame.to_csv("paper_tables/probes/metrics.csv", index=False)

    def of_probes(key: str) -> str:
        text = prose.fill(f"<!-- hdbench probes {key} -->?<!-- / -->", Path("paper_tables"), "d.md")
        return re.fullmatch(r"<!-- hdbench .* -->(.*)<!-- / -->", text).group(1)

    assert of_probes("cosine awd_n64_flip4") == "0.20 ± 0.25"
    half = stats.ttest_rel(*cosines.values()).confidence_interval(0.95).high - np.mean(
        [-0.05, 0, 0.02]
    )
    assert of_probes("cosine awd_n64_flip4 - conv_n64_flip4") == f"-0.010 ± {half:.3f}"
    assert of_probes("compare cosine awd_n64_flip4 - conv_n64_flip4").startswith("not told apart (")
    for key, message in (
        ("compare cosine awd_n64_flip4", "not a key"),
        ("cosine awd_n64_flip5", "no cosine of 'awd_n64_flip5'; did you mean 'awd_n64_flip4'"),
        ("cosine", "not a key"),
        ("cosine awd_n64_flip4 -", "not a key"),
        ("cosine awd_n64_flip4 / conv_n64_flip4", "not a key"),
    ):
        with pytest.raises(UserError, match=message):
            of_probes(key)


def test_a_part_of_the_samples_has_its_own_count_behind_the_name(tiny):
    part = tiny[(tiny.metric == "fd_test_64") & (tiny.arm == "hd")].assign(
        metric="fd_test_seven_7", n=7
    )
    pd.concat([tiny, part]).to_csv("paper_tables/tiny/metrics.csv", index=False)
    prose.forget()
    assert (
        shown("fd_test_seven hd") == shown("fd_test hd") != "-"
        and shown("fd_test_seven dmd") == "-"
    )


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("fd_test hx", "no arm 'hx'"),
        ("lowest fd_test hx", "no arm 'hx'"),
        ("what is this thing", "not a key of a number"),
        ("verdict C99", "no claim 'C99'"),
    ],
)
def test_a_key_that_names_nothing_is_one_sentence(tiny, key, message):
    with pytest.raises(UserError, match=message):
        shown(key)


def test_the_table_of_methods_has_each_with_its_source_and_distance_by_steps(tiny):
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in prose.value("tiny methods", Path("paper_tables")).strip().splitlines()
    ]
    assert lines[0] == ["Method", "Arm", "Source", "Chains"]  # no recipe has steps here
    assert [line[1] for line in lines[2:]] == ["`teacher`", "`td`", "`cd`", "`hd`", "`hd_patch`"]
    assert {line[3] for line in lines[2:]} == {"3"}


def test_a_span_that_is_not_closed_is_told():
    with pytest.raises(UserError, match="not closed"):
        prose.fill("<!-- hdbench demo chains -->3", Path("none"), "d.md")


@pytest.mark.slow
def test_committed_documents_say_what_the_committed_metrics_say(monkeypatch):
    """The test that fails where prose and metrics differ; `hdbench prose README.md` mends it."""
    prose.forget()
    monkeypatch.chdir(REPOSITORY)
    text = Path("README.md").read_text(encoding="utf-8")
    assert text.count("<!-- hdbench ") >= 10
    assert prose.fill(text, Path("paper_tables"), "README.md") == text


def test_the_command_mends_a_wrong_number_and_then_leaves_it(tmp_path, monkeypatch):
    prose.forget()
    monkeypatch.chdir(REPOSITORY)
    document = tmp_path / "d.md"
    document.write_text("<!-- hdbench textured_digits chains -->99<!-- / --> chains")
    for said in ("changed", "unchanged"):
        result = CliRunner().invoke(main, ["prose", str(document)])
        assert result.exit_code == 0 and result.output == f"{document}: {said}\n"
    assert document.read_text().startswith("<!-- hdbench textured_digits chains -->3<!--")
