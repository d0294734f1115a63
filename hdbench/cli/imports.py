"""The command that reads results of benchmarks' own scorers."""

from __future__ import annotations

import click

from hdbench.cli.evaluate import check_table, report, table_option
from hdbench.cli.group import FILE, clean_errors, main, writes

BENCHMARKS = ("geneval", "dpg_bench", "vqascore")


@main.command("import")
@click.argument("benchmark", type=click.Choice(BENCHMARKS), metavar="BENCHMARK")
@click.argument("scores", type=FILE)
@click.option("--name", help="What tables call the samples; by default the name of the file.")
@click.option(
    "--partial", is_flag=True, help="Take a file that lacks images of the benchmark; n says so."
)
@table_option
@clean_errors
@writes("scores")
def import_command(benchmark, scores, name, partial, out):
    """Read what a benchmark's own scorer wrote, and print its metrics as `evaluate` does.

    BENCHMARK is geneval (its results.jsonl), dpg_bench (its .txt) or vqascore (a csv of image,
    prompt and score).  The 95% intervals are over prompts.
    """
    from hdbench.evaluation.imports import IMPORTERS, evaluation_of  # start-up: pandas

    if out is not None:
        check_table(out)
    report(evaluation_of(IMPORTERS[benchmark], scores, name, partial), out)
