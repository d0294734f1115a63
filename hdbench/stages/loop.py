"""The training loop: checkpoints, interruption and resume."""

from __future__ import annotations

import json
import time
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hdbench.core import distributed
from hdbench.core.errors import Interrupted, UserError
from hdbench.core.files import removed_on_failure, settle
from hdbench.core.progress import Progress, interruptible
from hdbench.stages.trainer import Trainer

CHECKPOINT = "checkpoint.safetensors"


def save_checkpoint(path: Path, trainer: Trainer, spent: dict[str, float]) -> None:
    """One safetensors file, replaced atomically: tensors, and step and cost in its header.

    All ranks call it; rank 0 writes.
    """
    state = trainer.state()
    if distributed.rank() == 0:
        temporary = path.with_suffix(".tmp")
        header = {"step": str(trainer.step), "spent": json.dumps(spent)}
        tensors = {name: value.contiguous() for name, value in state.items()}
        with removed_on_failure(temporary):
            save_file(tensors, temporary, metadata=header)
            settle(temporary)
            temporary.replace(path)


def load_checkpoint(path: Path, trainer: Trainer) -> dict[str, float]:
    """Restore the trainer; what the runs so far have spent.

    UserError for a file that is not a checkpoint.
    """
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata()
        trainer.load_state(load_file(path), int(header["step"]))
        return json.loads(header["spent"])
    except Exception as error:  # safetensors and PyTorch have errors of their own for each damage
        raise UserError(
            f"{path}: not a usable checkpoint ({error}); delete it to start this stage afresh"
        ) from None


def run(
    trainer: Trainer, work, label: str, checkpoint_seconds: float, begun: Path | None = None
) -> None:
    """Train to the end of the stage, from the checkpoint in `work` if there is one, else from
    `begun`, the last of the stage that this one continues, whose cost is that stage's.

    Raises Divergence, Interrupted.
    """
    checkpoint = work.path / CHECKPOINT
    if distributed.from_rank_0(checkpoint.exists):
        work.spent.update(
            distributed.call_on_all_ranks(lambda: load_checkpoint(checkpoint, trainer))
        )
    elif begun is not None:
        distributed.call_on_all_ranks(lambda: load_checkpoint(begun, trainer))
    trainer.check_replicas()
    steps = trainer.training.span.stop
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
                save_checkpoint(checkpoint, trainer, work.cost())
                saved = time.perf_counter()
            if stop:
                raise Interrupted(
                    f"{label}: stopped at step {trainer.step} of {steps}; the same command goes "
                    "on from there"
                )
    last = {key: row[-1] for key, row in trainer.history.items() if key.endswith("/loss")}
    progress(trainer.step, ", ".join(f"{key} {value:.3g}" for key, value in last.items()))
