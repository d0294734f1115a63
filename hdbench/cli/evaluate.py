"""Commands that evaluate any images and build references."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hdbench.cli.group import (
    FILE,
    FOLDER,
    PATH,
    Seconds,
    clean_errors,
    device_option,
    examples,
    main,
    options,
    rank,
    threads_option,
    writes,
)
from hdbench.core.errors import Interrupted, UserError
from hdbench.core.outputs import check_outputs

if TYPE_CHECKING:
    from hdbench.evaluation.results import Evaluation

ALLOWED = ("conversion", "mixed-sizes", "other-weights")
IMAGES = "Folder of images (recursive; PNG, JPEG, WebP, BMP, TIFF, GIF, PPM)"

evaluation_options = options(  # what `evaluate` and `reference` share
    click.option(
        "--weights",
        multiple=True,
        metavar="ROLE=PATH",
        help="A file, a folder of open_clip or timm, or hf-hub:OWNER/NAME/FILE; roles are those of "
        "`hdbench doctor`: inception, clip, dinov2 and so on.",
    ),
    click.option("--resolution", type=click.IntRange(1, 8192), help="Of mjhq30k, in place of 512."),
    click.option(
        "--allow",
        multiple=True,
        type=click.Choice(ALLOWED),
        help="conversion: images that are not RGB are converted; mixed-sizes: each image is "
        "resized by itself; other-weights: any file, not only the public one.",
    ),
    click.option(
        "--array",
        metavar="NAME[:nchw][:LOW..HIGH]",
        help="Of npz files, the array of the samples (of --source), in place of arr_0 (N, H, W, 3) "
        "uint8: its name, its layout, and the range of values that are converted to uint8, as "
        "images:nchw:-1..1.",
    ),
    click.option(
        "--cache",
        type=FOLDER,
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
        help="Of Inception: as torch-fidelity, to the bit; or faster on a CPU, up to rounding.",
    ),
    threads_option,
    device_option,
    click.option(
        "--rank", type=int, help="Of several processes that share the images; by default RANK."
    ),
    click.option(
        "--world-size", type=int, help="Number of these processes; by default WORLD_SIZE."
    ),
    click.option(
        "--wait-seconds",
        type=Seconds(),
        default=3600.0,
        show_default=True,
        help="How long rank 0 waits for the others.",
    ),
)


@contextmanager
def report_on_every_rank():
    """Each rank reports its own errors, since each reads files; OSError becomes UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or 'a file'}: {error.strerror or error}; mend it, or choose another"
        ) from None
    except UserError as error:
        error.alone = rank() != "0"
        raise
    except KeyboardInterrupt:
        raise Interrupted(
            "stopped; the same command begins this pass again and keeps finished ones"
        ) from None


class ProtocolOption(click.Option):
    """The option --protocol, whose help names the protocols."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        from hdbench.evaluation.protocols import PROTOCOLS  # start-up: torch, for help alone

        self.help = f"One or several of {', '.join(PROTOCOLS)}."
        return super().get_help_record(ctx)


table_option = click.option(
    "--out",
    type=FILE,
    help="Table to write, .csv or .json; each sample's influence goes to the .npz beside it.",
)


def check_table(path: Path) -> None:
    """UserError for a file that is no table, or where one cannot be written."""
    from hdbench.evaluation.results import check_out  # start-up: pandas

    if path.suffix not in (".csv", ".json"):
        raise UserError(f"--out = {path}: give a file that ends in .csv or .json")
    check_out(path)


def report(evaluation: Evaluation, path: Path | None) -> None:
    """Print an evaluation with its notes, and write it if there is a path."""
    if path is not None:
        evaluation.save(path)
    click.echo()
    click.echo(evaluation.table())
    for note in evaluation.facts.get("notes", []):
        click.echo(f"note: {note}")


protocol_option = click.option(
    "--protocol", "protocols", multiple=True, required=True, metavar="NAME", cls=ProtocolOption
)


@main.command(
    "evaluate",
    epilog=examples(
        "hdbench evaluate --samples my_samples/ --protocol torch_fidelity --reference real_images/",
        "hdbench evaluate --samples samples.npz --protocol adm --reference ref.npz --out mine.csv",
    ),
)
@click.option(
    "--samples",
    required=True,
    type=PATH,
    help=f"{IMAGES} or of npz files, or one npz file with arr_0.",
)
@protocol_option
@click.option(
    "--reference",
    "sources",
    multiple=True,
    metavar="[NAME=]PATH",
    help="Real images (folder or npz), ADM's npz, or what `hdbench reference` built; NAME= says "
    "for which protocol.",
)
@click.option(
    "--prompts", type=FILE, help="JSON of {image: {prompt, category}}, for CLIP scores and MJHQ."
)
@click.option(
    "--n", type=int, help="Evaluate this many of the images; the count is in every metric's name."
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
@table_option
@click.option(
    "--table",
    type=FILE,
    help="All protocols side by side, with extractor, preprocessing and reference: TABLE.csv, .md, "
    ".tex and .html.",
)
@evaluation_options
@clean_errors
@writes("samples", "sources", "prompts", "weights")
@report_on_every_rank()
def evaluate_command(protocols, sources, out, table, **options):
    """Measure any images under named protocols, and print every metric with its 95% interval."""
    from hdbench.evaluation.evaluate import evaluate  # start-up: torch and SciPy
    from hdbench.evaluation.request import Request, by_protocol  # start-up: torch and SciPy
    from hdbench.stages.measured import evaluate_by_classifier  # start-up: torch and SciPy

    names = list(dict.fromkeys(protocols))
    outs = {
        name: out and (out.with_name(f"{out.stem}.{name}{out.suffix}") if len(names) > 1 else out)
        for name in names
    }
    for path in filter(None, outs.values()):
        check_table(path)
    if table is not None:
        from hdbench.report.protocols import files_of, write_protocols  # start-up: pandas

        check_outputs(files_of(table))
    references = by_protocol(protocols, sources)
    request = Request.from_options(protocols=protocols, references=references, **options)
    run = evaluate_by_classifier if "classifier" in names else evaluate
    evaluations = run(request)
    if evaluations is None:
        number, world_size, _ = request.settings.shard
        return click.echo(f"rank {number} of {world_size}: features are written; rank 0 reports")
    for path, evaluation in zip(outs.values(), evaluations, strict=True):
        report(evaluation, path)
    if table is not None:
        measured = list(zip(request.protocols, evaluations, strict=True))
        click.echo("\n" + "\n".join(map(str, write_protocols(measured, table))))


@main.command(
    "reference",
    epilog=examples(
        "hdbench reference --source real_images/ --protocol torch_fidelity --out reference/"
    ),
)
@click.option("--source", type=PATH, help="Real images: a folder, an npz file, or ADM's npz.")
@click.option(
    "--dataset",
    metavar="NAME:SPLIT",
    help="In place of --source: train or test of a suite's data set.",
)
@protocol_option
@click.option(
    "--out", type=FOLDER, help="Folder to copy the reference to; without it, it stays in the cache."
)
@evaluation_options
@clean_errors
@report_on_every_rank()
def reference_command(source, dataset, protocols, out, **options):
    """Build what samples are compared with: statistics of real images, kept by their digest."""
    from hdbench.evaluation.evaluate import build_references  # start-up: torch and SciPy
    from hdbench.evaluation.images import of_dataset  # start-up: torch
    from hdbench.evaluation.references import copy  # start-up: torch and SciPy
    from hdbench.evaluation.request import Extractors, Request  # start-up: torch and SciPy

    if (source is None) == (dataset is None):
        raise UserError("give either --source or --dataset")
    if out is not None and (len(set(protocols)) > 1 or out.exists()):
        raise UserError(
            f"--out = {out}: " + ("exists already" if out.exists() else "takes one --protocol")
        )
    images = source if dataset is None else of_dataset(dataset, frozenset(options["allow"]))
    request = Request.from_options(
        protocols=protocols, samples=None, references=dict.fromkeys(protocols, images), **options
    )
    if without := [protocol.name for protocol in request.protocols if not protocol.compared]:
        raise UserError(f"--protocol = {without[0]}: needs no reference from here")
    extractors = Extractors(request)
    extractors.load()
    references = build_references(request, extractors)
    for name, by_extractor in (references or {}).items():
        for extractor, built in by_extractor.items():
            folder = out and (out / extractor if len(by_extractor) > 1 else out)
            if folder is not None:
                copy(built, folder)
            count = f"{built.key['n']} images" if built.key["n"] else "statistics"
            click.echo(
                f"{name}: reference {built.key['source'][:16]} of {count} in "
                f"{folder or built.folder}, {extractor}"
            )
