"""The command group, its errors and shared options."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import TextIO

import click

from hdbench.core.errors import Ended


def clean_errors(command):
    """A command that cannot go on ends with one sentence and an exit code, see
    hdbench.core.errors; an interruption with 130.
    """

    @functools.wraps(command)
    def wrapped(*args, **kwargs):
        try:
            return command(*args, **kwargs)
        except Ended as error:
            code = error.code
            text = str(error)
            alone = error.alone
        except KeyboardInterrupt:
            code = 130
            text = "stopped; nothing is lost, the same command goes on from the last checkpoint"
            alone = False
        rank = os.environ.get("RANK") or "0"
        if alone and os.environ.get("WORLD_SIZE") != "1":
            text = f"rank {rank}: {text}"
        if alone or rank == "0":
            click.echo(f"hdbench: {text}", err=True)
        sys.exit(code)

    return wrapped


suite_option = click.option(
    "--suite",
    default="demo",
    show_default=True,
    help="Name in workflow/suites, or path of a YAML file.",
)
results_option = click.option(
    "--results",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("results"),
    show_default=True,
    help="Folder of artifacts and metrics.",
)


class Tee:
    """Standard error that also goes to a file, line by line."""

    def __init__(self, stream: TextIO, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.stream = stream
        self.file = path.open("w", encoding="utf-8", buffering=1)

    def write(self, text: str) -> int:
        self.file.write(text)
        return self.stream.write(text)

    def flush(self) -> None:
        self.stream.flush()

    def __getattr__(self, name: str):
        return getattr(self.stream, name)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hdbench")
@click.option(
    "--log",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Messages go to this file too; of several processes, those of the first.",
)
def main(log: Path | None) -> None:
    """Reproducible ablations of one-step diffusion distillation."""
    if log is not None and (os.environ.get("RANK") or "0") == "0":
        sys.stderr = Tee(sys.stderr, log)


rendered_option = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder in which <suite>/ gets what is rendered; by default results/<suite>/.",
)
out_option = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("paper_tables"),
    show_default=True,
    help="Folder of rendered tables and figures.",
)
