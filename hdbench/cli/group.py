"""The command group, its errors and shared options."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

import click

from hdbench.core.errors import Ended


def clean_errors(command):
    """A command that cannot go on ends with one sentence and an exit code, see hdbench.core.errors; an interruption with 130."""

    @functools.wraps(command)
    def wrapped(*args, **kwargs):
        try:
            return command(*args, **kwargs)
        except Ended as error:
            code, text, alone = error.code, str(error), error.alone
        except KeyboardInterrupt:
            code, text, alone = (
                130,
                "stopped; nothing is lost, the same command goes on from the last checkpoint",
                False,
            )
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


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hdbench")
def main() -> None:
    """Reproducible ablations of one-step diffusion distillation."""


out_option = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("paper_tables"),
    show_default=True,
    help="Folder of rendered tables and figures.",
)
