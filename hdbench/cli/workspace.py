"""Commands for those who have the package and no repository: the workflow's files, and a run."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import click

from hdbench.cli.group import (
    FOLDER,
    clean_errors,
    examples,
    load_plan,
    main,
    results_option,
    suite_option,
)
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


def check_begun_or_whole(suite: str, results: Path) -> None:
    """UserError where nothing is done yet and something from outside is not there."""
    from hdbench.stages import artifact  # start-up: torch
    from hdbench.tools.doctor.needs import needs
    from hdbench.tools.doctor.report import is_present

    plan = load_plan(suite)
    if any(artifact.exists(results, stage) for stage in plan.stages):
        return  # what is encoded needs its images no more
    outside = [need for need in needs(plan, results) if not need.path.startswith("hf-hub:")]
    if missing := [need for need in outside if not is_present(need)]:
        others = f", nor {len(missing) - 1} more that it needs" if missing[1:] else ""
        raise UserError(
            f"{plan.stem}: {missing[0].what} is not at {missing[0].path}{others}; "
            f"`hdbench doctor --suite {plan.given}` says where to get what is missing"
        )


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
    check_begun_or_whole(suite, results)
    words = ["--cores", cores, "all_ablations", "--config", f"suite={suite}", f"results={results}"]
    done = subprocess.run([sys.executable, "-m", "snakemake", *words])
    if done.returncode:
        sys.exit(done.returncode)
    context.invoke(show_command, suite=suite, results=results, out=None)
