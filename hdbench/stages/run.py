"""Run one stage: skip it if it is done, compute it, publish it."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from hdbench.core import distributed
from hdbench.core.errors import Ended, OutOfMemory, UserError, first_sentence, of_system
from hdbench.core.provenance import SHIPPED
from hdbench.stages import STAGES, artifact
from hdbench.stages.context import Context
from hdbench.stages.shipped import take
from hdbench.stages.sources import (
    differences,
    inputs_of,
    manifests_of,
    note_sources,
    refuse_changed_inputs,
    resumption,
    sources_of,
)
from hdbench.suite.stage import Stage

# kinds of stage that several ranks share
SPLIT = ("classifier", "clip", "autoencoder", "teacher", "pairs", "trajectory", "refine", "sample")


def is_split(stage: Stage) -> bool:
    """Whether ranks share its work: training, sampling, encoding large data and their prompts."""
    return (
        stage.kind in SPLIT
        or stage.kind == "data"
        and stage.config.dataset.stored == "latents"
        or stage.kind == "text"
        and "clip" not in stage.parents
    )


def label_of(stage: Stage, arms: Sequence[str]) -> str:
    """What progress lines call a stage: kind, label and the arms that need it."""
    users = "" if not arms else f" [{arms[0]}]" if len(arms) == 1 else f" [{len(arms)} arms]"
    return f"{stage.kind} {stage.label}{users}"


def claim(work: artifact.Work, results: Path, held: ExitStack, shipped: Path | None) -> bool:
    """Whether there is work to do, its lock then `held`; UserError for what must be fixed first.

    A stage that is in the folder `shipped` is taken from there, which leaves none.
    """
    stage = work.stage
    artifact.allocation()  # refuses what is no number
    if artifact.exists(results, stage.id):
        path, manifest = artifact.load(results, stage.id)
        refuse_changed_inputs(results, [stage])
        print(f"done already: {path}", file=sys.stderr)
        sentences = differences(results, stage, manifest)
        if shipped is None and "shipped" in manifest:
            sentences.append(
                f"{stage.id} was taken as shipped; --again --teachers trained trains it here"
            )
        for sentence in sentences:
            print(sentence, file=sys.stderr, flush=True)
        return False
    for parent in stage.parents.values():
        artifact.load(results, parent)
    batch = stage.training.batch if stage.training else math.inf
    if stage.kind == "clip" and distributed.world_size() > 1:
        raise UserError(
            f"{stage.id}: a CLIP compares the rows of a whole batch; train it with one process"
        )
    if is_split(stage) and batch < distributed.world_size():
        raise UserError(
            f"{stage.id}: its batch of {batch} cannot be split over {distributed.world_size()} "
            f"processes; start at most {batch}"
        )
    held.enter_context(work.locked())
    if artifact.exists(results, stage.id) or shipped and take(work, results, shipped):
        return False
    for sentence in resumption(stage, work.path):
        print(sentence, file=sys.stderr, flush=True)
    note_sources(stage, work.path)
    return True


def run_stage(
    stage: Stage,
    results: Path,
    device: torch.device,
    checkpoint_seconds: float,
    sharding: str = "none",
    arms: Sequence[str] = (),
    shipped: Path | None = SHIPPED,
) -> None:
    """Compute and publish a stage, unless its artifact is there and sound, or is `shipped`.

    Rank 0 alone looks, holds the lock, publishes, and computes what is not split.
    """
    ranks = distributed.world_size() if is_split(stage) else 1
    work = artifact.Work(results, stage, device, ranks)
    label = label_of(stage, arms)
    with ExitStack() as held:
        claimed = distributed.from_rank_0(lambda: claim(work, results, held, shipped))
        if not claimed or distributed.rank() >= ranks:
            return
        # before they are read
        inputs = inputs_of(stage) if distributed.rank() == 0 else {}
        context = Context(
            stage=stage,
            results=results,
            work=work,
            label=label,
            device=device,
            checkpoint_seconds=checkpoint_seconds,
            sharding=sharding,
        )
        try:
            names, facts = STAGES[stage.kind](context)
            work.publish(
                names,
                **facts,
                sources=sources_of(stage),
                inputs=inputs,
                parent_manifests=manifests_of(results, stage),
            )
        except Ended:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise OutOfMemory(
                    f"out of memory at {label} ({first_sentence(error)}); ask for more memory or "
                    "lower the batch size"
                ) from None
            if (refused := of_system(error, work.path)) is None:
                raise
            raise refused from None


def is_out_of_memory(error: Exception) -> bool:
    """Python's and NumPy's error, PyTorch's for a GPU, and the words of its CPU allocator."""
    is_named = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return is_named or "can't allocate memory" in str(error)
