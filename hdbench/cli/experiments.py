"""Commands of the experiments beside the suites."""

from __future__ import annotations

from pathlib import Path

import click

from hdbench.cli.group import clean_errors, main, rendered_option, results_option


@main.command("theory")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("workflow/theory.yaml"),
    show_default=True,
    help="Data, networks and methods.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads."
)
@results_option
@rendered_option
@clean_errors
def theory_command(config, threads, results, out):
    """Train students where the true mean velocity is known: their errors, and what small ones lose;
    what is done is kept.
    """
    from hdbench.core.runtime import set_up  # start-up: of this command alone
    from hdbench.experiments.theory.config import read_theory_config
    from hdbench.experiments.theory.report import run_theory

    theory = read_theory_config(config)
    set_up(threads, "cpu")
    for path in run_theory(theory, results, out or results):
        click.echo(path)


@main.command("probes")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("workflow/probes.yaml"),
    show_default=True,
    help="Teachers, flaws and heads.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads."
)
@results_option
@rendered_option
@clean_errors
def probes_command(config, threads, results, out):
    """Train heads to find planted flaws on frozen features: where each sees them and mends them;
    what is done is kept.
    """
    from hdbench.core.runtime import set_up  # start-up: of this command alone
    from hdbench.experiments.probes.config import read_probes
    from hdbench.experiments.probes.report import run_probes

    probes = read_probes(config)
    set_up(threads, "cpu")
    for path in run_probes(probes, results, out or results):
        click.echo(path)


@main.command("tuned")
@click.option(
    "--suite",
    default="local_flaws_tuning",
    show_default=True,
    help="One chain with every head over a grid.",
)
@click.option(
    "--metrics",
    type=click.Path(path_type=Path, dir_okay=False),
    help="By default results/<suite>/metrics.csv.",
)
@results_option
@clean_errors
def tuned_command(suite, metrics, results):
    """Print each head's tuned values: those of its arm with the smallest fd_train on the validation
    chain.
    """
    from hdbench.experiments.tuning import chosen, settings  # start-up: of this command alone
    from hdbench.metrics.records import read_metrics
    from hdbench.report.numbers import metrics_file
    from hdbench.suite.load import load_plan

    plan = load_plan(suite)
    for head, arm in chosen(plan, read_metrics(metrics or metrics_file(plan, results))).items():
        click.echo(f"{head}: {settings(plan, arm)}  # {arm}")
