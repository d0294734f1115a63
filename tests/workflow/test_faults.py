"""Disks that are full or read-only, other users, other machines, signals and surroundings."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open

from hdbench.cli import main
from hdbench.cli.group import Tee
from hdbench.core import runtime
from hdbench.core.errors import UserError
from hdbench.core.files import MANIFEST, hidden, write_together
from hdbench.stages import artifact
from hdbench.stages.loop import CHECKPOINT
from hdbench.stages.run import run_stage
from hdbench.stages.sources import SOURCES
from hdbench.suite.plan import Plan
from hdbench.suite.stage import Stage
from tests.support.faults import fill, mount, small_disk
from tests.support.tiny import REPOSITORY, run_until, stage_of, tiny_plan, write_suite

FULL = "No space left on device"
LOCKED = "Read-only file system"
NOBODY = 65534


@pytest.fixture(autouse=True)
def leaves_this_process_alone(monkeypatch):
    monkeypatch.setattr(runtime, "set_up", lambda threads, device: torch.device(device))


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Plan, Path]:
    """All stages of the arm td, and what is rendered of them."""
    path = tmp_path_factory.mktemp("done")
    plan = tiny_plan(path)
    for row in plan.rows:
        if row.arm in ("td", "real_test"):
            run_until(plan, path, row.stages["evaluate"])
    assert invoke(path, "collect", "--partial", results=path).exit_code == 0
    return plan, path


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk") as place:
        yield place


def invoke(folder: Path, *words: object, results: Path):
    """A command on the suite in `folder`."""
    suite = folder / "tiny.yaml"
    return CliRunner().invoke(
        main, [*map(str, words), "--suite", str(suite), "--results", str(results)]
    )


def state(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, hidden ones too."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def refusal(result, *why: str) -> str:
    """The one sentence that a command ended with."""
    assert result.exit_code == 2, (result.output, result.exception)
    last = result.output.splitlines()[-1]
    assert last.startswith("hdbench: ") and any(words in last for words in why), last
    assert "Traceback" not in result.output
    return last


def copy_parents(whole: Path, stage: Stage, results: Path) -> None:
    for parent in set(stage.parents.values()):
        shutil.copytree(artifact.folder(whole, parent), artifact.folder(results, parent))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["teacher", "sample", "evaluate"])
def test_a_full_disk_at_any_moment_is_one_sentence_and_the_same_command_goes_on(done, disk, kind):
    """From no room at all to just too little: in a checkpoint, in weights, at publication."""
    plan, whole = done
    stage = plan.stages[stage_of(plan, kind, "td")]
    copy_parents(whole, stage, disk)
    before = state(disk)
    refused = 0
    for left in (0, 4, 8, 16, 32, 64, 128, 256, 512):
        ballast = fill(disk, left)
        words = ["stage", kind, "--id", stage.id, "--checkpoint-seconds", 0]
        result = invoke(whole, *words, results=disk)
        ballast.unlink()
        if result.exit_code == 0:
            break
        refusal(result, FULL)
        refused += 1
        assert not artifact.exists(disk, stage.id)
        now = state(disk)
        assert {name: now[name] for name in before} == before  # nothing that was there is changed
        if (checkpoint := artifact.partial(disk, stage.id) / CHECKPOINT).exists():
            assert not checkpoint.with_suffix(".tmp").exists()
    assert refused >= 2 and artifact.exists(disk, stage.id)
    payloads = [artifact.load(place, stage.id)[1]["payload"] for place in (disk, whole)]
    assert payloads[0] == payloads[1]
    assert not artifact.partial(disk, stage.id).exists()


RENDERED = {"collect": ["collect", "--partial"], "tables": ["tables"], "publish": ["publish"]}


@pytest.mark.slow
def test_a_full_disk_keeps_the_old_numbers_and_tables(done, disk):
    _, whole = done
    shutil.copytree(whole, disk / "results")
    results = disk / "results"
    assert invoke(whole, "tables", results=results).exit_code == 0
    out = ("--out", str(disk / "out"))
    published = invoke(whole, "publish", *out, results=results)
    assert published.exit_code == 0, published.output
    for name, words in RENDERED.items():
        ballast = fill(disk, 0)
        before = state(disk)
        refusal(invoke(whole, *words, *(out if name == "publish" else ()), results=results), FULL)
        assert state(disk) == before, name
        ballast.unlink()


def test_read_only_results_are_read_and_one_sentence_says_what_cannot_be_written(done, disk):
    plan, whole = done
    shutil.copytree(whole, disk / "results")
    results = disk / "results"
    mount("-o", "remount,ro", disk)
    finished = stage_of(plan, "teacher", "td")
    assert invoke(whole, "stage", "teacher", "--id", finished, results=results).exit_code == 0
    for reading in ("plan", "status", "doctor"):
        assert invoke(whole, reading, results=results).exit_code == 0, reading
    to_do = stage_of(plan, "trajectory", "cd")
    refusal(invoke(whole, "stage", "trajectory", "--id", to_do, results=results), LOCKED)
    for words in RENDERED.values():
        if words != ["publish"]:
            refusal(invoke(whole, *words, results=results), LOCKED)
    refusal(invoke(whole, "stage", "teacher", "--again", results=results), LOCKED)


@pytest.fixture
def public():
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="hdbench-public-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def forked(work: Callable[[], int]) -> int:
    """Number of a child process that does `work` and ends with the code that it gives."""
    child = os.fork()
    if child == 0:
        code = 70  # an error of the test itself
        try:
            code = work()
        finally:
            os._exit(code)
    return child


def exit_code(child: int) -> int:
    """How the child ended: its code, or the negative number of a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def become_nobody() -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    for name in ("HOME", "USER", "LOGNAME"):
        os.environ.pop(name, None)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_a_second_user_reads_what_the_first_made_and_is_told_what_is_not_his(done, public):
    """Without a home, too."""
    plan, whole = done
    copied = public / "results"
    shutil.copytree(whole, copied)
    copied.chmod(0o755)
    before = state(copied)
    log = public / "log"
    log.write_text("", encoding="utf-8")
    log.chmod(0o666)
    finished = stage_of(plan, "teacher", "td")
    to_do = stage_of(plan, "trajectory", "cd")

    def work(*words: str) -> int:
        become_nobody()
        result = invoke(copied, *words, results=copied)
        log.write_text(result.output, encoding="utf-8")
        return result.exit_code

    for words, code, said in (
        (("stage", "teacher", "--id", finished), 0, "done already"),
        (("plan",), 0, "stages done"),
        (("stage", "trajectory", "--id", to_do), 2, "Permission denied"),
        (("stage", "teacher", "--id", finished, "--again"), 2, "Permission denied"),
        (("collect", "--partial"), 2, "Permission denied"),
    ):
        assert exit_code(forked(lambda words=words: work(*words))) == code, log.read_text()
        lines = log.read_text(encoding="utf-8").splitlines()
        assert any(said in line for line in lines)
        assert lines[-1].startswith("hdbench: ") == (code == 2)
    assert state(copied) == before


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o027, 0o077])
def test_files_have_the_modes_that_the_umask_leaves(done, tmp_path, umask):
    plan, whole = done
    stage = plan.stages[stage_of(plan, "sample", "td")]
    copy_parents(whole, stage, tmp_path)
    old = os.umask(umask)
    try:
        made = [
            invoke(whole, "stage", "sample", "--id", stage.id, results=tmp_path),
            invoke(whole, "export", "--arm", "td", "--out", tmp_path / "out", results=whole),
        ]
    finally:
        os.umask(old)
    assert [result.exit_code for result in made] == [0, 0], made[1].output
    for folder in (artifact.folder(tmp_path, stage.id), tmp_path / "out"):
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert files
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o666 & ~umask}


def test_two_machines_with_equal_process_numbers_do_not_write_into_one_file(tmp_path, monkeypatch):
    """Each writes its whole table under another hidden name, so no other's lines get into it."""
    monkeypatch.setattr(os, "getpid", lambda: 4711)
    assert hidden(tmp_path / "a.csv") != hidden(tmp_path / "a.csv")
    path = tmp_path / "a.csv"
    write_bytes = Path.write_bytes

    def interrupted_by_the_other(target, content):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", write_bytes)
            write_together({path: b"theirs" * 100})
        return write_bytes(target, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", interrupted_by_the_other)
        write_together({path: b"ours"})
    assert path.read_bytes() == b"ours"
    assert [file.name for file in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.parametrize("jump", [-1e9, 1e9])
def test_a_clock_that_jumps_changes_no_artifact_and_no_cost(done, tmp_path, monkeypatch, jump):
    plan, whole = done
    stage = plan.stages[stage_of(plan, "trajectory", "td")]
    copy_parents(whole, stage, tmp_path)
    now, calls = time.time, []

    def jumping() -> float:
        calls.append(None)
        return now() + jump * len(calls)

    monkeypatch.setattr(time, "time", jumping)
    run_stage(stage, tmp_path, torch.device("cpu"), 0.0)
    for path in (tmp_path / "stages").rglob("*"):
        os.utime(path, (2e9 + jump, 2e9 + jump))  # of another machine's clock
    _, manifest = artifact.load(tmp_path, stage.id)
    assert manifest["payload"] == artifact.load(whole, stage.id)[1]["payload"]
    assert 0 < manifest["wall_seconds"] < 60
    assert "done" in invoke(whole, "plan", results=tmp_path).output
    assert invoke(whole, "status", results=tmp_path).exit_code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("between", [0.0, 0.01])
def test_two_signals_end_as_one_does_and_lose_nothing(done, tmp_path, number, between):
    """The second while the checkpoint of the first is written, or at once."""
    _, whole = done
    plan = tiny_plan(tmp_path, {"teacher.training.steps": 4000})
    stage = plan.stages[stage_of(plan, "teacher", "td")]
    copy_parents(whole, stage, tmp_path)
    reader, writer = os.pipe()

    def work() -> int:
        os.dup2(writer, 2)
        return main.main(
            ["stage", "teacher", "--id", stage.id, "--suite", str(tmp_path / "tiny.yaml")]
            + ["--results", str(tmp_path)]
        )

    def ended() -> int:
        sys.stderr = os.fdopen(writer, "w", buffering=1)
        try:
            return work()
        except SystemExit as error:
            return error.code

    child = forked(ended)
    os.close(writer)
    with os.fdopen(reader) as stream:
        assert "teacher" in stream.readline()  # it trains
        os.kill(child, number)
        time.sleep(between)
        os.kill(child, number)
        said = stream.read()
    assert exit_code(child) in (130, -number) and "Traceback" not in said, said
    work_folder = artifact.partial(tmp_path, stage.id)
    with safe_open(work_folder / CHECKPOINT, "pt") as file:
        assert 0 < int(file.metadata()["step"]) < 4000
    assert {path.name for path in work_folder.iterdir()} <= {CHECKPOINT, SOURCES}


BARE = """
import sys
from click.testing import CliRunner
from hdbench.cli import main
for words in (["stage", "data"], ["figures"], ["plan"]):
    result = CliRunner().invoke(main, [*words, "--suite", sys.argv[1], "--results", sys.argv[2]])
    assert result.exit_code == 0, result.output
"""


@pytest.mark.slow
def test_full_temporary_files_and_no_home_hinder_nothing(tmp_path):
    """TMPDIR is a full disk, HOME is unset, and the user's number has no name."""
    suite = write_suite(tmp_path)
    with small_disk(tmp_path / "full", 64) as full:
        fill(full, 0)
        bare = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(full)}
        bare["OMP_NUM_THREADS"] = "1"
        run = subprocess.run(
            [sys.executable, "-c", BARE, str(suite), str(tmp_path / "results")],
            capture_output=True,
            text=True,
            env=bare,
        )
    assert run.returncode == 0 and "Traceback" not in run.stderr, run.stderr


def test_output_into_a_full_device_is_one_sentence_and_no_success(tmp_path, monkeypatch, capsys):
    suite = write_suite(tmp_path)
    full = open("/dev/full", "w")  # its close fails too
    monkeypatch.setattr(sys, "stdout", full)
    with pytest.raises(SystemExit) as ended:
        main.main(["plan", "--suite", str(suite), "--results", str(tmp_path)])
    monkeypatch.undo()
    with suppress(OSError):
        full.close()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("hdbench: a file: No space left on device; ")


def test_a_log_on_a_full_disk_is_said_and_one_that_cannot_be_made_is_refused(tmp_path):
    suite = write_suite(tmp_path)
    words = ("plan", "--suite", str(suite), "--results", str(tmp_path))
    refused = CliRunner().invoke(main, ["--log", str(suite / "log"), *words])
    assert refusal(refused, "Not a directory", "File exists").startswith(f"hdbench: {suite}")
    stream = io.StringIO()
    tee = Tee(stream, Path("/dev/full"))
    assert print("a", file=tee) is print("b", file=tee) is None
    assert stream.getvalue() == (f"a\nhdbench: /dev/full: {FULL}; no more messages go there\nb\n")


def test_a_file_that_may_not_grow_further_is_one_sentence(done, tmp_path):
    """A quota or `ulimit -f`: the kernel refuses the write as it refuses a full disk's."""
    plan, whole = done
    stage = plan.stages[stage_of(plan, "trajectory", "td")]
    copy_parents(whole, stage, tmp_path)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, old[1]))
        with pytest.raises(UserError, match="File too large"):
            run_stage(stage, tmp_path, torch.device("cpu"), 0.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not artifact.exists(tmp_path, stage.id)
    run_stage(stage, tmp_path, torch.device("cpu"), 0.0)
    payloads = [
        json.loads((artifact.folder(place, stage.id) / MANIFEST).read_text())["payload"]
        for place in (tmp_path, whole)
    ]
    assert payloads[0] == payloads[1]
