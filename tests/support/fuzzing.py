"""Inputs of every command with random faults, and what no command may do with one.

`cases` draws a command with a file that is changed in one to three places, or with odd options;
`outcome` runs it in this process and says what went wrong: nothing may end in a traceback, take
over ten seconds, be reported as a failure with exit code 0 or end without a sentence, or change a
file that it was given.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click
import torch
from click.testing import CliRunner
from hypothesis import strategies as st

from hdbench.cli import main
from hdbench.core import runtime
from hdbench.core.files import sha256, write_together
from hdbench.report.latency import FULL, SINGLE, latency_file, sampler_key
from hdbench.report.provenance import FILES, METRICS, read_run
from hdbench.stages import artifact
from hdbench.suite.jobs import write_jobs
from hdbench.suite.plan import Plan
from tests.support.material import clip_weights, pictures, write_folder
from tests.support.mutations import WORDS, changed
from tests.support.tiny import REPOSITORY, run_until, tiny_plan

CORPUS = REPOSITORY / "tests" / "corpus"
SECONDS = 10


@dataclass(frozen=True)
class Kind:
    """A file that commands read: where it lies under a ground, and these commands' words."""

    path: str
    commands: tuple[tuple[str, ...], ...]
    own: tuple[str, ...] = ()
    """Files that the commands may write, beside those under out/."""


@dataclass(frozen=True)
class Case:
    """A command; the file that is changed before it, by its path, if any."""

    words: tuple[str, ...]
    path: str = ""
    content: bytes = b""
    own: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        return " ".join(word for word in self.words[:2] if re.fullmatch(r"[a-z_]+", word))


@dataclass
class Ground:
    """A folder with a whole small run and one good file of each kind."""

    folder: Path
    kinds: dict[str, Kind] = field(default_factory=dict)

    def good(self, path: str) -> bytes:
        return (self.folder / path).read_bytes()


GOOD = {
    "workflow/cost.yaml": "workflow/cost.yaml",
    "workflow/sources.yaml": "workflow/sources.yaml",
    "workflow/flops.yaml": "inputs/flops.yaml",
    "tests/support/claims.yaml": "workflow/claims.yaml",
    "tests/support/theory.yaml": "inputs/theory.yaml",
    "tests/support/probes.yaml": "inputs/probes.yaml",
    "paper_tables/published.csv": "paper_tables/published.csv",
}
SUITE = ("--suite", "inputs/tiny.yaml", "--results", "results")


def prepare(folder: Path) -> Ground:
    """Run teacher, td and real_test of the tiny suite, and write a good file of each kind."""
    from tests.unit.test_tables import synthetic

    inputs = folder / "inputs"
    inputs.mkdir(parents=True)
    with in_folder(folder):
        plan = tiny_plan(inputs, {"seeds": [0, 1]})
        for row in plan.rows:
            if row.arm in ("teacher", "td", "real_test") and row.seed in (0, None):
                run_until(plan, Path("results"), row.stages["evaluate"])
        CliRunner().invoke(main, ["collect", "--partial", *SUITE], catch_exceptions=False)
        synthetic(plan).to_csv(inputs / "metrics.csv", index=False)
        shutil.copy(inputs / "metrics.csv", inputs / "other.csv")
        for source, target in GOOD.items():
            (folder / target).parent.mkdir(exist_ok=True)
            shutil.copy(REPOSITORY / source, folder / target)
        run = read_run(Path("results") / plan.name)
        digests = {METRICS: sha256(inputs / METRICS)}
        write_together(run.model_copy(update={"digests": digests}).contents(inputs))
        words = ["preregister", "--seeds", "0-1", "--rules", "workflow/claims.yaml"]
        words += ["--suite", "inputs/tiny.yaml", "--out", "inputs/prereg.yaml"]
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output
        write_jobs(plan, Path("results"))
        sampler = sampler_key(plan, next(row for row in plan.rows if row.arm == "td"))
        latency = {"milliseconds": {sampler: {SINGLE: 1.5, FULL: 9.0}}, "provenance": {"a": "b"}}
        latency_file(plan, Path("results")).write_text(json.dumps(latency))
        rows = [
            {"filename": f"{n}/samples/0.png", "tag": tag, "prompt": tag, "correct": n > 0}
            for n, tag in enumerate(("counting", "counting", "colors", "colors"))
        ]
        (inputs / "geneval.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (inputs / "dpg.txt").write_text("a.png, 0.5, 1.0, 0.75\nb.png, 0.0, 0.5, 0.25\n")
        (inputs / "vqa.csv").write_text("image,prompt,score\na.png,a dog,0.5\nb.png,a cat,0.25\n")
        write_folder(folder / "images", pictures(3, 0), ["a", "b", "c"])
        prompts = {name: {"prompt": f"a {name}", "category": "x"} for name in "abc"}
        (inputs / "prompts.json").write_text(json.dumps(prompts))
        (inputs / "notes.in.md").write_text("# Notes\n\nA line of text.\n")
    ground = Ground(folder)
    ground.kinds = kinds(plan, folder)
    return ground


OWN = (METRICS, *FILES, "environment.csv", ".hdbench")  # of `collect`
FURTHER = {  # that read a manifest of this kind of stage
    "teacher": ("ship SUITE --seed 0 OUT",),
    "evaluate": ("ship SUITE --seed 0 OUT",),
    "trajectory": ("export --arm td SUITE OUT",),
}


def kinds(plan: Plan, folder: Path) -> dict[str, Kind]:
    """Every kind of file, by name; SUITE, METRICS and so on stand for options."""
    of_suite = "--suite inputs/tiny.yaml --results results"
    words = {
        "SUITE": of_suite,
        "METRICS": "--metrics inputs/metrics.csv",
        "CLIP": f"--weights clip={clip_weights()} --allow other-weights --cache out/cache",
        "OUT": "--out out",
    }
    results = f"results/{plan.name}"

    def kind(path: str, *commands: str, own: Iterable[str] = ()) -> Kind:
        filled = [[words.get(w, w).split() for w in text.split()] for text in commands]
        return Kind(path, tuple(tuple(sum(parts, [])) for parts in filled), tuple(own))

    collected = [
        *(f"{results}/{name}" for name in OWN),
        *(f"{results}/claims.{suffix}" for suffix in ("csv", "md", "tex", "html")),
    ]
    reading = ("plan SUITE", "status SUITE", "cost SUITE OUT", "collect --partial SUITE")
    benchmark = "--numbers paper_tables/published.csv --benchmark"
    evaluate = "evaluate --samples images --protocol clip_score --prompts inputs/prompts.json CLIP"
    by_name = {
        "suite": kind(
            "inputs/tiny.yaml",
            *("plan SUITE", "plan SUITE", "plan SUITE", "status SUITE", "doctor SUITE"),
            *("cost SUITE OUT", "cost --memory SUITE"),
        ),
        "metrics": kind(
            "inputs/metrics.csv",
            *("tables METRICS SUITE OUT", "claims METRICS SUITE OUT"),
            "compare inputs/other.csv inputs/metrics.csv",
            "compare inputs/metrics.csv inputs/other.csv --all --out out/compared.csv",
            "published METRICS --benchmark imagenet256 OUT",
        ),
        "rules": kind(
            "workflow/claims.yaml",
            "claims --rules workflow/claims.yaml METRICS SUITE OUT",
            "preregister --seeds 0-1 --rules workflow/claims.yaml --suite inputs/tiny.yaml "
            "--out out/prereg.yaml",
        ),
        "prereg": kind(
            "inputs/prereg.yaml", "claims --prereg inputs/prereg.yaml METRICS SUITE OUT"
        ),
        "published": kind(
            "paper_tables/published.csv",
            f"published {benchmark} imagenet256 OUT",
            f"published {benchmark} mjhq OUT",
        ),
        "theory": kind("inputs/theory.yaml", "theory --config inputs/theory.yaml --results out"),
        "probes": kind("inputs/probes.yaml", "probes --config inputs/probes.yaml --results out"),
        "flops": kind("inputs/flops.yaml", "flops --config inputs/flops.yaml --results out"),
        "cost": kind("workflow/cost.yaml", "cost SUITE OUT", "cost --memory SUITE"),
        "sources": kind("workflow/sources.yaml", "doctor SUITE"),
        **{
            f"{name} of the run": kind(
                f"{results}/{name}",
                *("tables --release SUITE OUT", "claims SUITE OUT"),
                own=collected,
            )
            for name in FILES
        },
        **{
            f"{name} of a kept run": kind(
                f"inputs/{name}", "collect --partial --keep inputs/metrics.csv SUITE", own=collected
            )
            for name in FILES
        },
        "latency": kind(f"{results}/latency.json", "collect --partial SUITE", own=collected),
        "geneval": kind("inputs/geneval.json", "import geneval inputs/geneval.json --partial"),
        "dpg": kind("inputs/dpg.txt", "import dpg_bench inputs/dpg.txt --partial"),
        "vqascore": kind("inputs/vqa.csv", "import vqascore inputs/vqa.csv"),
        "prompts": kind("inputs/prompts.json", evaluate),
        "prose": kind(
            "inputs/notes.in.md",
            "prose inputs/notes.in.md OUT",
            own=["inputs/notes.md", "inputs/.hdbench"],
        ),
    }
    for stage in plan.stages:
        path = f"results/stages/{stage}/manifest.json"
        if (folder / path).is_file():
            name = stage.split("/")[0]
            again = f"stage {name} --id {stage} SUITE"
            more = FURTHER.get(name, ())
            by_name[f"manifest of {name}"] = kind(path, *reading, *more, again, own=collected)
            by_name[f"job of {name}"] = kind(f"results/stages/{stage}.json", again, again)
    return by_name


@st.composite
def cases(draw, ground: Ground, names: tuple[str, ...] = ()) -> Case:
    """A command with a changed file of one of these kinds (by default of all, or odd options)."""
    name = draw(st.sampled_from(names or (*ground.kinds, "options", "options")))
    if name == "options":
        return draw(odd_options(ground))
    kind = ground.kinds[name]
    words = draw(st.sampled_from(kind.commands))
    content = draw(changed(kind.path, ground.good(kind.path)))
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
def in_folder(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


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
        if path.is_file() and not path.is_relative_to(folder / "out")
        for s in [path.stat()]
    }


def outcome(ground: Ground, case: Case) -> tuple[str, int]:
    """What went wrong, in a line, empty if nothing did; the exit code.  The ground is as it was."""
    folder = ground.folder
    good = ground.good(case.path) if case.path else b""
    kept = {path: ground.good(path) for path in case.own if (folder / path).exists()}
    if case.path:
        (folder / case.path).write_bytes(case.content)
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
        if path not in kept:
            (folder / path).unlink()
    for path, content in kept.items():
        (folder / path).write_bytes(content)
    if case.path:
        (folder / case.path).write_bytes(good)
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
    if result.exit_code == 0 and said:
        return f"code 0: {said[0][:150]}"
    if result.exit_code == 2 and len(said) != 1:
        return f"{len(said)} sentences: {lines[-1:]}"
    if result.exit_code not in (0, 1, 2):
        return f"code {result.exit_code}: {lines[-1:]}"
    return ""
