"""Commands for those who have the package and no repository: the workflow's files, and a run."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import click

from hdbench.cli.group import FOLDER, clean_errors, examples, main, results_option, suite_option
from hdbench.cli.stages import show_command
from hdbench.core.errors import UserError
from hdbench.tools.workspace import make_workspace


@main.command("init", epilog=examples("hdbench init my_folder"))
@click.argument("folder", type=FOLDER, default=Path())
@clean_errors
def init_command(folder):
    """Copy the workflow with its suites and recipes into FOLDER, from which suites then run."""
    paths = make_workspace(folder)
    click.echo(f"{len(paths)} files in {folder}; from there: hdbench run --suite digits")


@main.command(
    "run",
    epilog=examples(
        "hdbench run --suite digits",
        "hdbench run --suite my_suite.yaml --cores 4",
        "snakemake --profile slurm all_ablations --config suite=digits",
    ),
)
@click.option("--cores", default="all", show_default=True, help="How many stages may run at once.")
@suite_option
@results_option
@click.pass_context
@clean_errors
def run_command(context, suite, results, cores):
    """Compute all of a suite by Snakemake, render it, and print its main table.

    The same command goes on from what is done.  On a cluster, or with other options, call Snakemake
    itself.
    """
    if not Path("Snakefile").is_file():
        raise UserError("no Snakefile in this folder; `hdbench init` puts the workflow here")
    if find_spec("snakemake") is None:
        raise ModuleNotFoundError(name="snakemake")
    words = ["--cores", cores, "all_ablations", "--config", f"suite={suite}", f"results={results}"]
    done = subprocess.run([sys.executable, "-m", "snakemake", *words])
    if done.returncode:
        sys.exit(done.returncode)
    context.invoke(show_command, suite=suite, results=results, out=None)
