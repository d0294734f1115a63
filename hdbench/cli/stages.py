"""Commands that compute, plan and watch stages."""

from __future__ import annotations

import sys

import click

from hdbench.cli.group import (
    FOLDER,
    Seconds,
    clean_errors,
    device_option,
    examples,
    load_plan,
    main,
    options,
    rendered_option,
    results_option,
    seed_option,
    suite_option,
    threads_option,
)
from hdbench.core.errors import UserError
from hdbench.core.provenance import SHIPPED

KIND_HELP = {
    "data": "Build the data set's train and test splits.",
    "classifier": "Train the classifier whose features the metrics use.",
    "clip": "Train a CLIP: the prompts' encoder, or the judge of captions.",
    "text": "Encode the prompts once.",
    "reference": "Features and spectra of the real images.",
    "autoencoder": "Train the autoencoder in whose latents the networks work.",
    "latents": "Encode the images of train by that autoencoder.",
    "teacher": "Train the many-step teacher by flow matching.",
    "pairs": "Pairs of noise and image of the teacher's ODE, for the methods that need them.",
    "trajectory": "Stage 1, trajectory distillation of the teacher (MeanFlow, consistency, ...).",
    "refine": "Stage 2, distribution matching (DMD, ...), with or without a discriminator.",
    "sample": "Generate images.",
    "evaluate": "Measure images against the reference.",
    "sensitivity": "Measure planted changes of real images: which metric sees which.",
}


@main.group(
    "stage",
    epilog=examples(
        "hdbench stage refine --arm hd_patch --suite demo",
        "hdbench stage evaluate --arm teacher --steps 10 --seed 1",
        "hdbench stage refine --arm hd_patch --again",
    ),
)
def stage_group() -> None:
    """Compute one stage of a suite; a stage that is done is left alone."""


_run_options = options(  # how stages are computed
    suite_option,
    results_option,
    threads_option,
    device_option,
    click.option("--checkpoint-seconds", type=Seconds(), default=30.0, show_default=True),
    click.option(
        "--sharding",
        type=click.Choice(["none", "fsdp2"]),
        default="none",
        show_default=True,
        help="Of several processes (torchrun): each holds all that it trains, or its part.",
    ),
    click.option(
        "--teachers",
        type=click.Choice(["shipped", "trained"]),
        default="shipped",
        show_default=True,
        help="Take a teacher that the repository ships, by its digest, or train each anew.",
    ),
)


def _compute(
    jobs, results, remove, threads, device, checkpoint_seconds, sharding, teachers
) -> None:
    """Run these jobs in order, after the artifacts of the stages `remove` are removed."""
    from hdbench.core.distributed import from_rank_0, ranks  # start-up: of this command alone
    from hdbench.core.runtime import set_up
    from hdbench.stages.artifact import remove_artifacts
    from hdbench.stages.run import run_stage

    device = set_up(threads, device)
    with ranks(device):
        for path in from_rank_0(lambda: remove_artifacts(results, remove)):
            click.echo(f"removed: {path}", err=True)
        for stage, arms in jobs:
            shipped = SHIPPED if teachers == "shipped" else None
            run_stage(stage, results, device, checkpoint_seconds, sharding, arms, shipped)


def _stage_command(kind: str) -> click.Command:
    @click.option("--id", "stage_id", help="Id of the stage, as `hdbench plan` prints it.")
    @click.option("--arm", help="With --seed instead of --id: the arm whose stage it is.")
    @seed_option
    @click.option("--steps", type=int, help="Sampling steps, for sample and evaluate.")
    @click.option(
        "--again",
        is_flag=True,
        help="Make the stage anew; first remove it and all that was made from it.",
    )
    @_run_options
    @clean_errors
    def command(suite, results, stage_id, arm, seed, steps, again, **how):
        from hdbench.suite.jobs import Job, read_job  # start-up: of this command alone

        job = read_job(results, stage_id) if stage_id and not again else None
        remove = ()
        if job is None:
            from hdbench.suite.plan import find_stage  # start-up: of this command alone

            plan = load_plan(suite)
            stage = plan.stage(stage_id) if stage_id else find_stage(plan, kind, arm, seed, steps)
            job = Job(stage, plan.arms_of(stage.id))
            remove = plan.made_from([stage.id]) if again else ()
        if job.stage.kind != kind:
            raise UserError(f"--id = {stage_id}: that is of `hdbench stage {job.stage.kind}`")
        _compute([job], results, remove, **how)

    return click.command(kind, help=KIND_HELP[kind])(command)


@main.command(
    "arm", epilog=examples("hdbench arm hd --suite digits", "hdbench arm hd_patch --seed 1 --again")
)
@click.argument("name")
@seed_option
@click.option(
    "--again",
    is_flag=True,
    help="Make the arm's own stages anew, not the teacher or what comes before it; first remove "
    "what is there of them, and all that was made from them.",
)
@_run_options
@clean_errors
def arm_command(name, suite, results, seed, again, **how):
    """Compute all stages of the arm NAME in order, in one process; what is done is left alone."""
    from hdbench.suite.jobs import Job  # start-up: of this command alone
    from hdbench.suite.plan import rows_of

    plan = load_plan(suite)
    last = [stage_id for row in rows_of(plan, name, seed) for stage_id in row.stages.values()]
    kinds = ("trajectory", "refine", "sample", "evaluate")  # of this arm alone
    remade = [stage_id for stage_id in last if plan.stage(stage_id).kind in kinds]
    jobs = [Job(plan.stage(s), plan.arms_of(s)) for s in plan.needed_for(last)]
    _compute(jobs, results, plan.made_from(remade) if again else (), **how)


@main.command("show")
@suite_option
@results_option
@rendered_option
@clean_errors
def show_command(suite, results, out):
    """Print the main table, and where tables, figures and report lie."""
    from hdbench.report.tables import print_main  # start-up: of this command alone

    print_main(load_plan(suite), results, out)


for _kind in KIND_HELP:
    stage_group.add_command(_stage_command(_kind))


@main.command("plan")
@suite_option
@results_option
@clean_errors
def plan_command(suite, results):
    """List the suite's stages (id, parents, done or not, arms) and what each arm trains."""
    from hdbench.report.checks import check_reports  # start-up: of this command alone
    from hdbench.stages import artifact
    from hdbench.stages.sources import changed_sources, refuse_changed_inputs
    from hdbench.suite.budget import total_cost

    plan = load_plan(suite)
    check_reports(plan)
    done = {stage: artifact.exists(results, stage) for stage in plan.stages}
    width = max(map(len, done))
    for stage, finished in done.items():
        parents = len(plan.stage(stage).parents)
        arms = plan.arms_of(stage)
        users = ", ".join(arms) if 0 < len(arms) < 4 else f"{len(arms) or 'all'} arms"
        click.echo(
            f"{stage:{width}}  {parents} parent{' ' if parents == 1 else 's'}  "
            f"{'done' if finished else 'to do':5}  {users}"
        )
    for sentence in changed_sources(results, plan.stages.values()):
        click.echo(sentence)
    click.echo(
        f"{sum(done.values())} of {len(done)} stages done\n\n"
        "training of each arm, in forward-equivalents, without the teacher:"
    )
    for name, arm in plan.arms.items():
        click.echo(
            f"{name:{max(map(len, plan.arms))}}  "
            f"{'-' if arm.real else format(total_cost(plan, arm), ',.0f'):>15}"
        )
    refuse_changed_inputs(results, plan.stages.values())


@main.command(
    "status",
    epilog=examples(
        "hdbench status --suite digits --watch 5",
        "hdbench status --suite textured_digits --cores 8",
    ),
)
@suite_option
@results_option
@click.option(
    "--cores",
    type=click.IntRange(min=1),
    metavar="N",
    help="Stages at a time, for the time left; by default as many as run now.",
)
@click.option(
    "--watch",
    "every",
    type=Seconds(0.1),
    metavar="SECONDS",
    help="Again and again, until all is done.",
)
@clean_errors
def status_command(suite, results, cores, every):
    """Say what of a suite is done, running, failed and waiting, and the time left; only reads.

    Where the suite says what is expected, also whether what is measured so far is on track.
    """
    from hdbench.tools.status.report import watch  # start-up: of this command alone

    def show(text: str) -> None:
        if every and sys.stdout.isatty():
            click.clear()
        click.echo(text)

    try:
        watch(load_plan(suite), results, cores, every, show)
    except KeyboardInterrupt:
        sys.exit(130)


@main.command(
    "tensorboard",
    epilog=examples(
        "hdbench tensorboard --suite digits --watch 30",
        "tensorboard --logdir results/digits/tensorboard",
    ),
)
@click.option("--out", type=FOLDER, help="By default results/<suite>/tensorboard.")
@click.option(
    "--watch",
    "every",
    type=Seconds(0.1),
    metavar="SECONDS",
    help="Again and again, with the steps that are new, until all is trained.",
)
@suite_option
@results_option
@clean_errors
def tensorboard_command(suite, results, out, every):
    """Write losses and other scalars of every training step as event files of TensorBoard.

    They are read from the results, of running stages up to their checkpoints.  A stage is one run,
    named after its arms.
    """
    from hdbench.tools.tensorboard import write_events  # start-up: of this command alone

    plan = load_plan(suite)
    folder = out or results / plan.name / "tensorboard"
    try:
        steps = write_events(plan, results, folder, every)
    except KeyboardInterrupt:
        sys.exit(130)
    if not steps:
        raise UserError(f"{results}: no stage of {suite} has trained up to a checkpoint yet")
    click.echo(f"{steps:,} steps in {folder}; `tensorboard --logdir {folder}` shows them")
