"""No command replaces a file that hdbench did not write, nor one that it reads, unless told."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from hdbench.cli import main
from hdbench.core.errors import UserError
from hdbench.core.files import sha256
from hdbench.core.outputs import RECORD, Command, record, write_outputs, writing
from hdbench.report.provenance import FILES
from tests.support.tiny import run_until, stage_of, tiny_plan, write_suite
from tests.unit.test_cli import leaves_this_process_alone  # noqa: F401, a fixture

HEADER = "suite,arm,seed,nfe,metric,value,se,n,protocol,digest\n"
NUMBERS = HEADER + "tiny,a,1,1,fd_test_4k,{value},0.5,4000,classifier:0,abc\n"
MINE = b"my,own\n1,2\n"


def invoke(*arguments: object):
    return CliRunner().invoke(main, list(map(str, arguments)))


def refusal(result) -> str:
    assert result.exit_code == 2, result.output + str(result.exception)
    (line,) = (line for line in result.output.splitlines() if line.startswith("hdbench: "))
    return line


def numbers(path: Path, value: float = 1.0) -> Path:
    path.write_text(NUMBERS.format(value=value), encoding="utf-8")
    return path


# the rule


def test_a_file_is_replaced_only_as_it_was_written(tmp_path):
    path = tmp_path / "x.csv"
    write_outputs({path: b"1"})
    write_outputs({path: b"2"})
    assert path.read_bytes() == b"2"
    assert [line.split("  ")[1] for line in (tmp_path / RECORD).read_text().splitlines()] == (
        ["x.csv"] * 2
    )
    path.write_bytes(MINE)
    with pytest.raises(UserError, match="hdbench has not written it, or it was changed since"):
        write_outputs({tmp_path / "new": b"", path: b"3"})
    assert path.read_bytes() == MINE and not (tmp_path / "new").exists()
    write_outputs({path: MINE})  # which changes nothing
    with writing(Command(force=True)):
        write_outputs({path: b"3"})
    assert path.read_bytes() == b"3"


def test_what_is_read_is_not_replaced_under_any_name(tmp_path):
    path = tmp_path / "x.csv"
    write_outputs({path: b"1"})
    (tmp_path / "link.csv").symlink_to(path)
    for name in ("x.csv", "link.csv", "../" + tmp_path.name + "/x.csv"):
        with writing(Command(inputs=(path,))), pytest.raises(UserError, match="this command reads"):
            write_outputs({tmp_path / name: b"2"})
    assert path.read_bytes() == b"1"


def test_in_the_folder_of_results_a_file_of_an_older_version_is_the_runs(tmp_path):
    path = tmp_path / "demo/x.csv"
    path.parent.mkdir()
    path.write_bytes(b"1")
    with writing(Command(results=tmp_path)):
        write_outputs({path: b"2"})
        path.write_bytes(MINE)
        with pytest.raises(UserError, match="changed since"):
            write_outputs({path: b"3"})


def test_a_line_of_the_record_is_written_once(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    for _ in range(3):
        record({tmp_path / "a": sha256(tmp_path / "a")})
    assert len((tmp_path / RECORD).read_text().splitlines()) == 1


def test_pipes_and_links_to_nothing_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("pipe", "link"):
        with pytest.raises(UserError, match=f"{name}: is there, and hdbench has not written it"):
            write_outputs({tmp_path / name: b"1"})
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "link").is_symlink()


def test_names_and_records_that_are_not_utf_8_are_read(tmp_path):
    (tmp_path / RECORD).write_bytes(b"\xff\n")
    path = tmp_path / os.fsdecode(b"\xfe.csv")
    for content in (b"1", b"2"):
        write_outputs({path: content})
    assert path.read_bytes() == b"2"
    path.write_bytes(MINE)
    with pytest.raises(UserError, match="changed since"):
        write_outputs({path: b"3"})


# the commands


def test_compare_replaces_neither_its_inputs_nor_a_file_of_the_user(tmp_path):
    a, b = numbers(tmp_path / "a.csv"), numbers(tmp_path / "b.csv", 2.0)
    mine = tmp_path / "mine.csv"
    mine.write_bytes(MINE)
    kept = a.read_bytes()
    assert "what this command reads" in refusal(invoke("compare", a, b, "--out", a))
    assert "hdbench has not written it" in refusal(invoke("compare", a, b, "--out", mine))
    assert a.read_bytes() == kept and mine.read_bytes() == MINE
    for _ in range(2):
        assert invoke("compare", a, b, "--out", tmp_path / "new.csv").exit_code == 0
    assert invoke("compare", a, b, "--out", mine, "--force").exit_code == 0
    assert mine.read_bytes() == (tmp_path / "new.csv").read_bytes()


@pytest.mark.parametrize("name", ["imagenet256.md", "imagenet256.csv"])
def test_published_tables_replace_no_file_of_the_user(tmp_path, name):
    (tmp_path / name).write_bytes(MINE)
    arguments = ("published", "--benchmark", "imagenet256", "--out", tmp_path)
    assert f"{name}: is there" in refusal(invoke(*arguments))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert invoke(*arguments, "--force").exit_code == 0
    assert invoke(*arguments, "--without-remembered").exit_code == 0


def test_imported_scores_replace_no_file_of_the_user(tmp_path):
    scores = tmp_path / "scores.csv"
    scores.write_text("image,prompt,score\na,p,0.5\nb,q,0.25\n")
    (tmp_path / "x.csv").write_bytes(MINE)
    arguments = ("import", "vqascore", scores, "--out")
    assert "hdbench has not written it" in refusal(invoke(*arguments, tmp_path / "x.csv"))
    assert "what this command reads" in refusal(invoke(*arguments, scores))
    assert (tmp_path / "x.csv").read_bytes() == MINE


def test_a_log_goes_to_the_end_of_a_log_alone(tmp_path):
    a = numbers(tmp_path / "a.csv")
    for name, refused in (("notes.txt", True), ("x.log", False)):
        (tmp_path / name).write_bytes(MINE)
        result = invoke("--log", tmp_path / name, "compare", a, tmp_path / "absent.csv")
        assert result.exit_code == 2 and ("--log" in result.output) == refused
        assert (tmp_path / name).read_bytes().startswith(MINE)
        assert ((tmp_path / name).read_bytes() == MINE) == refused


# a suite with results


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A folder with a tiny suite and the results of one of its arms."""
    folder = tmp_path_factory.mktemp("run")
    plan = tiny_plan(folder)
    run_until(plan, folder / "results", stage_of(plan, "evaluate", "td"))
    suite = ("--suite", folder / "tiny.yaml", "--results", folder / "results")
    assert invoke("collect", "--partial", *suite).exit_code == 0
    return folder


@pytest.fixture
def suite(run, tmp_path) -> tuple:
    """Options of the suite in a copy of that folder."""
    shutil.copytree(run, tmp_path / "run")
    return ("--suite", tmp_path / "run/tiny.yaml", "--results", tmp_path / "run/results")


def metrics_of(suite: tuple) -> Path:
    return next(suite[3].glob("tiny-*/metrics.csv"))


@pytest.mark.slow
def test_an_export_leaves_the_files_of_the_user(suite, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "README.md").write_bytes(MINE)
    arguments = ("export", "--arm", "td", *suite, "--out", out)
    assert "README.md: is there" in refusal(invoke(*arguments))
    assert [path.name for path in out.iterdir()] == ["README.md"]
    (out / "README.md").rename(out / "other.txt")
    assert "other.txt: is there" in refusal(invoke(*arguments))
    (out / "other.txt").unlink()
    for _ in range(2):
        assert invoke(*arguments).exit_code == 0


@pytest.mark.slow
def test_foreign_numbers_take_no_place_and_no_provenance_of_the_run(suite, tmp_path):
    own = metrics_of(suite)
    assert invoke("tables", *suite).exit_code == 0
    tables = own.with_name("tables")
    for name in FILES:
        assert (tables / name).read_bytes() == own.with_name(name).read_bytes()
    foreign = tmp_path / "foreign.csv"
    foreign.write_text("".join(own.read_text().splitlines(keepends=True)[:5]))
    before = {path: path.read_bytes() for path in tables.iterdir()}
    for command in ("tables", "claims", "figures"):
        sentence = refusal(invoke(command, *suite, "--metrics", foreign))
        assert "has other numbers than" in sentence
    assert {path: path.read_bytes() for path in tables.iterdir()} == before
    out = ("--out", tmp_path / "out")
    assert invoke("tables", *suite, *out).exit_code == 0  # of the run itself
    rendered = tmp_path / "out" / own.parent.name
    assert all((rendered / name).exists() for name in FILES)
    assert invoke("tables", *suite, *out, "--metrics", foreign).exit_code == 0
    assert not any((rendered / name).exists() for name in FILES)
    assert (rendered / "metrics.csv").read_bytes() == foreign.read_bytes()


@pytest.mark.slow
def test_tables_replace_no_file_of_the_user(suite, tmp_path):
    place = tmp_path / "out" / metrics_of(suite).parent.name
    place.mkdir(parents=True)
    (place / "main.md").write_bytes(MINE)
    arguments = ("tables", *suite, "--out", tmp_path / "out")
    assert "main.md: is there" in refusal(invoke(*arguments))
    assert (place / "main.md").read_bytes() == MINE
    assert invoke(*arguments, "--force").exit_code == 0


@pytest.mark.slow
def test_collect_replaces_no_numbers_of_others_and_not_by_none(suite, tmp_path):
    metrics = metrics_of(suite)
    assert invoke("collect", "--partial", *suite).exit_code == 0
    kept = metrics.read_bytes()
    shutil.move(suite[3] / "stages", tmp_path / "stages")
    assert "no row is finished here" in refusal(invoke("collect", "--partial", *suite))
    assert metrics.read_bytes() == kept
    shutil.move(tmp_path / "stages", suite[3] / "stages")
    numbers(metrics)
    assert "changed since" in refusal(invoke("collect", "--partial", *suite))
    shutil.rmtree(metrics.parent)
    metrics.parent.mkdir()
    numbers(metrics)
    assert "no stages.csv beside it" in refusal(invoke("collect", "--partial", *suite))
    assert metrics.read_bytes() == numbers(tmp_path / "same.csv").read_bytes()
    assert invoke("collect", "--partial", *suite, "--force").exit_code == 0


@pytest.mark.parametrize("name", ["theory", "stages", "evaluation", "probes", "logs", "flops"])
def test_a_suite_of_a_taken_name_has_a_folder_of_its_own(tmp_path, name):
    path = write_suite(tmp_path, {}, name)
    out = tmp_path / "results"
    result = invoke("collect", "--suite", path, "--results", out, "--partial")
    assert result.exit_code == 0, result.output
    assert [folder.name.startswith(f"{name}-") for folder in out.iterdir()] == [True]
