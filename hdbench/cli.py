"""The command `hdbench`: `stage` computes one artifact; others collect, render and show."""

from __future__ import annotations

import functools
import os
import sys
from contextlib import contextmanager
from pathlib import Path

import click

from hdbench.errors import Ended, Interrupted, UserError

KIND_HELP = {
    "data": "Build the data set's train and test splits.",
    "classifier": "Train the classifier whose features the metrics use.",
    "clip": "Train a CLIP: the prompts' encoder, or the judge of captions.",
    "text": "Encode the prompts once.",
    "reference": "Features and spectra of the real images.",
    "teacher": "Train the many-step teacher by flow matching.",
    "pairs": "Pairs of noise and image of the teacher's ODE, for the methods that need them.",
    "trajectory": "Stage 1, trajectory distillation of the teacher (MeanFlow, consistency, ...).",
    "refine": "Stage 2, distribution matching (DMD, ...), with or without a discriminator.",
    "sample": "Generate images.",
    "evaluate": "Measure images against the reference.",
}


def clean_errors(command):
    """A command that cannot go on ends with one sentence and an exit code, see hdbench.errors; an interruption with 130."""

    @functools.wraps(command)
    def wrapped(*args, **kwargs):
        try:
            return command(*args, **kwargs)
        except Ended as error:
            code, text, alone = error.code, str(error), error.alone
        except KeyboardInterrupt:
            code, text, alone = 130, "stopped; nothing is lost, the same command goes on from the last checkpoint", False
        rank = os.environ.get("RANK") or "0"
        if alone and os.environ.get("WORLD_SIZE") != "1":
            text = f"rank {rank}: {text}"
        if alone or rank == "0":
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
    @click.option("--device", default="cpu", show_default=True, help="cpu, cuda, or auto: cuda if there is one.")
    @click.option("--checkpoint-seconds", type=click.FloatRange(min=0), default=30.0, show_default=True)
    @click.option("--sharding", type=click.Choice(["none", "fsdp2"]), default="none", show_default=True,
                  help="Of several processes (torchrun), does each hold all that it trains, or its part.")
    @clean_errors
    def command(suite, results, stage_id, arm, seed, steps, threads, device, checkpoint_seconds, sharding):
        from hdbench.distributed import ranks
        from hdbench.run import find_stage, run_stage
        from hdbench.runtime import set_up
        from hdbench.suite import load_plan

        plan = load_plan(suite)
        stage = plan.stage(stage_id) if stage_id else find_stage(plan, kind, arm, seed, steps)
        if stage.kind != kind:
            raise UserError(f"--id = {stage_id}: that is of `hdbench stage {stage.kind}`")
        found = set_up(threads, device)
        with ranks(found):
            run_stage(plan, stage, results, found, checkpoint_seconds, sharding)

    return click.command(kind, help=KIND_HELP[kind])(command)


for _kind in KIND_HELP:
    stage_group.add_command(_stage_command(_kind))


out_option = click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("paper_tables"),
                          show_default=True, help="Folder of rendered tables and figures.")


@main.command("collect")
@click.option("--partial", is_flag=True, help="Take what is finished; without it, a missing stage is an error.")
@click.option("--keep", type=click.Path(path_type=Path, dir_okay=False),
              help="metrics.csv of another run of the suite: its numbers stand where there are no results here.")
@suite_option
@results_option
@clean_errors
def collect_command(suite, results, partial, keep):
    """Gather every metric and cost of a suite into results/<suite>/metrics.csv."""
    from hdbench.collect import collect, metrics_file
    from hdbench.suite import load_plan

    plan = load_plan(suite)
    frame = collect(plan, results, partial, keep)
    rows = frame[["arm", "seed", "nfe"]].drop_duplicates()
    click.echo(f"{len(frame)} numbers of {len(rows)} of {len(plan.rows)} rows in {metrics_file(plan, results)}")


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
    frame = read_metrics(metrics or metrics_file(plan, results), strict=metrics is None)
    for path in write_tables(plan, frame, results, out, anybody=metrics is not None):
        click.echo(path)


@main.command("claims")
@click.option("--metrics", type=click.Path(path_type=Path, dir_okay=False), help="By default results/<suite>/metrics.csv.")
@click.option("--rules", type=click.Path(path_type=Path, dir_okay=False), default=Path("workflow/claims.yaml"),
              show_default=True, help="The claims and what decides them.")
@click.option("--theory", type=click.Path(path_type=Path, dir_okay=False),
              help="Metrics of `hdbench theory`; by default results/theory/metrics.csv, if it is there.")
@suite_option
@results_option
@out_option
@clean_errors
def claims_command(suite, results, metrics, rules, theory, out):
    """Judge the paper's claims by declared rules: verdict, effect, interval, corrected p."""
    from hdbench.claims import read_rules, read_theory, write_claims
    from hdbench.collect import Numbers, metrics_file, read_metrics
    from hdbench.suite import load_plan

    plan, declared = load_plan(suite), read_rules(rules)
    frame, given = read_metrics(metrics or metrics_file(plan, results), strict=metrics is None), metrics is not None
    values = read_theory(theory or results / "theory" / "metrics.csv", missing_is_none=theory is None)
    for path in write_claims(Numbers(plan, frame, results, anybody=given), declared, out, values):
        click.echo(path)


@main.command("theory")
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), default=Path("workflow/theory.yaml"),
              show_default=True, help="Data, networks and methods.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads.")
@results_option
@out_option
@clean_errors
def theory_command(config, threads, results, out):
    """Train students where the true mean velocity is known: their errors, and what small ones lose; what is done is kept."""
    from hdbench.runtime import set_up
    from hdbench.theory import read_theory_config, run_theory

    theory = read_theory_config(config)
    set_up(threads, "cpu")
    for path in run_theory(theory, results, out):
        click.echo(path)


@main.command("probes")
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), default=Path("workflow/probes.yaml"),
              show_default=True, help="Teachers, flaws and heads.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads.")
@results_option
@out_option
@clean_errors
def probes_command(config, threads, results, out):
    """Train heads to find planted flaws on frozen features: where each sees them and mends them; what is done is kept."""
    from hdbench.probes import read_probes, run_probes
    from hdbench.runtime import set_up

    probes = read_probes(config)
    set_up(threads, "cpu")
    for path in run_probes(probes, results, out):
        click.echo(path)


@main.command("tuned")
@click.option("--suite", default="local_flaws_tuning", show_default=True, help="One chain with every head over a grid.")
@click.option("--metrics", type=click.Path(path_type=Path, dir_okay=False), help="By default results/<suite>/metrics.csv.")
@results_option
@clean_errors
def tuned_command(suite, metrics, results):
    """Print each head's tuned values: those of its arm with the smallest fd_train on the validation chain."""
    from hdbench.collect import metrics_file, read_metrics
    from hdbench.suite import load_plan
    from hdbench.tuning import chosen, settings

    plan = load_plan(suite)
    for head, arm in chosen(plan, read_metrics(metrics or metrics_file(plan, results))).items():
        click.echo(f"{head}: {settings(plan, arm)}  # {arm}")


@main.command("prose")
@click.argument("documents", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@out_option
@clean_errors
def prose_command(documents, out):
    """Write the numbers of Markdown DOCUMENTS anew from the collected metrics beside the tables."""
    from hdbench.prose import write

    for path in documents:
        click.echo(f"{path}: {'changed' if write(path, out) else 'unchanged'}")


@main.command("figures")
@click.option("--metrics", type=click.Path(path_type=Path, dir_okay=False), help="By default results/<suite>/metrics.csv.")
@suite_option
@results_option
@out_option
@clean_errors
def figures_command(suite, results, metrics, out):
    """Draw quality, differences, samples, curves, spectra and token weights; what is missing is left out with a note."""
    from hdbench.collect import metrics_file, read_metrics
    from hdbench.figures import draw
    from hdbench.suite import FIGURES, load_plan

    plan = load_plan(suite)
    path = metrics or metrics_file(plan, results)
    frame = read_metrics(path, strict=metrics is None) if metrics or path.exists() else None
    written = draw(plan, results, out, frame, anybody=metrics is not None)
    for path in written:
        click.echo(path)
    for name in [name for name in FIGURES if name not in {path.stem for path in written}]:
        click.echo(f"{name}: left as it is, for want of artifacts in {results}")


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


@main.command("export")
@click.option("--arm", required=True, help="A student that samples in one step.")
@click.option("--seed", type=int, default=None, help="Chain; by default the suite's first.")
@suite_option
@results_option
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to write.")
@clean_errors
def export_command(suite, results, arm, seed, out):
    """Write a one-step student as a folder of diffusers, with a model card; it samples without hdbench."""
    from hdbench.export import export
    from hdbench.suite import load_plan

    for path in export(load_plan(suite), results, arm, seed, out):
        click.echo(path)


@main.command("published")
@click.option("--benchmark", "names", multiple=True, type=click.Choice(["imagenet256", "mjhq"]), help="By default both.")
@click.option("--metrics", "files", multiple=True, type=click.Path(path_type=Path, dir_okay=False),
              help="What `hdbench evaluate --out` or `hdbench collect` wrote; several times for several.")
@click.option("--numbers", type=click.Path(path_type=Path, dir_okay=False), default=Path("paper_tables/published.csv"),
              show_default=True, help="The published numbers.")
@click.option("--without-remembered", is_flag=True, help="Leave out published numbers that nobody has checked.")
@out_option
@clean_errors
def published_command(names, files, numbers, without_remembered, out):
    """Render the main table of a benchmark: published numbers with their sources, and ours below them."""
    from hdbench.published import BENCHMARKS, write_published

    for path in write_published(names or tuple(BENCHMARKS), numbers, files, not without_remembered, out):
        click.echo(path)


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


@main.command("compare")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--metric", "metrics", multiple=True, metavar="NAME",
              help="This metric alone, such as fd_test; may be repeated.")
@click.option("--all", "everything", is_flag=True, help="Every row, not the nearest to moving alone; and costs, as ratios.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Also every row in full precision, as csv.")
@click.option("--fail-if-moved", is_flag=True, help="Exit code 1 if a row moved, or if none could be compared.")
@clean_errors
def compare_command(a, b, metrics, everything, out, fail_if_moved):
    """Compare two runs, files A and B of `hdbench collect` or `hdbench evaluate`: what moved beyond noise."""
    from hdbench.artifact import write_atomic
    from hdbench.collect import read_metrics
    from hdbench.compare import compare, described, failed, report

    frames = [read_metrics(path) for path in (a, b)]
    found = compare(*frames, metrics, everything)
    if out is not None:
        write_atomic(out, found.rows.to_csv(index=False, lineterminator="\n"))
    for name, path, frame in zip("AB", (a, b), frames):
        click.echo(f"{name}: {path} ({described(frame)})")
    click.echo("\n" + report(found, everything))
    sys.exit(int(fail_if_moved and failed(found)))


@main.command("cost")
@click.option("--memory", is_flag=True, help="Memory of each training stage on a GPU instead.")
@click.option("--gpu", help="One of the model's GPUs, in place of its own choice.")
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), default=Path("workflow/cost.yaml"),
              show_default=True, help="The cost model.")
@suite_option
@results_option
@out_option
@clean_errors
def cost_command(suite, results, out, config, gpu, memory):
    """Say what the stages that are not done will cost: GPU hours, or core-hours of a small suite, and disk; runs nothing."""
    from hdbench.cost import memory_report, read_model, report, to_do
    from hdbench.suite import load_plan

    plan, model = load_plan(suite), read_model(config, gpu)
    click.echo(memory_report(plan, model) if memory else report(plan, to_do(plan, results), model, out))


@main.command("doctor")
@click.option("--verify", is_flag=True, help="Compare sizes, and SHA-256 where one is known.")
@click.option("--device", default="cpu", show_default=True, help="Also look for this one: cuda.")
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), default=Path("workflow/sources.yaml"),
              show_default=True, help="Where public things are from.")
@suite_option
@results_option
@clean_errors
def doctor_command(suite, results, config, device, verify):
    """Say which weights and data of a suite are missing, where to get and put them; exit code 1 if any is missing or broken."""
    from hdbench.doctor import look, read_sources, report
    from hdbench.suite import load_plan

    plan = load_plan(suite)
    findings = list(look(plan, results, read_sources(config), verify, device))
    click.echo(report(plan, findings))
    sys.exit(int(any(finding.state != "ok" for finding in findings)))


@main.command("status")
@suite_option
@results_option
@click.option("--cores", type=click.IntRange(min=1), metavar="N",
              help="Stages at a time, for the time left; by default as many as run now.")
@click.option("--watch", "every", type=click.FloatRange(min=0.1), metavar="SECONDS",
              help="Again and again, until all is done.")
@clean_errors
def status_command(suite, results, cores, every):
    """Say what of a suite is done, running, failed and waiting, and how long is left; changes nothing."""
    from hdbench.status import watch
    from hdbench.suite import load_plan

    def show(text: str) -> None:
        if every and sys.stdout.isatty():
            click.clear()
        click.echo(text)

    try:
        watch(load_plan(suite), results, cores, every, show)
    except KeyboardInterrupt:
        sys.exit(130)


PROTOCOL_NAMES = ("adm_imagenet256_50k", "torch_fidelity", "clean_fid", "mjhq30k", "clip_score", "classifier")
ALLOWED = ("conversion", "mixed-sizes", "other-weights")


def evaluation_options(command):
    """Options that `evaluate` and `reference` share."""
    for option in reversed((
            click.option("--weights", multiple=True, metavar="ROLE=PATH",
                         help="Weights of inception or clip: a file, a folder of open_clip, or hf-hub:OWNER/NAME/FILE."),
            click.option("--resolution", type=click.IntRange(1, 8192), help="Of mjhq30k, in place of 512."),
            click.option("--allow", multiple=True, type=click.Choice(ALLOWED),
                         help="conversion: images that are not RGB are converted; mixed-sizes: each is resized by itself; "
                              "other-weights: not the public file."),
            click.option("--cache", type=click.Path(path_type=Path, file_okay=False), default=Path("results/evaluation"),
                         show_default=True, help="Folder of features, references and weights."),
            click.option("--batch", type=click.IntRange(min=1), default=32, show_default=True, help="Images a forward."),
            click.option("--layout", type=click.Choice(["library", "channels-last"]), default="library", show_default=True,
                         help="Of Inception: as torch-fidelity runs it, to the bit; or faster on a CPU, same up to rounding."),
            click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads."),
            click.option("--device", default="cpu", show_default=True, help="cpu, cuda, or auto: cuda if there is one."),
            click.option("--rank", type=int, help="Of several processes that share the images; by default RANK."),
            click.option("--world-size", type=int, help="Number of these processes; by default WORLD_SIZE."),
            click.option("--wait-seconds", type=click.FloatRange(min=0), default=3600.0, show_default=True,
                         help="How long rank 0 waits for the others."))):
        command = option(command)
    return command


@contextmanager
def _told():
    """Every rank says its own mistakes, since each reads files by itself; a file out of reach is one of them."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{error.filename or 'a file'}: {error.strerror or error}; choose another place, or make this one "
                        "good") from None
    except UserError as error:
        error.alone = (os.environ.get("RANK") or "0") != "0"
        raise
    except KeyboardInterrupt:
        raise Interrupted("stopped; the same command begins this pass again, finished ones are kept") from None


def _request(protocols, weights, resolution, allow, cache, batch, layout, threads, device, rank, world_size,
             wait_seconds, subset_size=None, **given):
    from hdbench.evaluation.evaluate import Request
    from hdbench.evaluation.features import Settings, Shard
    from hdbench.evaluation.protocols import protocol_named
    from hdbench.runtime import set_up

    chosen = tuple(protocol_named(name) for name in dict.fromkeys(protocols))
    changes = {"resolution": resolution} if resolution else {}
    for name, value, wanted in (("--resolution", resolution, "resolution"), ("--kid-subset-size", subset_size, "kid")):
        if value and not any(protocol.resolution if wanted == "resolution" else wanted in protocol.metrics
                             for protocol in chosen):
            raise UserError(f"{name} = {value}: none of {', '.join(protocols)} has such a setting")
    sizes = {"kid_subset_size": subset_size} if subset_size else {}
    chosen = tuple(protocol.model_copy(update=(changes if protocol.resolution else {})
                                       | (sizes if "kid" in protocol.metrics else {})) for protocol in chosen)
    files = {}
    for text in weights:
        role, separator, path = text.partition("=")
        if not separator or role not in ("inception", "clip") or not path:
            raise UserError(f"--weights = {text!r}: write inception=PATH or clip=PATH")
        if role in files:
            raise UserError(f"--weights = {text!r}: there are others for {role}; give one")
        files[role] = path
    settings = Settings(cache=cache, shard=Shard.of(rank, world_size, wait_seconds), batch=batch, threads=threads)
    found = set_up(threads, device)
    if found.type not in ("cpu", "cuda"):
        raise UserError(f"--device = {device}: use cpu, cuda or auto")
    return Request(protocols=chosen, weights=files, settings=settings, device=found,
                   allow=frozenset(allow), layout=layout, **given)


protocol_option = click.option("--protocol", "protocols", multiple=True, required=True, metavar="NAME",
                               help=f"One or several of {', '.join(PROTOCOL_NAMES)}.")


@main.command("evaluate")
@click.option("--samples", required=True, type=click.Path(path_type=Path),
              help="Folder of PNG or JPEG files (recursive) or of npz files, or one npz file with arr_0.")
@protocol_option
@click.option("--reference", "sources", multiple=True, metavar="[NAME=]PATH",
              help="Real images (folder or npz), ADM's npz, or what `hdbench reference` built; for one protocol with NAME=.")
@click.option("--prompts", type=click.Path(path_type=Path, dir_okay=False),
              help="JSON of {image: {prompt, category}}, for CLIP scores and MJHQ.")
@click.option("--n", type=int, help="Evaluate this many of the images; the count stands in every metric's name.")
@click.option("--kid-subset-size", type=click.IntRange(min=2), help="Of torch_fidelity, in place of 1000.")
@click.option("--name", help="What tables call the samples; by default the name of their file or folder.")
@click.option("--intervals/--no-intervals", default=True, show_default=True, help="Intervals of FID take a little longer.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False),
              help="Table to write, .csv or .json; influences for paired differences go to the .npz beside it.")
@evaluation_options
@clean_errors
@_told()
def evaluate_command(samples, protocols, sources, prompts, n, kid_subset_size, name, intervals, out, **shared):
    """Measure any images under named protocols, and print every metric with its 95% interval."""
    from hdbench.evaluation.evaluate import check_out, evaluate

    if out is not None and out.suffix not in (".csv", ".json"):
        raise UserError(f"--out = {out}: give a file that ends in .csv or .json")
    names = list(dict.fromkeys(protocols))
    outs = [out] if len(names) == 1 else [out and out.with_name(f"{out.stem}.{each}{out.suffix}") for each in names]
    for each in filter(None, outs):
        check_out(each)
    request = _request(protocols, subset_size=kid_subset_size, samples=samples, prompts=prompts, n=n, intervals=intervals,
                       name=name, references=_references(protocols, sources), **shared)
    if "classifier" in protocols:
        from hdbench.evaluation.classifier import evaluate_file

        if len(request.protocols) > 1 or "classifier" not in request.references:
            raise UserError("classifier: goes alone, with --reference results/stages/reference/<id> of a suite")
        found = [evaluate_file(samples, request.references["classifier"], n, name, request.device)]
    else:
        found = evaluate(request)
    if found is None:
        rank, world_size, _ = request.settings.shard
        return click.echo(f"rank {rank} of {world_size}: features are written; rank 0 reports")
    for path, evaluation in zip(outs, found):
        if path is not None:
            evaluation.save(path)
        click.echo()
        click.echo(evaluation.table())
        for note in evaluation.facts.get("notes", []):
            click.echo(f"note: {note}")


def _references(protocols, sources) -> dict[str, Path]:
    found = {}
    for text in sources:
        name, separator, path = text.partition("=")
        name, path = (name, path) if separator and name in PROTOCOL_NAMES else ("", text)
        if name in found:
            raise UserError(f"--reference = {text!r}: there is another for {name or 'all protocols'}; give one")
        found[name] = Path(path)
    return (dict.fromkeys(protocols, found.pop("")) if "" in found else {}) | found


@main.command("reference")
@click.option("--source", type=click.Path(path_type=Path), help="Real images: a folder, an npz file, or ADM's npz.")
@click.option("--dataset", metavar="NAME:SPLIT", help="In place of --source: train or test of a suite's data set.")
@protocol_option
@click.option("--out", type=click.Path(path_type=Path, file_okay=False),
              help="Folder to copy the reference to; without it, it stays in the cache.")
@evaluation_options
@clean_errors
@_told()
def reference_command(source, dataset, protocols, out, **shared):
    """Build what samples are compared with: statistics of real images, kept under a digest of all that decides them."""
    from hdbench.evaluation.evaluate import Extractors, build_references
    from hdbench.evaluation.references import copy
    from hdbench.evaluation.samples import of_dataset

    if (source is None) == (dataset is None):
        raise UserError("give either --source or --dataset")
    if out is not None and (len(set(protocols)) > 1 or out.exists()):
        raise UserError(f"--out = {out}: " + ("exists already" if out.exists() else "takes one --protocol"))
    images = source if dataset is None else of_dataset(dataset, frozenset(shared["allow"]))
    request = _request(protocols, samples=None, references=dict.fromkeys(protocols, images), **shared)
    if (without := [protocol.name for protocol in request.protocols if not protocol.inception]):
        raise UserError(f"--protocol = {without[0]}: needs no reference from here")
    extractors = Extractors(request)
    extractors.load()
    found = build_references(request, extractors)
    for name, built in ({} if found is None else found).items():
        if out is not None:
            copy(built, out)
        count = f"{built.key['n']} images" if built.key["n"] else "statistics"
        click.echo(f"{name}: reference {built.key['source'][:16]} of {count} in {out or built.folder}")
