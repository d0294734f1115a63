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

TAIL = 20  # lines of a failed run's log


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


def run_in_lines(command: list[str], suite: str, results: Path) -> int:
    """Run Snakemake with its log in a file and a line for each stage here; its return code."""
    from hdbench.tools.status.lines import follow  # start-up: of this command alone

    plan = load_plan(suite)
    log = results / "logs" / f"{plan.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            code = follow(plan, results, process, lambda line: click.echo(line, err=True))
        except KeyboardInterrupt:  # which Snakemake has got too; its stages save their state
            process.wait()
            raise
    if code:
        last = log.read_text(errors="replace").splitlines()[-TAIL:]
        click.echo("\n".join([*last, f"hdbench: the whole log is {log}"]), err=True)
    return code


@main.command(
    "run",
    epilog=examples(
        "hdbench run --suite digits",
        "hdbench run --suite my_suite.yaml --cores 4",
        "snakemake --profile slurm all_ablations --config suite=digits",
    ),
)
@click.option("--cores", default="all", show_default=True, help="How many stages may run at once.")
@click.option("--verbose", is_flag=True, help="Snakemake's own log, as without a terminal.")
@suite_option
@results_option
@click.pass_context
@clean_errors
def run_command(context, suite, results, cores, verbose):
    """Compute all of a suite by Snakemake, render it, and print its main table.

    A terminal shows a line for each finished stage; the log is in RESULTS/logs.  The same command
    goes on from what is done.  On a cluster, or with other options, call Snakemake itself.
    """
    if not Path("Snakefile").is_file():
        raise UserError("no Snakefile in this folder; `hdbench init` puts the workflow here")
    if find_spec("snakemake") is None:
        raise ModuleNotFoundError(name="snakemake")
    check_begun_or_whole(suite, results)
    words = ["--cores", cores, "all_ablations", "--config", f"suite={suite}", f"results={results}"]
    command = [sys.executable, "-m", "snakemake", *words]
    if verbose or not sys.stderr.isatty():
        code = subprocess.run(command).returncode
    else:
        code = run_in_lines(command, suite, results)
    if code:
        sys.exit(code)
    context.invoke(show_command, suite=suite, results=results, out=None)
