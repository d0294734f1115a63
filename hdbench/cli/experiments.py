"""Commands of the experiments beside the suites."""

from __future__ import annotations

import click

from hdbench.cli.group import (
    clean_errors,
    config_option,
    load_plan,
    main,
    metrics_option,
    pdf_option,
    rendered_option,
    results_option,
    threads_option,
    writes,
)


@main.command("theory")
@config_option("workflow/theory.yaml", "Data, networks and methods.")
@threads_option
@results_option
@rendered_option
@pdf_option
@clean_errors
@writes("config")
def theory_command(config, threads, results, out, pdf):
    """Train students where the true mean velocity is known: errors, and what small ones lose.

    Finished students are kept, and the same command goes on behind them.
    """
    from hdbench.core.runtime import set_up  # start-up: torch
    from hdbench.experiments.theory.config import read_theory_config  # start-up: torch
    from hdbench.experiments.theory.report import run_theory  # start-up: torch and matplotlib

    theory = read_theory_config(config)
    set_up(threads, "cpu")
    for path in run_theory(theory, results, out or results, pdf):
        click.echo(path)


@main.command("flops")
@config_option("workflow/flops.yaml", "Suite, decoder and accountings.")
@results_option
@rendered_option
@clean_errors
@writes("config")
def flops_command(config, results, out):
    """Count the FLOPs of sampling at the paper's scale: what its published ratio is of.

    By PyTorch's counter, on networks without weights; no download and no GPU.
    """
    from hdbench.experiments.flops import read_flops_config, run_flops  # start-up: torch

    for path in run_flops(read_flops_config(config), results, out or results):
        click.echo(path)


@main.command("probes")
@config_option("workflow/probes.yaml", "Teachers, flaws and heads.")
@threads_option
@results_option
@rendered_option
@pdf_option
@clean_errors
@writes("config")
def probes_command(config, threads, results, out, pdf):
    """Train heads to find planted flaws on frozen features: what they see and where they correct.

    Finished units are kept, and the same command goes on behind them.
    """
    from hdbench.core.runtime import set_up  # start-up: torch
    from hdbench.experiments.probes.config import read_probes  # start-up: torch
    from hdbench.experiments.probes.report import run_probes  # start-up: torch and matplotlib

    probes = read_probes(config)
    set_up(threads, "cpu")
    for path in run_probes(probes, results, out or results, pdf):
        click.echo(path)


@main.command("tuned")
@click.option(
    "--suite",
    default="local_flaws_tuning",
    show_default=True,
    help="One with `tuning`, or one seed with every head over a grid.",
)
@metrics_option
@results_option
@clean_errors
@writes("metrics")
def tuned_command(suite, metrics, results):
    """Print the settings that are best on validation chains, and what finding them cost.

    A suite with `tuning` has trials of its arms: run it, then this command, which writes
    tuned/SUITE.yaml beside the folder of suites; then both again until no trial goes on.  Choices
    of arms that the numbers are not of stay.  An arm {tuned: {suite: SUITE, arm: ARM}} of another
    suite is ARM with the settings of that file, as long as it is declared as it was then.

    Of a suite with a grid of heads, each head's arm with the smallest fd_train is printed; numbers
    of another version of that suite serve too, which standard error says.
    """
    from hdbench.experiments import tuning  # start-up: pandas and torch
    from hdbench.metrics.records import read_metrics  # start-up: pandas
    from hdbench.report.numbers import metrics_file  # start-up: pandas

    plan = load_plan(suite)
    frame = read_metrics(metrics or metrics_file(plan, results))
    if plan.suite.tuning:
        path, lines, advice = tuning.write_choices(plan, frame)
        click.echo("\n".join([*lines, str(path)]))
        for sentence in advice:
            click.echo(sentence, err=True)
    else:
        for head, arm in tuning.chosen(plan, frame).items():
            click.echo(f"{head}: {tuning.settings(plan, arm)}  # {arm}")
    metric = plan.suite.tuning.criterion if plan.suite.tuning else tuning.METRIC
    if tuning.is_of_another_version(plan, frame, metric):
        click.echo(f"These numbers were made by another version of {plan.name}.", err=True)
