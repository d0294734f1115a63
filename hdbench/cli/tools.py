"""Commands around a run: export, cost, latency, doctor."""

from __future__ import annotations

import sys

import click

from hdbench.cli.group import (
    FOLDER,
    clean_errors,
    config_option,
    device_option,
    examples,
    load_plan,
    main,
    out_option,
    results_option,
    seed_option,
    suite_option,
    threads_option,
    writes,
)


@main.command("export", epilog=examples("hdbench export --arm hd --suite demo --out my_model/"))
@click.option("--arm", required=True, help="A student that samples in one step.")
@seed_option
@suite_option
@results_option
@click.option("--out", required=True, type=FOLDER, help="Folder to write.")
@clean_errors
@writes()
def export_command(suite, results, arm, seed, out):
    """Write a one-step student as a folder of diffusers with a model card; needs no hdbench."""
    from hdbench.tools.export import export  # start-up: diffusers and torch

    for path in export(load_plan(suite), results, arm, seed, out):
        click.echo(path)


@main.command(
    "cost",
    epilog=examples(
        "hdbench cost --suite imagenet256 --gpu H100 --gpus 8",
        "hdbench cost --suite imagenet256 --memory",
    ),
)
@click.option("--memory", is_flag=True, help="Memory of each training stage on a GPU instead.")
@click.option("--gpu", help="One of the model's GPUs, in place of its own choice.")
@click.option("--gpus", type=click.IntRange(1), help="Also the wall time on so many, or cores.")
@config_option("workflow/cost.yaml", "The cost model.")
@suite_option
@results_option
@out_option
@clean_errors
def cost_command(suite, results, out, config, gpu, gpus, memory):
    """Say what the stages that are not done will cost; runs nothing.

    GPU hours, or core-hours of a small suite, and disk.  Counts are those of `hdbench rehearse`,
    from RESULTS/rehearsals or else workflow/rehearsals; formulas where there are none, which the
    last lines then say.
    """
    from hdbench.tools.cost.model import read_model  # start-up: pydantic
    from hdbench.tools.cost.report import report, to_do  # start-up: torch
    from hdbench.tools.memory.report import memory_report  # start-up: torch
    from hdbench.tools.rehearsal.counts import counts_of  # start-up: torch

    plan = load_plan(suite)
    model = read_model(config, gpu)
    counts = counts_of(plan, results)
    if memory:
        click.echo(memory_report(plan, model, counts))
    else:
        click.echo(report(plan, to_do(plan, results), model, out, counts=counts, gpus=gpus))


@main.command("rehearse")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option("--gpu", help="One of the cost model's GPUs, in place of its own choice.")
@config_option("workflow/cost.yaml", "The cost model, which says how much memory a GPU has.")
@suite_option
@results_option
@clean_errors
def rehearse_command(suite, results, config, gpu, jobs):
    """Run one step of every kind of stage at full size without a GPU.

    Says parameters, FLOPs, memory and where the host would wait for the device.  A tensor left on
    the host, a value that the host reads, a result in float64 and too little memory are errors.
    Kept in RESULTS/rehearsals, where `hdbench cost` reads it.
    """
    from hdbench.tools.rehearsal.report import of_suite, refuse  # start-up: torch

    table, wrong = of_suite(suite, results, config, gpu, jobs)
    click.echo(table)
    refuse(wrong)


@main.command("latency")
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Measurements of each sampler.",
)
@device_option
@threads_option
@suite_option
@results_option
@clean_errors
@writes()
def latency_command(suite, results, rounds, device, threads):
    """Measure how long each way to sample takes, side by side on this machine.

    At batch 1 and at the suite's own, with fresh networks; `hdbench collect` adds it to the
    metrics.
    """
    from hdbench.core import runtime  # start-up: torch
    from hdbench.tools.latency import measure  # start-up: torch

    click.echo(measure(load_plan(suite), results, runtime.set_up(threads, device), rounds))


@main.command(
    "doctor",
    epilog=examples(
        "hdbench doctor --suite imagenet256 --verify --device cuda",
        "hdbench doctor --suite imagenet256 --fix-list",
    ),
)
@click.option("--fix-list", is_flag=True, help="A checklist to the first job, with commands.")
@click.option("--verify", is_flag=True, help="Compare sizes, and SHA-256 where one is known.")
@click.option("--device", default="cpu", show_default=True, help="Also look for this one: cuda.")
@config_option("workflow/sources.yaml", "Where public things are from.")
@suite_option
@results_option
@clean_errors
def doctor_command(suite, results, config, device, verify, fix_list):
    """Say which weights and data of a suite are missing, and where to get and put them.

    Weights are checked as in their stage, but for their values.  The exit code is 1 if any is
    missing or broken.
    """
    from hdbench.tools.doctor.fixes import examine  # start-up: torch

    text, complete = examine(load_plan(suite), results, config, verify, device, fix_list)
    click.echo(text)
    sys.exit(int(not complete))
