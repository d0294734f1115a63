"""Commands that collect, render and compare."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hdbench.cli.group import (
    FILE,
    FOLDER,
    PATH,
    clean_errors,
    examples,
    load_plan,
    main,
    metrics_option,
    out_option,
    pdf_option,
    rendered_option,
    results_option,
    seed_option,
    suite_option,
    writes,
)
from hdbench.core.outputs import check_outputs, write_outputs
from hdbench.core.provenance import SHIPPED


@main.command("collect")
@click.option(
    "--partial",
    is_flag=True,
    help="Take what is finished; without it, a missing stage is an error.",
)
@click.option(
    "--keep",
    type=FILE,
    help="metrics.csv of another run of the suite: its numbers stand where there are none here.",
)
@suite_option
@results_option
@clean_errors
@writes("keep")
def collect_command(suite, results, partial, keep):
    """Gather every metric and cost of a suite into results/<suite>/metrics.csv."""
    from hdbench.report.collect import collect  # start-up: of this command alone
    from hdbench.report.numbers import metrics_file

    plan = load_plan(suite)
    frame = collect(plan, results, partial, keep)
    rows = frame[["arm", "seed", "nfe"]].drop_duplicates()
    click.echo(
        f"{len(frame)} numbers of {len(rows)} of {len(plan.all_rows)} rows in "
        f"{metrics_file(plan, results)}"
    )


@main.command(
    "tables",
    epilog=examples(
        "hdbench tables --suite digits",
        "hdbench tables --suite textured_digits --metrics paper_tables/textured_digits/metrics.csv",
    ),
)
@metrics_option
@click.option(
    "--release",
    is_flag=True,
    help="Refuse numbers of stages that ran from a tree with changes or of no known commit.",
)
@suite_option
@results_option
@rendered_option
@clean_errors
@writes("metrics")
def tables_command(suite, results, metrics, release, out):
    """Render the suite's tables as csv, Markdown, LaTeX and HTML; a missing value is '-'."""
    from hdbench.metrics.records import read_metrics  # start-up: of this command alone
    from hdbench.report.numbers import check_place, metrics_file, tables_folder
    from hdbench.report.provenance import check_clean, is_collected, read_run
    from hdbench.report.tables import write_tables

    plan = load_plan(suite)
    file = metrics or metrics_file(plan, results)
    frame = read_metrics(file, strict=metrics is None)
    check_place(plan, results, metrics, out)
    run = file.parent
    if release:
        check_clean(read_run(run), run)
    at_home = run.absolute() == tables_folder(plan, results, out).absolute()
    if metrics and not is_collected(metrics) and not at_home:
        run = None  # another run's, or nobody's
    for path in write_tables(plan, frame, results, out, metrics is not None, run):
        click.echo(path)


@main.command("claims")
@metrics_option
@click.option(
    "--rules",
    type=FILE,
    help="The claims and what decides them, exploratory; by default workflow/claims.yaml.",
)
@click.option(
    "--prereg",
    type=FILE,
    help="Registration to judge by: a run that breaks it is refused. By default "
    "workflow/prereg/<suite>.yaml, if it is there and the run keeps to it.",
)
@click.option(
    "--theory",
    type=FILE,
    help="Metrics of `hdbench theory`; by default results/theory/metrics.csv, if it is there.",
)
@click.option(
    "--flops",
    type=FILE,
    help="Metrics of `hdbench flops`; by default results/flops/metrics.csv, if it is there.",
)
@suite_option
@results_option
@rendered_option
@clean_errors
@writes("metrics", "rules", "prereg", "theory", "flops")
def claims_command(suite, results, metrics, rules, prereg, theory, flops, out):
    """Judge the paper's claims by declared rules: verdict, effect, interval, margin."""
    from hdbench.experiments.sources import experiments_of  # start-up: of this command alone
    from hdbench.metrics.records import read_metrics
    from hdbench.report.claims import write_claims
    from hdbench.report.numbers import Numbers, check_place, metrics_file
    from hdbench.report.registration import rules_for

    plan = load_plan(suite)
    source = metrics or metrics_file(plan, results)
    frame = read_metrics(source, strict=metrics is None)
    check_place(plan, results, metrics, out)
    declared, status = rules_for(plan, frame, source, prereg, rules)
    numbers = Numbers(plan, frame, results, lenient=metrics is not None)
    values, counts = experiments_of(results, theory, flops)
    click.echo(status)
    for path in write_claims(numbers, declared, out, values, status, counts):
        click.echo(path)


@main.command("preregister")
@click.option(
    "--claim", "claims", multiple=True, help="Several times for several; by default all testable."
)
@click.option("--seeds", required=True, metavar="FIRST-LAST", help="Of chains, in order.")
@click.option("--cap", type=int, help="The most chains; by default as many as there are seeds.")
@click.option("--metric", default="fd_test", show_default=True, help="The primary one.")
@click.option(
    "--rules", type=FILE, default=Path("workflow/claims.yaml"), show_default=True, help="Of claims."
)
@click.option("--out", type=FILE, help="By default workflow/prereg/<suite>.yaml.")
@suite_option
@clean_errors
@writes("rules")
def preregister_command(suite, claims, seeds, cap, metric, rules, out):
    """Write claims, tests, margins, arms, seeds and cap into a file, to commit before the run."""
    from hdbench.report.registration import preregister  # start-up: of this command alone

    path = preregister(suite, rules, claims, seeds, cap, metric, out)
    click.echo(f"{path}: commit it, and tag the commit prereg/{path.stem}, before the first chain")


@main.command("prose")
@click.argument("documents", nargs=-1, type=FILE)
@out_option
@clean_errors
@writes("documents")
def prose_command(documents, out):
    """Render DOCUMENTS, X.in.md as X.md, with numbers of the metrics beside the tables.

    By default README.in.md and all sources below docs.  A placeholder is `{{ fd_test of hd - dmd in
    textured_digits }}`; hdbench/tools/prose.py has the list.
    """
    from hdbench.tools.prose import rendered_path, sources, write  # start-up: of this command alone

    for path in documents or sources():
        click.echo(f"{rendered_path(path)}: {'changed' if write(path, out) else 'unchanged'}")


@main.command("figures")
@metrics_option
@suite_option
@results_option
@rendered_option
@pdf_option
@clean_errors
@writes("metrics")
def figures_command(suite, results, metrics, out, pdf):
    """Draw quality, differences, samples, curves, spectra, weights; notes say what is missing."""
    from hdbench.metrics.records import read_metrics  # start-up: of this command alone
    from hdbench.report.figures import FIGURES, draw
    from hdbench.report.numbers import check_place, metrics_file

    plan = load_plan(suite)
    path = metrics or metrics_file(plan, results)
    frame = read_metrics(path, strict=metrics is None) if metrics or path.exists() else None
    check_place(plan, results, metrics, out)
    written = draw(plan, results, out, frame, lenient=metrics is not None, pdf=pdf)
    for path in written:
        click.echo(path)
    for name in [name for name in FIGURES if name not in {path.stem for path in written}]:
        click.echo(f"{name}: left as it is, for want of artifacts in {results}")


@main.command("published")
@click.option(
    "--benchmark",
    "names",
    multiple=True,
    help="Such as imagenet256, cifar10 or mjhq; several times for several, by default all.",
)
@click.option(
    "--metrics",
    "files",
    multiple=True,
    type=FILE,
    help="What `hdbench evaluate --out` or `hdbench collect` wrote; several times for several.",
)
@click.option(
    "--numbers",
    type=FILE,
    default=Path("paper_tables/published.csv"),
    show_default=True,
    help="The published numbers.",
)
@click.option(
    "--without-remembered",
    is_flag=True,
    help="Leave out published numbers that nobody has checked.",
)
@out_option
@clean_errors
@writes("files", "numbers")
def published_command(names, files, numbers, without_remembered, out):
    """Render the main table of a benchmark: published numbers with sources, ours below them."""
    from hdbench.report import published  # start-up: of this command alone

    for path in published.write_published(names, numbers, files, not without_remembered, out):
        click.echo(path)


@main.command("ship")
@click.option(
    "--out",
    type=FOLDER,
    default=SHIPPED,
    show_default=True,
    help="Folder that stages take finished teachers from.",
)
@seed_option
@suite_option
@results_option
@clean_errors
@writes()
def ship_command(suite, results, seed, out):
    """Copy a chain's teacher, its curve and its evaluation to where suites take teachers from.

    With it goes the autoencoder in whose latents it works, if the suite trains one.

    It must be trained from a commit without changes, and evaluated. Stages of the same digest then
    take its weights instead of training, unless --teachers trained (`snakemake --config
    teachers=trained`).
    """
    from hdbench.report.ship import ship  # start-up: of this command alone

    for path in ship(suite, results, seed, out):
        click.echo(path)


@main.command(
    "compare",
    epilog=examples(
        "hdbench compare results/demo/metrics.csv theirs/metrics.csv",
        "hdbench compare before.csv after.csv --metric fd_test --fail-if-moved",
        "hdbench compare hd_hinge hd_patch --in results/demo/metrics.csv",
        "hdbench compare teacher@10 hd --in results/digits/metrics.csv",
    ),
)
@click.argument("a", type=PATH)
@click.argument("b", type=PATH)
@click.option(
    "--in",
    "source",
    type=FILE,
    help="Then A and B are arms of this file; ARM@NFE takes the samples of so many evaluations.",
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    help="This metric alone, such as fd_test; may be repeated.",
)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Every row, not only those nearest to moving; and costs, as ratios.",
)
@click.option("--out", type=FILE, help="File to write, every row in full precision, as csv.")
@click.option(
    "--fail-if-moved",
    is_flag=True,
    help="Exit code 1 if a row moved, or if none could be compared.",
)
@clean_errors
@writes("a", "b", "source")
def compare_command(a, b, source, metrics, everything, out, fail_if_moved):
    """Compare two files of `hdbench collect` or `hdbench evaluate`, or two arms of one.

    Says which numbers moved beyond noise, from A to B.
    """
    from hdbench.metrics.records import read_metrics  # start-up: of this command alone
    from hdbench.report.compare import compare, described, failed, of_arm
    from hdbench.report.comparison import report

    if out is not None:
        check_outputs([out])
    if source is None:
        frames = [read_metrics(path) for path in (a, b)]
    else:
        numbers = read_metrics(source)
        frames = [of_arm(numbers, str(name)) for name in (a, b)]
    comparison = compare(*frames, metrics=metrics, costs=everything)
    if out is not None:
        text = comparison.rows.to_csv(index=False, lineterminator="\n")
        write_outputs({out: text.encode()})
    for name, path, frame in zip("AB", (a, b), frames, strict=True):
        click.echo(f"{name}: {path} ({described(frame)})")
    click.echo("\n" + report(comparison, everything))
    sys.exit(int(fail_if_moved and failed(comparison)))


@main.command("publish")
@click.option(
    "--experiment",
    type=click.Choice(["theory", "flops", "probes"]),
    help="Instead of a suite: what `hdbench theory`, `flops` or `probes` has rendered.",
)
@suite_option
@results_option
@out_option
@clean_errors
@writes()
def publish_command(experiment, suite, results, out):
    """Copy a suite's rendered tables, claims and figures into the folder of committed tables."""
    from hdbench.report.publish import publish  # start-up: of this command alone

    if experiment == "theory":
        from hdbench.experiments.theory.collect import check_is_of  # start-up: torch

        check_is_of(Path("workflow/theory.yaml"), results)
    if experiment == "flops":
        from hdbench.experiments.flops import read_flops  # start-up: torch

        read_flops(results / "flops" / "metrics.csv")  # of another configuration it is an error
    for path in publish(experiment or load_plan(suite).name, results, out):
        click.echo(path)
