"""Commands for those who add results: a bundle, its validation, the leaderboard."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hdbench.cli.group import (
    FILE,
    FOLDER,
    clean_errors,
    examples,
    load_plan,
    main,
    results_option,
    suite_option,
    writes,
)

BUNDLE = "hdbench submit --suite my_suite.yaml --arm mine --title 'My method' --settings-tried 12"


@main.command("submit", epilog=examples(f"{BUNDLE} --out bundle"))
@click.option("--arm", "arms", required=True, multiple=True, help="Several times for several arms.")
@click.option("--title", required=True, help="What the leaderboard calls the bundle.")
@click.option(
    "--settings-tried",
    required=True,
    type=click.IntRange(min=0),
    help="How many settings of an arm were trained before the one that is submitted.",
)
@click.option("--out", required=True, type=FOLDER, help="Folder to write.")
@suite_option
@results_option
@clean_errors
@writes()
def submit_command(suite, results, arms, title, settings_tried, out):
    """Write a bundle of collected numbers with all that they can be checked by, to be shared.

    Metrics, measured files, and the manifests of all stages: configuration, seeds, versions,
    environment and SHA-256 of weights, samples and influences.  See `hdbench validate`.
    """
    from hdbench.report import submissions  # start-up: of this command alone

    for path in submissions.submit(load_plan(suite), results, arms, title, settings_tried, out):
        click.echo(path)
    wrong = submissions.problems(out)
    if wrong:
        click.echo(f"`hdbench validate {out}` says what is wrong with it: {wrong[0]}", err=True)


@main.command("validate", epilog=examples("hdbench validate bundle"))
@click.argument("bundle", type=FOLDER)
@clean_errors
def validate_command(bundle):
    """Say all that is wrong with a BUNDLE; the exit code is 1 if anything is.

    Checks that its files are unchanged, that every digest is that of its configuration, parents and
    versions, that every number is what its evaluation measured, with its seed and sample count,
    that no chain is left out or repeated, and that the code was committed.
    """
    from hdbench.report import submissions  # start-up: of this command alone

    wrong = submissions.problems(bundle)
    for sentence in wrong:
        click.echo(sentence)
    click.echo(f"{bundle}: {len(wrong) or 'no'} problem{'s' * (len(wrong) != 1)}")
    sys.exit(int(bool(wrong)))


@main.command(
    "leaderboard",
    epilog=examples(
        "hdbench leaderboard bundle their_bundle --suite textured_digits --out leaderboard"
    ),
)
@click.argument("bundles", nargs=-1, type=FOLDER)
@click.option(
    "--metrics",
    type=FILE,
    help="Of the suite's own arms; by default paper_tables/<suite>/metrics.csv.",
)
@click.option("--without-reference", is_flag=True, help="The bundles alone.")
@click.option(
    "--out",
    type=FILE,
    default=Path("results/leaderboard"),
    show_default=True,
    help="OUT.html, .csv and .md are written.",
)
@suite_option
@results_option
@clean_errors
@writes("bundles", "metrics")
def leaderboard_command(bundles, suite, results, metrics, without_reference, out):
    """Render one table of the reference run and of BUNDLES, with intervals and places.

    Rows whose difference the chains do not decide share places.  Numbers of another protocol or
    version are in a table of their own.  OUT.html is one page, to be sorted and filtered.
    """
    from hdbench.report import submissions  # start-up: of this command alone

    plan = load_plan(suite)
    file = None
    if not without_reference:
        file = metrics or Path("paper_tables") / plan.name / "metrics.csv"
    for path in submissions.write_leaderboard(plan, file, results, bundles, out):
        click.echo(path)
