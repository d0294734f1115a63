"""Commands that evaluate any images and build references."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path

import click

from hdbench.cli.group import clean_errors, main
from hdbench.core.errors import Interrupted, UserError

PROTOCOL_NAMES = (
    "adm_imagenet256_50k",
    "torch_fidelity",
    "clean_fid",
    "mjhq30k",
    "clip_score",
    "classifier",
)
ALLOWED = ("conversion", "mixed-sizes", "other-weights")


def evaluation_options(command):
    """Options that `evaluate` and `reference` share."""
    for option in reversed(
        (
            click.option(
                "--weights",
                multiple=True,
                metavar="ROLE=PATH",
                help="Weights of inception or clip: a file, a folder of open_clip, or hf-hub:OWNER/NAME/FILE.",
            ),
            click.option(
                "--resolution", type=click.IntRange(1, 8192), help="Of mjhq30k, in place of 512."
            ),
            click.option(
                "--allow",
                multiple=True,
                type=click.Choice(ALLOWED),
                help="conversion: images that are not RGB are converted; mixed-sizes: each is resized by itself; "
                "other-weights: not the public file.",
            ),
            click.option(
                "--cache",
                type=click.Path(path_type=Path, file_okay=False),
                default=Path("results/evaluation"),
                show_default=True,
                help="Folder of features, references and weights.",
            ),
            click.option(
                "--batch",
                type=click.IntRange(min=1),
                default=32,
                show_default=True,
                help="Images a forward.",
            ),
            click.option(
                "--layout",
                type=click.Choice(["library", "channels-last"]),
                default="library",
                show_default=True,
                help="Of Inception: as torch-fidelity runs it, to the bit; or faster on a CPU, same up to rounding.",
            ),
            click.option(
                "--threads",
                type=click.IntRange(min=1),
                default=1,
                show_default=True,
                help="CPU threads.",
            ),
            click.option(
                "--device",
                default="cpu",
                show_default=True,
                help="cpu, cuda, or auto: cuda if there is one.",
            ),
            click.option(
                "--rank",
                type=int,
                help="Of several processes that share the images; by default RANK.",
            ),
            click.option(
                "--world-size", type=int, help="Number of these processes; by default WORLD_SIZE."
            ),
            click.option(
                "--wait-seconds",
                type=click.FloatRange(min=0),
                default=3600.0,
                show_default=True,
                help="How long rank 0 waits for the others.",
            ),
        )
    ):
        command = option(command)
    return command


@contextmanager
def _told():
    """Every rank says its own mistakes, since each reads files by itself; a file out of reach is one of them."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or 'a file'}: {error.strerror or error}; choose another place, or make this one "
            "good"
        ) from None
    except UserError as error:
        error.alone = (os.environ.get("RANK") or "0") != "0"
        raise
    except KeyboardInterrupt:
        raise Interrupted(
            "stopped; the same command begins this pass again, finished ones are kept"
        ) from None


def _request(
    protocols,
    weights,
    resolution,
    allow,
    cache,
    batch,
    layout,
    threads,
    device,
    rank,
    world_size,
    wait_seconds,
    subset_size=None,
    **given,
):
    from hdbench.core.runtime import set_up
    from hdbench.evaluation.features import Settings, Shard
    from hdbench.evaluation.protocols import protocol_named
    from hdbench.evaluation.request import Request

    chosen = tuple(protocol_named(name) for name in dict.fromkeys(protocols))
    changes = {"resolution": resolution} if resolution else {}
    for name, value, wanted in (
        ("--resolution", resolution, "resolution"),
        ("--kid-subset-size", subset_size, "kid"),
    ):
        if value and not any(
            protocol.resolution if wanted == "resolution" else wanted in protocol.metrics
            for protocol in chosen
        ):
            raise UserError(f"{name} = {value}: none of {', '.join(protocols)} has such a setting")
    sizes = {"kid_subset_size": subset_size} if subset_size else {}
    chosen = tuple(
        protocol.model_copy(
            update=(changes if protocol.resolution else {})
            | (sizes if "kid" in protocol.metrics else {})
        )
        for protocol in chosen
    )
    files = {}
    for text in weights:
        role, separator, path = text.partition("=")
        if not separator or role not in ("inception", "clip") or not path:
            raise UserError(f"--weights = {text!r}: write inception=PATH or clip=PATH")
        if role in files:
            raise UserError(f"--weights = {text!r}: there are others for {role}; give one")
        files[role] = path
    settings = Settings(
        cache=cache, shard=Shard.of(rank, world_size, wait_seconds), batch=batch, threads=threads
    )
    found = set_up(threads, device)
    if found.type not in ("cpu", "cuda"):
        raise UserError(f"--device = {device}: use cpu, cuda or auto")
    return Request(
        protocols=chosen,
        weights=files,
        settings=settings,
        device=found,
        allow=frozenset(allow),
        layout=layout,
        **given,
    )


protocol_option = click.option(
    "--protocol",
    "protocols",
    multiple=True,
    required=True,
    metavar="NAME",
    help=f"One or several of {', '.join(PROTOCOL_NAMES)}.",
)


@main.command("evaluate")
@click.option(
    "--samples",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of PNG or JPEG files (recursive) or of npz files, or one npz file with arr_0.",
)
@protocol_option
@click.option(
    "--reference",
    "sources",
    multiple=True,
    metavar="[NAME=]PATH",
    help="Real images (folder or npz), ADM's npz, or what `hdbench reference` built; for one protocol with NAME=.",
)
@click.option(
    "--prompts",
    type=click.Path(path_type=Path, dir_okay=False),
    help="JSON of {image: {prompt, category}}, for CLIP scores and MJHQ.",
)
@click.option(
    "--n",
    type=int,
    help="Evaluate this many of the images; the count stands in every metric's name.",
)
@click.option(
    "--kid-subset-size", type=click.IntRange(min=2), help="Of torch_fidelity, in place of 1000."
)
@click.option(
    "--name", help="What tables call the samples; by default the name of their file or folder."
)
@click.option(
    "--intervals/--no-intervals",
    default=True,
    show_default=True,
    help="Intervals of FID take a little longer.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Table to write, .csv or .json; influences for paired differences go to the .npz beside it.",
)
@evaluation_options
@clean_errors
@_told()
def evaluate_command(
    samples, protocols, sources, prompts, n, kid_subset_size, name, intervals, out, **shared
):
    """Measure any images under named protocols, and print every metric with its 95% interval."""
    from hdbench.evaluation.evaluate import evaluate
    from hdbench.evaluation.results import check_out

    if out is not None and out.suffix not in (".csv", ".json"):
        raise UserError(f"--out = {out}: give a file that ends in .csv or .json")
    names = list(dict.fromkeys(protocols))
    outs = (
        [out]
        if len(names) == 1
        else [out and out.with_name(f"{out.stem}.{each}{out.suffix}") for each in names]
    )
    for each in filter(None, outs):
        check_out(each)
    request = _request(
        protocols,
        subset_size=kid_subset_size,
        samples=samples,
        prompts=prompts,
        n=n,
        intervals=intervals,
        name=name,
        references=_references(protocols, sources),
        **shared,
    )
    if "classifier" in protocols:
        from hdbench.stages.measured import evaluate_file

        if len(request.protocols) > 1 or "classifier" not in request.references:
            raise UserError(
                "classifier: goes alone, with --reference results/stages/reference/<id> of a suite"
            )
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
            raise UserError(
                f"--reference = {text!r}: there is another for {name or 'all protocols'}; give one"
            )
        found[name] = Path(path)
    return (dict.fromkeys(protocols, found.pop("")) if "" in found else {}) | found


@main.command("reference")
@click.option(
    "--source",
    type=click.Path(path_type=Path),
    help="Real images: a folder, an npz file, or ADM's npz.",
)
@click.option(
    "--dataset",
    metavar="NAME:SPLIT",
    help="In place of --source: train or test of a suite's data set.",
)
@protocol_option
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to copy the reference to; without it, it stays in the cache.",
)
@evaluation_options
@clean_errors
@_told()
def reference_command(source, dataset, protocols, out, **shared):
    """Build what samples are compared with: statistics of real images, kept under a digest of all that decides them."""
    from hdbench.evaluation.evaluate import build_references
    from hdbench.evaluation.images import of_dataset
    from hdbench.evaluation.references import copy
    from hdbench.evaluation.request import Extractors

    if (source is None) == (dataset is None):
        raise UserError("give either --source or --dataset")
    if out is not None and (len(set(protocols)) > 1 or out.exists()):
        raise UserError(
            f"--out = {out}: " + ("exists already" if out.exists() else "takes one --protocol")
        )
    images = source if dataset is None else of_dataset(dataset, frozenset(shared["allow"]))
    request = _request(
        protocols, samples=None, references=dict.fromkeys(protocols, images), **shared
    )
    if without := [protocol.name for protocol in request.protocols if not protocol.inception]:
        raise UserError(f"--protocol = {without[0]}: needs no reference from here")
    extractors = Extractors(request)
    extractors.load()
    found = build_references(request, extractors)
    for name, built in ({} if found is None else found).items():
        if out is not None:
            copy(built, out)
        count = f"{built.key['n']} images" if built.key["n"] else "statistics"
        click.echo(
            f"{name}: reference {built.key['source'][:16]} of {count} in {out or built.folder}"
        )
