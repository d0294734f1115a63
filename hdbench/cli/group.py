"""The command group, its errors and shared options."""

from __future__ import annotations

import functools
import io
import math
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from hdbench.core.errors import Ended, UserError, of_system
from hdbench.core.files import expanded
from hdbench.core.outputs import Command, writing

if TYPE_CHECKING:
    from hdbench.suite.plan import Plan

# modules that come with an extra of the package, as pyproject.toml has them
EXTRAS = {
    "snakemake": "workflow",
    "sklearn": "workflow",
    "diffusers": "workflow",
    "matplotlib": "report",
    "tokenizers": "scale",
    "pyarrow": "parquet",
    "tensorboard": "tensorboard",
}


def rank() -> str:
    """What the launcher calls this process; "0" where there is no launcher."""
    return os.environ.get("RANK") or "0"


def clean_errors(command):
    """Expected errors and the system's refusals become a sentence and an exit code, Ctrl-C 130."""

    @functools.wraps(command)
    def wrapped(*args, **kwargs):
        try:
            return command(*args, **kwargs)
        except Ended as error:
            code = error.code
            text = str(error)
            alone = error.alone
        except ModuleNotFoundError as error:
            if error.name not in EXTRAS:
                raise
            code = 2
            text = (
                f"{error.name} is not installed, of which this command has need; "
                f"`pip install 'hdbench[{EXTRAS[error.name]}]'` brings it"
            )
            alone = False
        except KeyboardInterrupt:
            code = 130
            text = "stopped; nothing is lost, the same command goes on from the last checkpoint"
            alone = False
        except Exception as error:
            refused = of_system(error)
            # a closed pipe is click's to end
            if refused is None or isinstance(error, BrokenPipeError):
                raise
            code = refused.code
            text = str(refused)
            alone = False
        if alone and os.environ.get("WORLD_SIZE") != "1":
            text = f"rank {rank()}: {text}"
        # a RANK without a WORLD_SIZE is left over from another program
        if alone or rank() == "0" or "WORLD_SIZE" not in os.environ:
            click.echo(f"hdbench: {text}", err=True)
        sys.exit(code)

    return wrapped


SECTIONS = {  # of `hdbench --help`, in the order of a user's work; the last has all others, too
    "Run a suite": ("init", "doctor", "cost", "run", "arm", "stage"),
    "Look at a run": ("plan", "status", "tensorboard", "show", "compare"),
    "Evaluate any images": ("evaluate", "reference", "import"),
    "Render, judge and publish": (
        *("collect", "tables", "figures", "claims", "preregister", "published", "publish"),
        *("export", "ship", "submit", "validate", "leaderboard", "verify"),
    ),
    "Experiments and development": (
        *("theory", "flops", "probes", "tuned", "latency", "rehearse", "prose"),
    ),
}


class Sections(click.Group):
    """A group whose help lists its commands by `SECTIONS`, each with its whole first sentence."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        listed = {name for names in SECTIONS.values() for name in names}
        others = tuple(name for name in self.list_commands(ctx) if name not in listed)
        for title, names in SECTIONS.items():
            names += others if title == list(SECTIONS)[-1] else ()
            with formatter.section(title):
                formatter.write_dl(
                    [(name, self.commands[name].get_short_help_str(1000)) for name in names]
                )


def examples(*lines: str) -> str:
    """The end of a command's help: command lines as they are typed."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


class PathOption(click.Path):
    """A path as `Path`, with the `~` that a shell leaves where it is after `=` or in quotes."""

    def __init__(self, **options):
        super().__init__(path_type=Path, **options)

    def convert(self, value, param, ctx):
        if "\0" in str(value):
            self.fail("a path has no NUL character; take it out", param, ctx)
        try:
            return super().convert(expanded(value), param, ctx)
        except UserError as error:
            return self.fail(str(error), param, ctx)


class Seconds(click.FloatRange):
    """A time that a clock can wait for: a number, and at most that of 30 years."""

    def __init__(self, least: float = 0):
        super().__init__(least, 10**9)

    def convert(self, value, param, ctx):
        seconds = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value} is no number of seconds", param, ctx)
        return seconds


PATH = PathOption()
FILE = PathOption(dir_okay=False)
FOLDER = PathOption(file_okay=False)

suite_option = click.option(
    "--suite",
    default="demo",
    show_default=True,
    help="Name in workflow/suites, or path of a YAML file.",
)
results_option = click.option(
    "--results",
    type=FOLDER,
    default=Path("results"),
    show_default=True,
    help="Folder of artifacts and metrics.",
)
metrics_option = click.option(
    "--metrics", type=FILE, help="By default results/<suite>/metrics.csv."
)
rendered_option = click.option(
    "--out",
    type=FOLDER,
    help="Folder in which <suite>/ gets what is rendered; by default results/<suite>/.",
)
pdf_option = click.option("--pdf", is_flag=True, help="Figures as pdf too, beside the png.")
seed_option = click.option(
    "--seed", type=int, help="Seed of the chain; by default the suite's first."
)
out_option = click.option(
    "--out",
    type=FOLDER,
    default=Path("paper_tables"),
    show_default=True,
    help="Folder of rendered tables and figures.",
)
threads_option = click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads."
)
device_option = click.option(
    "--device", default="cpu", show_default=True, help="cpu, cuda, or auto: cuda if there is one."
)


def config_option(default: str, text: str):
    """The option --config, a YAML file."""
    return click.option("--config", type=FILE, default=Path(default), show_default=True, help=text)


def options(*shared):
    """One decorator that adds several options, in the order of the help."""
    return lambda command: functools.reduce(lambda f, add: add(f), reversed(shared), command)


def writes(*inputs: str):
    """The option --force of a command that writes, and reads what these parameters name.

    See `hdbench.core.outputs`.
    """

    def decorate(command):
        @click.option(
            "--force",
            is_flag=True,
            help="Replace files that hdbench did not write, or that this command reads.",
        )
        @functools.wraps(command)
        def wrapped(force, **kwargs):
            given = (kwargs[name] for name in (*inputs, "suite") if kwargs.get(name) is not None)
            texts = [
                str(value)
                for values in given
                for value in (values if isinstance(values, tuple) else (values,))
            ]
            # NAME=PATH is a path, too
            read = {path for text in texts for path in (text, text.rpartition("=")[2])}
            paths = tuple(map(Path, read))
            with writing(Command(force=force, inputs=paths, results=kwargs.get("results"))):
                return command(**kwargs)

        return wrapped

    return decorate


def load_plan(suite: str) -> Plan:
    """The plan of a suite, by its name or path; UserError for a mistake in it."""
    from hdbench.suite import load  # start-up: pydantic and torch

    return load.load_plan(suite)


class Tee:
    """Standard error that also goes to a file, line by line."""

    def __init__(self, stream: TextIO, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.stream = stream
        self.path = path
        if path.suffix != ".log" and path.exists() and path.stat().st_size:
            raise UserError(
                f"--log = {path}: is there, and no .log to go on with; name another file"
            )
        self.file: TextIO | None = path.open("a", encoding="utf-8", buffering=1)

    def write(self, text: str) -> int:
        count = self.stream.write(text)
        try:
            if self.file is not None:
                self.file.write(text)
        except OSError as error:
            with suppress(OSError):  # of what it still held
                self.file.close()
            self.file = None
            self.stream.write(
                f"hdbench: {self.path}: {error.strerror}; no more messages go there\n"
            )
        return count

    def flush(self) -> None:
        self.stream.flush()

    def __getattr__(self, name: str):
        return getattr(self.stream, name)


@click.group(
    cls=Sections,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "hdbench run --suite digits          # all stages, tables, figures and report",
        "hdbench status --suite digits       # meanwhile, in another terminal",
        "hdbench show --suite digits         # the main table",
        "hdbench evaluate --help             # and other examples there",
    ),
)
@click.version_option(package_name="hdbench")
@click.option(
    "--log",
    type=FILE,
    help="Messages go to the end of this .log file too; of several processes, those of the first.",
)
@clean_errors
def main(log: Path | None) -> None:
    """Reproducible ablations of one-step diffusion distillation."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without our characters shows others
            stream.reconfigure(errors="replace")
    if log is not None and rank() == "0":
        sys.stderr = Tee(sys.stderr, log)
