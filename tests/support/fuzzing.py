"""Inputs of every command with random faults, and what no command may do with one.

`cases` draws a command with a file that is changed in one to three places, or with odd options;
`outcome` runs it in this process and says what went wrong: nothing may end in a traceback, take
over ten seconds, be reported as a failure with exit code 0 or end without a sentence, or change a
file that it was given.
"""

from __future__ import annotations

import re
import shutil
import signal
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from click.testing import CliRunner
from hypothesis import strategies as st

from hdbench.cli import main
from hdbench.core import runtime
from hdbench.stages import artifact
from tests.support.grounds import SUITE, Ground, in_folder
from tests.support.mutations import NODES, WORDS, changed, put
from tests.support.tiny import REPOSITORY

CORPUS = REPOSITORY / "tests" / "corpus"
SECONDS = 10


@dataclass(frozen=True)
class Case:
    """A command; the file that is changed before it, by its path, if any."""

    words: tuple[str, ...]
    path: str = ""
    content: bytes | str = b""
    """Of it, or what of `NODES` is in its place."""
    own: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        return " ".join(word for word in self.words[:2] if re.fullmatch(r"[a-z_]+", word))


@st.composite
def cases(draw, ground: Ground, names: tuple[str, ...] = ()) -> Case:
    """A command with a changed file of one of these kinds (by default of all, or odd options)."""
    name = draw(st.sampled_from(names or (*ground.kinds, "options", "options")))
    if name == "options":
        return draw(odd_options(ground))
    kind = ground.kinds[name]
    words = draw(st.sampled_from(kind.commands))
    if draw(st.integers(0, 9)):
        content = draw(changed(kind.path, ground.good(kind.path)))
    else:
        content = draw(st.sampled_from(NODES))
    return Case(words, kind.path, content, kind.own)


REMOVING = {"again", "force"}  # which take away what others need
# what they would compute for minutes with good options
COMPUTING = {"latency", "arm", "reference", "figures"}


def commands_of(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands_of(command, (*words, name))
        else:
            yield (*words, name), command


@st.composite
def odd_options(draw, ground: Ground) -> Case:
    """A command with good words and up to three odd options."""
    good = {words[0]: words for kind in ground.kinds.values() for words in kind.commands}
    start, command = draw(
        st.sampled_from([c for c in commands_of(main) if c[0][-1] not in COMPUTING])
    )
    words = list(good.get(start[0], (*start, *SUITE)) if len(start) == 1 else (*start, *SUITE))
    options = [
        option
        for option in command.params
        if isinstance(option, click.Option) and option.name not in REMOVING
    ]
    for option in draw(st.lists(st.sampled_from(options), max_size=3)) if options else ():
        words.append(option.opts[0])
        if not option.is_flag:
            is_output = option.name in ("out", "results", "cache", "table")
            words.append("out/" * is_output + draw(st.sampled_from(WORDS)))
    return Case(
        tuple(words), own=tuple(path for kind in ground.kinds.values() for path in kind.own)
    )


@contextmanager
def nothing_is_computed(monkeypatch) -> Iterator[None]:
    """Experiments only read and check, stages run from a commit, this process stays as it is."""
    from hdbench.experiments import flops
    from hdbench.experiments.probes import report as probes
    from hdbench.experiments.theory import report as theory

    with monkeypatch.context() as patch:
        patch.setattr(runtime, "set_up", lambda threads, device: torch.device("cpu"))
        committed = {"commit": "a" * 40, "device": "cpu"}
        patch.setattr(artifact, "environment", lambda device: committed)
        patch.setattr(theory, "run_theory", lambda config, results, out, pdf: [out])
        patch.setattr(probes, "run_probes", lambda config, results, out, pdf: [out])
        patch.setattr(flops, "run_flops", lambda config, results, out: [out])
        yield


class Hang(BaseException):
    """Over `SECONDS` of this process, or 60 times as many by the clock, as of a loaded machine."""


@contextmanager
def limited() -> Iterator[None]:
    def stop(number, frame):
        raise Hang("".join(traceback.format_stack(frame)[-3:]))

    handlers = {number: signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, 60 * SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def files_of(folder: Path) -> dict[str, tuple]:
    """Size, time and inode of each file that is an input: all but those under out/."""
    return {
        str(path.relative_to(folder)): (s.st_size, s.st_mtime_ns, s.st_ino)
        for path in folder.rglob("*")
        if not path.is_relative_to(folder / "out") and (path.is_symlink() or not path.is_dir())
        for s in [path.lstat()]
    }


def outcome(ground: Ground, case: Case) -> tuple[str, int]:
    """What went wrong, in a line, empty if nothing did; the exit code.  The ground is as it was."""
    folder = ground.folder
    good = files_of(folder)
    if case.path:
        put(folder / case.path, case.content)
    before = files_of(folder)
    problem = ""
    result = None
    try:
        with in_folder(folder), limited(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = CliRunner().invoke(main, list(case.words))
    except Hang as hang:
        problem = f"hang: {hang}"
    after = files_of(folder)
    if lost := [
        path for path in before if after.get(path) != before[path] and path not in case.own
    ]:
        problem = problem or f"changed: {lost[0]}"
    for path in after.keys() - before.keys():
        # outputs by default, beside what is the user's
        if not path.startswith(("results/", "paper_tables/tiny")) and path not in case.own:
            problem = problem or f"written beside its outputs: {path}"
    for path in {*good, *before, *after}:
        if path == case.path or after.get(path) != good.get(path):
            put(folder / path, ground.good(path) if path in good else "missing")
    shutil.rmtree(folder / "out", ignore_errors=True)
    return problem or judged(result), 1 if result is None else result.exit_code


def judged(result) -> str:
    """What is wrong with how a command ended; empty if nothing is."""
    lines = result.output.splitlines()
    said = [line for line in lines if line.startswith(("hdbench: ", "Error: "))]
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        place = traceback.extract_tb(result.exc_info[2])[-1]
        return (
            f"traceback: {type(result.exception).__name__} at {Path(place.filename).name}:"
            f"{place.name}: {str(result.exception)[:150]}"
        )
    if "Traceback" in result.output or "Aborted!" in result.output:
        return f"traceback: {lines[-1][:150]}"
    if result.exit_code == 0 and [line for line in said if ": read " not in line]:
        return f"code 0: {said[0][:150]}"
    if result.exit_code == 2 and len(said) != 1:
        return f"{len(said)} sentences: {lines[-1:]}"
    if result.exit_code not in (0, 1, 2):
        return f"code {result.exit_code}: {lines[-1:]}"
    return ""
