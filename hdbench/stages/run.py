"""Run one stage of a plan: find it, skip it if it is done, compute it, publish it."""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path

import torch

from hdbench.core import distributed
from hdbench.core.config import nearest
from hdbench.core.errors import OutOfMemory, UserError
from hdbench.datasets import DATASETS
from hdbench.stages import artifact
from hdbench.suite.plan import Plan
from hdbench.suite.stage import Stage

SPLIT = (
    "classifier",
    "clip",
    "teacher",
    "pairs",
    "trajectory",
    "refine",
    "sample",
)  # kinds of stage that several ranks share


def find_stage(
    plan: Plan, kind: str, arm: str | None, seed: int | None, steps: int | None
) -> Stage:
    """The stage of this kind on the chain of an arm and a seed; of the first seed and step count where not given."""
    shared = [
        stage
        for stage in plan.stages.values()
        if stage.kind == kind and kind in ("data", "classifier", "clip", "text", "reference")
    ]
    if shared:
        return shared[0]
    if arm is None and kind == "teacher":
        arm = next((row.arm for row in plan.rows if "teacher" in row.stages), None)
    if arm is None:
        raise UserError(
            f"say which stage: --arm NAME or --id ID; arms of {plan.name}: {', '.join(plan.arms)}"
        )
    if arm not in plan.arms:
        raise UserError(f"--arm = {arm!r}: unknown arm" + nearest(arm, plan.arms))
    seed = plan.suite.seeds[0] if seed is None else seed
    if seed not in plan.suite.seeds:
        raise UserError(
            f"--seed = {seed}: suite {plan.name} has the seeds {', '.join(map(str, plan.suite.seeds))}"
        )
    rows = [row for row in plan.rows if row.arm == arm and row.seed in (seed, None)]
    rows = [row for row in rows if steps in (None, row.steps)]
    if not rows:
        raise UserError(
            f"--steps = {steps}: arm {arm} samples with {', '.join(map(str, plan.arms[arm].steps))} steps"
        )
    if kind not in rows[0].stages:
        raise UserError(
            f"arm {arm} has no {kind} stage; its stages are {', '.join(rows[0].stages)}"
        )
    return plan.stage(rows[0].stages[kind])


def is_split(stage: Stage) -> bool:
    """Whether ranks share the stage's work: training, sampling, and the encoding of large data and of their prompts."""
    return (
        stage.kind in SPLIT
        or stage.kind == "data"
        and hasattr(DATASETS[stage.config.dataset.name], "encode")
        or stage.kind == "text"
        and "clip" not in stage.parents
    )


def label_of(plan: Plan, stage: Stage) -> str:
    """What progress lines call a stage: kind, label and the arms that need it."""
    arms = list(dict.fromkeys(row.arm for row in plan.rows if stage.id in row.stages.values()))
    users = "" if not arms else f" [{arms[0]}]" if len(arms) == 1 else f" [{len(arms)} arms]"
    return f"{stage.kind} {stage.label}{users}"


def claim(work: artifact.Work, results: Path, held: ExitStack) -> bool:
    """Whether there is work to do, its lock then `held`; UserError for what must be mended first."""
    stage = work.stage
    artifact.allocation()
    if artifact.exists(results, stage.id):
        artifact.load(results, stage.id)
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
            f"{stage.id}: its batch of {batch} cannot be split over {distributed.world_size()} processes; start "
            f"at most {batch}"
        )
    held.enter_context(work.locked())
    return not artifact.exists(results, stage.id)


def run_stage(
    plan: Plan,
    stage: Stage,
    results: Path,
    device: torch.device,
    checkpoint_seconds: float,
    sharding: str = "none",
) -> None:
    """Compute and publish a stage; does nothing if its artifact is there and sound.

    Of several ranks, 0 alone looks, holds the lock and publishes; it computes alone what is not split.
    """
    from hdbench.stages import STAGES
    from hdbench.stages.context import Context

    ranks = distributed.world_size() if is_split(stage) else 1
    work = artifact.Work(results, stage, device, ranks)
    label = label_of(plan, stage)
    with ExitStack() as held:
        if (
            not distributed.from_rank_0(lambda: claim(work, results, held))
            or distributed.rank() >= ranks
        ):
            return
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
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(
                f"out of memory at {label} ({distributed.reason(error)}); ask for more memory or lower the "
                "batch size"
            ) from None
        work.publish(names, **facts)


def is_out_of_memory(error: Exception) -> bool:
    """Python's and NumPy's error, PyTorch's for a GPU, and the words of its CPU allocator."""
    return isinstance(
        error, (MemoryError, torch.OutOfMemoryError)
    ) or "can't allocate memory" in str(error)
