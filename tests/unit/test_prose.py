"""Numbers in documents are renderings of the committed metrics, and fail where they differ."""

import shutil
from collections.abc import Iterator
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

TABLES = Path("paper_tables")


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Iterator[pd.DataFrame]:
    """A working folder with a suite `tiny` and its rendered metrics, which are returned."""
    for name in ("suites", "recipes"):  # rules are judged by the arms of all suites
        shutil.copytree(REPOSITORY / "workflow" / name, tmp_path / "workflow" / name)
    (tmp_path / "paper_tables/tiny").mkdir(parents=True)
    shutil.copy(REPOSITORY / "workflow/claims.yaml", tmp_path / "workflow")
    monkeypatch.chdir(tmp_path)
    frame = synthetic(load_plan(str(write_suite(Path("workflow/suites"), {"seeds": [0, 1, 2]}))))
    frame.to_csv("paper_tables/tiny/metrics.csv", index=False)
    prose.forget()
    yield frame
    prose.forget()


def shown(key: str, suite: str = "tiny") -> str:
    return prose.fill(f"---\nsuite: {suite}\n---\n\n{{{{ {key} }}}}", TABLES, "d.in.md")


def test_spans_show_means_differences_ratios_and_verdicts(tiny):
    hd, dmd = (values(tiny, arm, "fd_test_64") for arm in ("hd", "dmd"))
    assert float(shown("fd_test of hd").split(" ± ")[0]) == pytest.approx(hd.mean(), rel=0.02)
    assert float(shown("fd_test of hd - dmd").split(" ± ")[0]) == pytest.approx(
        (hd - dmd).mean(), abs=0.51
    )
    assert shown("fd_test of hd / dmd").startswith(f"{np.exp(np.log(hd / dmd).mean()):.2f} [")
    assert shown("chains") == "3" and shown("verdict of C9") == "not testable here"
    steps = values(tiny, "teacher", "recall_64", nfe=8)
    assert float(shown("recall of teacher@4").split(" ± ")[0]) == pytest.approx(
        steps.mean(), rel=0.02
    )


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
    lowest = f"MeanFlow, {shown('fd_test of td@1')}"
    assert shown("lowest fd_test of hd td hd_patch") == lowest
    assert shown("lowest fd_test").startswith(lowest)
    assert shown("lowest fd_test of hd hd_patch") == f"MeanFlow → DMD, {shown('fd_test of hd')}"
    assert shown("lowest fd_test of hd_patch") == "-"


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
    assert shown("compare fd_test of td@1 - hd").startswith("higher (+2.00 ± 0.2")
    assert shown("compare fd_test of hd - td@1").startswith("lower (-2.00 ± 0.2")
    assert shown("compare fd_test of dmd - hd").startswith("not told apart (+0.4 ± 1.4")
    assert shown("lowest fd_test of hd td").endswith(shown("fd_test of hd"))
    assert shown("lowest fd_test of hd td dmd").endswith(" (not told apart from it: Teacher → DMD)")
    frame[frame.seed == 0].to_csv("paper_tables/tiny/metrics.csv", index=False)
    prose.forget()
    assert shown("compare fd_test of hd - td@1").startswith("lower in its one chain (-2")
    assert shown("lowest fd_test of hd td").endswith(", in one chain")


def test_updates_of_the_generator_are_of_recipes_with_a_second_stage(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    plan = load_plan("textured_digits")
    steps = {
        plan.stage(row.stages["refine"]).training.planned_steps
        for row in plan.rows
        if row.arm in plan.recipes and "refine" in row.stages
    }
    text = prose.value("updates in textured_digits", TABLES)
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
                "digest": "0a1b",
            }
            for arm, values in cosines.items()
            for seed, value in enumerate(values)
        ],
        columns=list(tiny),
    )
    Path("paper_tables/probes").mkdir()
    frame.to_csv("paper_tables/probes/metrics.csv", index=False)

    def of_probes(key: str) -> str:
        return shown(key, "probes")

    assert of_probes("cosine of awd_n64_flip4") == "0.20 ± 0.25"
    half = stats.ttest_rel(*cosines.values()).confidence_interval(0.95).high - np.mean(
        [-0.05, 0, 0.02]
    )
    assert of_probes("cosine of awd_n64_flip4 - conv_n64_flip4") == f"-0.010 ± {half:.3f}"
    assert of_probes("compare cosine of awd_n64_flip4 - conv_n64_flip4").startswith(
        "not told apart ("
    )
    for key, message in (
        ("compare cosine of awd_n64_flip4", "not a key"),
        ("cosine of awd_n64_flip5", "no cosine of 'awd_n64_flip5'; did you mean 'awd_n64_flip4'"),
        ("cosine", "not a key"),
        ("cosine of awd_n64_flip4 -", "not a key"),
        ("cosine of awd_n64_flip4 / conv_n64_flip4", "not a key"),
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
        shown("fd_test_seven of hd") == shown("fd_test of hd") != "-"
        and shown("fd_test_seven of dmd") == "-"
    )


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("fd_test of hx", "no arm 'hx'"),
        ("lowest fd_test of hx", "no arm 'hx'"),
        ("what is this thing", "not a key of a number"),
        ("verdict of C99", "no claim 'C99'"),
    ],
)
def test_a_key_that_names_nothing_is_one_sentence(tiny, key, message):
    with pytest.raises(UserError, match=message):
        shown(key)


def test_the_table_of_methods_has_each_with_its_source_and_distance_by_steps(tiny):
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in prose.value("methods in tiny", TABLES).strip().splitlines()
    ]
    assert lines[0] == ["Method", "Arm", "Source", "Chains"]  # no recipe has steps here
    assert [line[1] for line in lines[2:]] == ["`teacher`", "`td`", "`cd`", "`hd`", "`hd_patch`"]
    assert {line[3] for line in lines[2:]} == {"3"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ chains in demo", "not closed"),
        ("{{chains in demo}}", "not closed"),
        ("{{ chains\nin demo }}{{", "not closed"),
        ("{{ chains }}", "of which suite"),
    ],
)
def test_a_placeholder_that_cannot_be_read_is_told(text, message):
    with pytest.raises(UserError, match=message):
        prose.fill(text, Path("none"), "d.in.md")


def test_the_suite_of_a_document_stands_on_top_and_a_placeholder_may_name_another(tiny):
    text = "---\nsuite: no_such\n---\n\n# Title\n\n{{ chains in tiny }} {{ chains in tiny }}\n"
    assert prose.fill(text, TABLES, "d.in.md") == "# Title\n\n3 3\n"


def test_only_a_source_is_rendered_and_beside_itself():
    assert prose.rendered_path(Path("docs/a.in.md")) == Path("docs/a.md")
    with pytest.raises(UserError, match="not the source of a document"):
        prose.rendered_path(Path("README.md"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "source", [str(path.relative_to(REPOSITORY)) for path in prose.sources(REPOSITORY)]
)
def test_committed_documents_are_what_the_committed_metrics_render(source, monkeypatch):
    """`hdbench prose` renders all anew."""
    monkeypatch.chdir(REPOSITORY)
    path = Path(source)
    text = prose.fill(path.read_text(encoding="utf-8"), TABLES, source)
    assert prose.rendered_path(path).read_text(encoding="utf-8") == text


def test_the_command_renders_a_document_and_then_leaves_it(tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    (tmp_path / "d.in.md").write_text("{{ chains in textured_digits }} chains")
    (tmp_path / "d.md").write_bytes(b"99 chains\xff")
    words = ["prose", str(tmp_path / "d.in.md")]
    result = CliRunner().invoke(main, words)  # it may be the user's
    assert result.exit_code == 2 and "d.md: is there, and hdbench has not written" in result.output
    for said, force in (("changed", ["--force"]), ("unchanged", [])):
        result = CliRunner().invoke(main, words + force)
        assert result.exit_code == 0 and result.output == f"{tmp_path / 'd.md'}: {said}\n"
    assert (tmp_path / "d.md").read_text() == "3 chains"
    (tmp_path / "d.md").write_text("4 chains")
    assert CliRunner().invoke(main, words).exit_code == 2
    assert (tmp_path / "d.md").read_text() == "4 chains"
