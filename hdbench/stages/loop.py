"""The training loop: checkpoints, interruption and resume."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hdbench.core import distributed
from hdbench.core.errors import Interrupted, UserError
from hdbench.core.progress import Progress, interruptible
from hdbench.stages.trainer import Trainer

CHECKPOINT = "checkpoint.safetensors"


def save_checkpoint(
    path: Path, trainer: Trainer, spent: dict[str, float], sources: Mapping[str, str]
) -> None:
    """One safetensors file, replaced atomically: tensors, and step, cost and digests of sources in
    its header.

    All ranks call it, rank 0 writes.
    """
    state = trainer.state()
    if distributed.rank() == 0:
        temporary = path.with_suffix(".tmp")
        header = {"step": str(trainer.step), "spent": json.dumps(spent)}
        header["sources"] = json.dumps(dict(sources))
        tensors = {name: value.contiguous() for name, value in state.items()}
        save_file(tensors, temporary, metadata=header)
        temporary.replace(path)


def load_checkpoint(path: Path, trainer: Trainer) -> tuple[dict[str, float], dict[str, str]]:
    """Restore the trainer; what the runs so far have spent, and the digests of the sources that
    made it.

    UserError for a file that is not a checkpoint.
    """
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata()
        trainer.load_state(load_file(path), int(header["step"]))
        return json.loads(header["spent"]), json.loads(header.get("sources", "{}"))
    except Exception as error:  # safetensors and PyTorch have errors of their own for each damage
        raise UserError(
            f"{path}: not a usable checkpoint ({error}); delete it to start this stage afresh"
        ) from None


def resume(
    trainer: Trainer, checkpoint: Path, label: str, sources: Mapping[str, str]
) -> dict[str, float]:
    """Continue from the checkpoint, with a line about it; what the runs so far have spent."""
    spent, made_by = distributed.call_on_all_ranks(lambda: load_checkpoint(checkpoint, trainer))
    changed = sorted(name for name in sources if made_by.get(name, sources[name]) != sources[name])
    if distributed.rank() == 0:
        message = f"{label}: goes on from step {trainer.step} of {trainer.training.steps}"
        if changed:
            message += f", trained by an earlier {', '.join(changed)}; --again starts it anew"
        print(message, file=sys.stderr, flush=True)
    return spent


def run(
    trainer: Trainer,
    work,
    label: str,
    checkpoint_seconds: float,
    sources: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Train to the end, from the checkpoint in `work` if there is one.

    `sources` are SHA-256 by file of the code that decides the result.  Raises Divergence,
    Interrupted.
    """
    checkpoint = work.path / CHECKPOINT
    if distributed.from_rank_0(checkpoint.exists):
        work.spent.update(resume(trainer, checkpoint, label, sources))
    trainer.check_replicas()
    steps = trainer.training.planned_steps
    progress = Progress(label, steps)
    saved = time.perf_counter()
    with interruptible() as interrupted:
        while trainer.step < steps:
            progress(trainer.step)
            trainer.train_step()
            due = distributed.rank() == 0 and time.perf_counter() - saved >= checkpoint_seconds
            # one signal to one rank stops all after the same step
            stop, due = distributed.any_of(interrupted(), due)
            if stop or due or trainer.step == steps:
                trainer.read_scalars()
                trainer.check_weights()
                trainer.check_replicas()
                save_checkpoint(checkpoint, trainer, work.cost(), sources)
                saved = time.perf_counter()
            if stop:
                raise Interrupted(
                    f"{label}: stopped at step {trainer.step} of {steps}; "
                    "the same command goes on from there"
                )
    last = {key: row[-1] for key, row in trainer.history.items() if key.endswith("/loss")}
    progress(trainer.step, ", ".join(f"{key} {value:.3g}" for key, value in last.items()))
