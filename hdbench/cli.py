"""The command `hdbench`: `stage` computes one artifact; others collect, render and show."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import click

from hdbench.errors import Divergence, Interrupted, UserError

KIND_HELP = {
    "data": "Build the data set's train and test splits.",
    "classifier": "Train the classifier whose features the metrics use.",
    "reference": "Features and spectra of the real images.",
    "teacher": "Train the many-step teacher by flow matching.",
    "trajectory": "Stage 1, trajectory distillation of the teacher (MeanFlow, consistency).",
    "refine": "Stage 2, distribution matching, with or without a discriminator.",
    "sample": "Generate images.",
    "evaluate": "Measure images against the reference.",
}


def clean_errors(command):
    """A user's mistake ends as one sentence and exit code 2, a divergence as one and 1, an interruption as one and 130."""

    @functools.wraps(command)
    def wrapped(*args, **kwargs):
        try:
            return command(*args, **kwargs)
        except UserError as error:
            code, text = 2, str(error)
        except Divergence as error:
            code, text = 1, str(error)
        except Interrupted as error:
            code, text = 130, str(error)
        except KeyboardInterrupt:
            code, text = 130, "stopped; nothing is lost, the same command goes on from the last checkpoint"
        click.echo(f"hdbench: {text}", err=True)
        sys.exit(code)

    return wrapped


suite_option = click.option("--suite", default="demo", show_default=True,
                            help="Name in workflow/suites, or path of a YAML file.")
results_option = click.option("--results", type=click.Path(path_type=Path, file_okay=False), default=Path("results"),
                              show_default=True, help="Folder of artifacts and metrics.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hdbench")
def main() -> None:
    """Reproducible ablations of one-step diffusion distillation."""


@main.group("stage")
def stage_group() -> None:
    """Compute one stage of a suite; a stage that is done is left alone."""


def _stage_command(kind: str) -> click.Command:
    @click.option("--id", "stage_id", help="Id of the stage, as `hdbench plan` prints it.")
    @click.option("--arm", help="With --seed instead of --id: the arm whose stage it is.")
    @click.option("--seed", type=int, default=None, help="Chain; by default the suite's first.")
    @click.option("--steps", type=int, default=None, help="Sampling steps, for sample and evaluate.")
    @suite_option
    @results_option
    @click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads.")
    @click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
    @click.option("--checkpoint-seconds", type=click.FloatRange(min=0), default=30.0, show_default=True)
    @clean_errors
    def command(suite, results, stage_id, arm, seed, steps, threads, device, checkpoint_seconds):
        from hdbench.run import find_stage, run_stage
        from hdbench.runtime import set_up
        from hdbench.suite import load_plan

        plan = load_plan(suite)
        stage = plan.stage(stage_id) if stage_id else find_stage(plan, kind, arm, seed, steps)
        if stage.kind != kind:
            raise UserError(f"--id = {stage_id}: that is of `hdbench stage {stage.kind}`")
        run_stage(plan, stage, results, set_up(threads, device), checkpoint_seconds)

    return click.command(kind, help=KIND_HELP[kind])(command)


for _kind in KIND_HELP:
    stage_group.add_command(_stage_command(_kind))


out_option = click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("paper_tables"),
                          show_default=True, help="Folder of rendered tables and figures.")


@main.command("collect")
@click.option("--partial", is_flag=True, help="Take what is finished; without it, a missing stage is an error.")
@suite_option
@results_option
@clean_errors
def collect_command(suite, results, partial):
    """Gather every metric and cost of a suite into results/<suite>/metrics.csv."""
    from hdbench.collect import collect, metrics_file
    from hdbench.suite import load_plan

    plan = load_plan(suite)
    click.echo(f"{len(collect(plan, results, partial))} numbers in {metrics_file(plan, results)}")


@main.command("tables")
@click.option("--metrics", type=click.Path(path_type=Path, dir_okay=False), help="By default results/<suite>/metrics.csv.")
@suite_option
@results_option
@out_option
@clean_errors
def tables_command(suite, results, metrics, out):
    """Render the suite's tables as csv, Markdown and LaTeX; what is missing is '-' with a footnote."""
    from hdbench.collect import metrics_file, read_metrics
    from hdbench.suite import load_plan
    from hdbench.tables import write_tables

    plan = load_plan(suite)
    for path in write_tables(plan, read_metrics(metrics or metrics_file(plan, results)), results, out):
        click.echo(path)


@main.command("figures")
@suite_option
@results_option
@out_option
@clean_errors
def figures_command(suite, results, out):
    """Draw samples, training curves and spectra; what is missing is left out with a note."""
    from hdbench.figures import draw
    from hdbench.suite import load_plan

    for path in draw(load_plan(suite), results, out):
        click.echo(path)


@main.command("show")
@suite_option
@results_option
@out_option
@clean_errors
def show_command(suite, results, out):
    """Print the main table, and where tables, figures and report lie."""
    from hdbench.suite import load_plan
    from hdbench.tables import print_main

    print_main(load_plan(suite), results, out)


@main.command("plan")
@suite_option
@results_option
@clean_errors
def plan_command(suite, results):
    """List the suite's stages (id, number of parents, done or not) and the training cost of each arm."""
    from hdbench import artifact
    from hdbench.suite import load_plan, total_cost

    plan = load_plan(suite)
    done = {stage: artifact.exists(results, stage) for stage in plan.stages}
    width = max(map(len, done))
    for stage, finished in done.items():
        parents = len(plan.stage(stage).parents)
        click.echo(f"{stage:{width}}  {parents} parent{' ' if parents == 1 else 's'}  {'done' if finished else 'to do'}")
    click.echo(f"{sum(done.values())} of {len(done)} stages done\n\n"
               "training of each arm, in forward-equivalents, without the teacher:")
    for name, arm in plan.arms.items():
        click.echo(f"{name:{max(map(len, plan.arms))}}  {'-' if arm.real else format(total_cost(plan, arm), ',.0f'):>15}")
