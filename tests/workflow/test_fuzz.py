"""Whatever a command is given: no traceback, no hang, no success that is none, no changed file.

`python -m tests.fuzz --seconds 600` goes on for as long as one likes, with other inputs each time.
"""

from __future__ import annotations

import gzip
import io
import lzma
import os
import tarfile
import zipfile
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from hdbench.cli import main
from hdbench.metrics import records
from hdbench.report.provenance import FILES
from tests.support.fuzzing import CORPUS, Case, cases, commands_of, nothing_is_computed, outcome
from tests.support.grounds import prepare
from tests.support.tiny import REMOVED, REPOSITORY, write_suite


@pytest.fixture(scope="module", autouse=True)
def patched():
    with pytest.MonkeyPatch.context() as monkeypatch, nothing_is_computed(monkeypatch):
        yield


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("fuzz") / "ground")


@pytest.mark.slow
def test_the_good_inputs_are_taken(ground):
    """Else every fault would be refused for want of something else."""
    for name, kind in ground.kinds.items():
        commands = kind.commands[-1:] if name.startswith("manifest") else kind.commands
        for words in dict.fromkeys(commands):
            case = Case(words, kind.path, ground.good(kind.path), kind.own)
            code = 2 if name == "prereg" else 0  # which is read, but in no commit here
            assert outcome(ground, case) == ("", code), (name, words)


@pytest.mark.slow
def test_no_random_fault_ends_in_anything_but_a_sentence(ground):
    @settings(
        max_examples=80,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(st.data())
    def examples(data):
        case = data.draw(cases(ground))
        assert outcome(ground, case)[0] == "", case

    examples()


def refused(*words: str) -> str:
    result = CliRunner().invoke(main, list(words))
    assert result.exit_code == 2, (words, result.output, result.exception)
    lines = result.output.splitlines()
    (sentence,) = [line for line in lines if line.startswith(("hdbench: ", "Error: "))]
    return sentence


SUITES = {
    "deep.yaml": "is nested deeper than 50 levels",
    "huge_int.yaml": "line 4: 99999999999999999999999999: beyond 64 bits",
    "nan_arm.yaml": "tables read 'nan' as a missing value",
    "claims_unknown.yaml": "no claim 'C99'",
}
METRICS = {
    "header_only.csv": "holds no numbers",
    "seed_1e400.csv": "line 2: seed = '1e400'",
    "seed_huge.csv": "line 2: seed = '99999999999999999999'",
}


@pytest.mark.parametrize("name", SUITES)
def test_suites_that_cannot_be_run_are_refused_at_planning(name, tmp_path):
    said = refused("plan", "--suite", str(CORPUS / name), "--results", str(tmp_path))
    assert SUITES[name] in said


def test_merge_keys_of_yaml_are_read_and_a_suite_may_have_an_experiments_name(tmp_path):
    for name in ("merge2.yaml", "theory.yaml"):
        words = ["plan", "--suite", str(CORPUS / name), "--results", str(tmp_path)]
        assert CliRunner().invoke(main, words).exit_code == 0


def test_aliases_that_multiply_are_refused_at_once(tmp_path):
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    path = tmp_path / "laughs.yaml"
    path.write_text("\n".join(lines))
    assert "its aliases stand for more than" in refused("plan", "--suite", str(path))


@pytest.mark.parametrize("name", METRICS)
def test_metrics_that_are_none_are_refused_with_their_line(name, ground, tmp_path):
    words = ("--metrics", str(CORPUS / name), "--suite", str(ground.folder / "inputs/tiny.yaml"))
    assert METRICS[name] in refused("tables", *words, "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def packed() -> dict[str, bytes]:
    """Good metrics as people pack them, and as a broken connection leaves them."""
    content = (CORPUS / "ok.csv").read_bytes()
    archive, tape = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("ok.csv", content)
    with tarfile.open(fileobj=tape, mode="w:gz") as file:
        file.add(CORPUS / "ok.csv", "ok.csv")
    return {
        "ok.csv.xz": lzma.compress(content),
        "ok.csv.zip": archive.getvalue(),
        "ok.csv.zst": b"\x28\xb5\x2f\xfd" + content,
        "ok.tar.gz": tape.getvalue(),
        "cut.csv.gz": gzip.compress(content, mtime=0)[:100],
        "text.csv.gz": content,
        "utf16.csv": content.decode().encode("utf-16"),
        "nul.csv": content.replace(b"teacher", b"tea\x00her", 1),
        "empty.csv": b"",
    }


PUBLISHED = str(REPOSITORY / "paper_tables/published.csv")
READERS = {
    "import vqascore": ("import", "vqascore", "FILE"),
    "import geneval": ("import", "geneval", "FILE"),
    "prose": ("prose", "d.in.md"),
    "compare": ("compare", str(CORPUS / "ok.csv"), "d.csv"),
    "published": ("published", "--metrics", "d.csv", "--out", "out", "--numbers", PUBLISHED),
    "published numbers": ("published", "--numbers", "FILE", "--out", "out"),
    "plan": ("plan", "--suite", "d.yaml"),
    "plan of a suite's base": ("plan", "--suite", "extends.yaml"),
    "plan of a suite's weights": ("plan", "--suite", "weights.yaml"),
    "evaluate": ("evaluate", "--samples", "d.csv", "--protocol", "clip_score"),
    "evaluate a folder": (
        *("evaluate", "--samples", ".", "--reference", ".", "--protocol", "clean_fid"),
        *("--weights", "inception=extends.yaml", "--allow", "other-weights"),
    ),
    "evaluate with weights": (
        *("evaluate", "--samples", "d.csv", "--protocol", "clean_fid"),
        *("--weights", "inception=FILE"),
    ),
}


@pytest.mark.parametrize("place", ["/dev/zero", "pipe"])
@pytest.mark.parametrize("name", READERS)
def test_what_has_no_end_is_not_read(name, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if place == "pipe":
        os.mkfifo(place)
    for link in ("d.in.md", "d.csv", "d.yaml", "d.png"):
        Path(link).symlink_to(place)
    Path("extends.yaml").write_text("extends: d.yaml")
    weights = {"teacher.checkpoint": {"format": "sit", "path": "d.csv"}}
    write_suite(tmp_path, weights | {"teacher.training": REMOVED}, "weights")
    said = refused(*(word.replace("FILE", place) for word in READERS[name]))
    assert "a pipe or a device, not a file" in said


@pytest.mark.parametrize("node", ["pipe", "device"])
def test_the_files_of_a_run_have_an_end(node, ground):
    kind = ground.kinds["stages.csv of a kept run"]
    assert outcome(ground, Case(kind.commands[0], kind.path, node, kind.own)) == ("", 2)


def test_every_path_of_an_option_is_looked_at(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    options = {
        type(option.type): option
        for _, command in commands_of(main)
        for option in command.params
        if isinstance(option.type, click.Path)
    }
    (option,) = options.values()  # of one type
    with pytest.raises(click.UsageError, match="a pipe or a device, not a file"):
        option.type.convert(str(tmp_path / "pipe"), option, None)


def test_a_file_that_unpacks_to_more_than_is_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "d.csv.gz"
    path.write_bytes(gzip.compress((CORPUS / "ok.csv").read_bytes() + bytes(10**6)))
    monkeypatch.setattr(records, "LARGEST_TEXT", 10**5)
    assert "unpacked, larger than 100,000 bytes" in refused("compare", str(path), str(path))


def test_published_refuses_a_file_without_numbers(tmp_path):
    words = ("--metrics", str(CORPUS / "header_only.csv"), "--out", str(tmp_path / "out"))
    assert "header_only.csv: holds no numbers" in refused("published", *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", packed())
def test_metrics_of_another_form_are_refused_by_every_reader(name, tmp_path):
    path = tmp_path / name
    content = packed()[name]
    path.write_bytes(content)
    assert str(path) in refused("compare", str(CORPUS / "ok.csv"), str(path))
    assert str(path) in refused("published", "--metrics", str(path), "--out", str(tmp_path / "out"))
    assert path.read_bytes() == content


STRICT = ("suite", "rules", "prereg", "theory", "probes", "flops", "cost", "sources")


@pytest.mark.parametrize("name", STRICT)
def test_a_key_that_nobody_reads_is_refused_in_every_file(name, ground, monkeypatch):
    monkeypatch.chdir(ground.folder)
    kind = ground.kinds[name]
    content = ground.good(kind.path)
    path = ground.folder / kind.path
    path.write_bytes(content + b"\nsurprise: 1\n")
    try:
        assert "surprise" in refused(*kind.commands[0])
    finally:
        path.write_bytes(content)


FILES_OF_RUN = [f"{name} of the run" for name in FILES]


@pytest.mark.parametrize(
    "name", [*STRICT, "metrics", "published", *FILES_OF_RUN, "manifest of teacher"]
)
def test_half_a_file_is_no_file(name, ground):
    """As a full disk leaves what another program copied."""
    kind = ground.kinds[name]
    content = ground.good(kind.path)
    half = content[: content.index(b"\n", len(content) // 3) + 5]
    words = kind.commands[-1 if name.startswith("manifest") else 0]
    problem, code = outcome(ground, Case(words, kind.path, half, kind.own))
    assert (problem, code) == ("", 2)


@pytest.mark.parametrize(
    "name",
    ["manifest of teacher", "job of teacher", *FILES_OF_RUN, "latency", "geneval", "prompts"],
)
@pytest.mark.parametrize("content", [b"[" * 5000, b"null", b'{"a": 1}', b"\xff", b""])
def test_json_of_another_form_is_refused(name, content, ground):
    kind = ground.kinds[name]
    words = kind.commands[-1 if name.startswith("manifest") else 0]
    assert outcome(ground, Case(words, kind.path, content, kind.own)) == ("", 2)
