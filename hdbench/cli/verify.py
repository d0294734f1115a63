"""The command that checks what is committed."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import click

from hdbench.cli.group import (
    FOLDER,
    clean_errors,
    device_option,
    examples,
    load_plan,
    main,
    seed_option,
    threads_option,
)

SUITE = "textured_digits"  # whose teacher is shipped
ARM = "teacher"  # which is sampled in minutes, not trained


@main.command(
    "verify",
    epilog=examples(
        "hdbench verify",
        "hdbench verify --suite local_flaws",
        "hdbench verify --suite textured_digits --rerun teacher --seed 1",
    ),
)
@click.argument("tables", type=FOLDER, default=Path("paper_tables"))
@click.option(
    "--suite", help=f"This suite's tables and claims alone; of --rerun, by default {SUITE}."
)
@click.option(
    "--rerun",
    "arm",
    is_flag=False,
    flag_value=ARM,
    metavar="[ARM]",
    help=f"Also compute this arm's stages of one chain anew; without a name, {ARM}.",
)
@seed_option
@click.option(
    "--release",
    is_flag=True,
    help="Also ask of every stage a clean, tagged commit and the versions of the lock file.",
)
@threads_option
@device_option
@clean_errors
def verify_command(tables, suite, arm, seed, release, threads, device):
    """Derive tables, claims and documents anew from the metrics in TABLES, and compare.

    A sentence for each cell or line that differs, and exit code 1 if there is any.  Of a suite of
    one chain, what needs its samples (intervals of differences) is left out.  With --rerun, a
    metric may move by 4 standard errors: hdbench/tools/verify/rerun.py says of what.
    """
    from hdbench.tools.verify import derive, rerun  # start-up: of this command alone

    differences = []
    checks = derive.checks(tables, suite)
    if release:
        checks["provenance"] = partial(derive.check_release, tables)
    for number, (name, check) in enumerate(checks.items(), 1):
        click.echo(f"verify: {name} ({number} of {len(checks)})", err=True)
        for sentence in derive.sentences(check):
            differences.append(sentence)
            click.echo(sentence)
    if arm:
        from hdbench.core.runtime import set_up  # start-up: torch

        plan = load_plan(suite or SUITE)
        outcome = rerun.rerun(plan, arm, seed, tables, set_up(threads, device))
        differences += outcome.differences
        for sentence in outcome.differences:
            click.echo(sentence)
        click.echo(
            f"{arm}: {outcome.compared} numbers compared, {outcome.equal} the same, "
            f"{len(outcome.differences)} beyond {rerun.TOLERANCE:g} standard errors"
        )
    many = len(differences)
    click.echo(f"{len(checks)} checks: {many or 'no'} difference{'s' * (many != 1)}")
    sys.exit(int(bool(differences)))
