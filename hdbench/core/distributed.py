"""Several processes (ranks) on one stage: how they meet and combine their tensors.

The launcher (torchrun, SLURM) sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.
Decisions and CPU tensors travel by gloo, whose connections break at once when a rank dies; CUDA
tensors by NCCL.  With one process there is no group, and every function here is the identity.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from hdbench.core.errors import Ended, LostRank, UserError, first_sentence

T = TypeVar("T")
# rank 0 may check parents, wait for a lock or write a checkpoint alone for long
GLOO_TIMEOUT = timedelta(days=2)
# NCCL does not always notice a dead rank; longer than a checkpoint takes
NCCL_TIMEOUT = timedelta(minutes=30)
# how long ranks wait for one another at the start, by default 300
RENDEZVOUS_SECONDS = "HDBENCH_MEETING_SECONDS"
# elements of one flat all-reduce, so that it needs little memory beside the gradients
BUCKET = 2**26
_nccl: Any = None  # the group of CUDA tensors; that of CPU tensors is PyTorch's default


class Place(NamedTuple):
    """A process among `world_size`, and its number on its own machine."""

    rank: int
    world_size: int
    local_rank: int


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """Where the launcher put this process; (0, 1, 0) without one; UserError for half of one."""
    if not environment.keys() & {"RANK", "WORLD_SIZE"}:
        return Place(0, 1, 0)

    def integer(name: str, low: int, high: float, default: int | None = None) -> int:
        text = environment.get(name, "" if default is None else str(default))
        if not text:
            known = "RANK" if environment.get("RANK") else "WORLD_SIZE"
            raise _wrong(
                f"{name} is not set, though {known} is: several processes need RANK, WORLD_SIZE, "
                "MASTER_ADDR and MASTER_PORT, one process none of them"
            )
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            limit = f"at least {low}" if high == float("inf") else f"{low} to {high}"
            raise _wrong(f"{name} = {text}: must be an integer, {limit}")
        return int(text)

    world_size = integer("WORLD_SIZE", 1, float("inf"))
    here = Place(
        integer("RANK", 0, world_size - 1),
        world_size,
        integer("LOCAL_RANK", 0, float("inf"), default=0),
    )
    if world_size > 1:
        integer("MASTER_PORT", 1, 65535)
        if not environment.get("MASTER_ADDR"):
            raise _wrong(
                f"MASTER_ADDR is not set, though WORLD_SIZE = {world_size}: "
                "it is the host of rank 0"
            )
    return here


def number(name: str, default: float) -> float:
    """A number of the environment, not negative; UserError for anything else."""
    try:
        value = float(os.environ.get(name) or default)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise UserError(f"{name} = {os.environ[name]}: must be a number, 0 or more")
    return value


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def ranks(device: torch.device) -> Iterator[None]:
    """Inside, the ranks are connected.  LostRank if they do not meet, or if another ends early."""
    global _nccl
    here = place()
    if here.world_size == 1:
        yield
        return
    seconds = number(RENDEZVOUS_SECONDS, 300)
    try:
        store, _, _ = next(dist.rendezvous("env://", timeout=timedelta(seconds=seconds)))
        store.set(f"hdbench/here/{here.rank}", "")
        store.wait(
            [f"hdbench/here/{other}" for other in range(here.world_size)],
            timedelta(seconds=seconds),
        )
        dist.init_process_group(
            "gloo", store=store, rank=here.rank, world_size=here.world_size, timeout=GLOO_TIMEOUT
        )
    except (RuntimeError, OSError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        text = (
            f"{here.world_size} ranks did not meet at {address} within {seconds:g} seconds "
            f"({first_sentence(error)}); start them all with one WORLD_SIZE, MASTER_ADDR and "
            "MASTER_PORT"
        )
        raise _alone(LostRank(text)) from None  # a late node is worth another try
    try:
        if device.type == "cuda":
            _nccl = dist.new_group(backend="nccl", timeout=NCCL_TIMEOUT)
        yield
    except Ended as error:
        error.alone = not error.agreed
        raise
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)):
            raise
        text = (
            f"the connection to another rank broke ({first_sentence(error)}); the same command "
            "goes on from the last checkpoint"
        )
        raise _alone(LostRank(text)) from None
    finally:
        _nccl = None
        dist.destroy_process_group()


def _wrong(text: str) -> Ended:
    return _alone(UserError(text))


def _alone(error: Ended) -> Ended:
    error.alone = True
    return error


def group_of(device: torch.device) -> dist.ProcessGroup | None:
    return _nccl if device.type == "cuda" else None


def average_(tensors: Sequence[Tensor], share: float) -> None:
    """Replace each tensor by the sum over ranks of `share` times it, in flat buckets.

    `share` is this rank's part of the global batch; all add up to 1.  Tensors have one dtype and
    device, and on every rank the same shapes.
    """
    start = 0
    while start < len(tensors):
        stop = start + 1
        size = tensors[start].numel()
        while stop < len(tensors) and size + tensors[stop].numel() <= BUCKET:
            size += tensors[stop].numel()
            stop += 1
        bucket = tensors[start:stop]
        start = stop
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket]).mul_(share)
        dist.all_reduce(flat, group=group_of(flat.device))
        means = flat.split([tensor.numel() for tensor in bucket])
        for tensor, mean in zip(bucket, means, strict=True):
            tensor.copy_(mean.view_as(tensor))


def global_mean(x: Tensor) -> Tensor:
    """Mean over x's elements on all ranks, a scalar without gradient; x.mean() for one rank."""
    mean = x.mean()
    if world_size() == 1:
        return mean
    total = torch.stack(
        [mean.detach().double() * x.numel(), mean.new_tensor(x.numel(), dtype=torch.float64)]
    )
    dist.all_reduce(total, group=group_of(total.device))
    return (total[0] / total[1]).to(mean.dtype)


def share_of_batch(rows: int) -> float:
    """This rank's part of all ranks' rows, in [0, 1]: the weight of its mean in that over all."""
    if world_size() == 1:
        return 1.0
    total = torch.tensor([rows], dtype=torch.float64)
    dist.all_reduce(total)
    return rows / float(total)


def any_of(*flags: bool) -> list[bool]:
    """Each flag, true on all ranks if it is on any."""
    if world_size() == 1:
        return list(flags)
    total = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(total, dist.ReduceOp.MAX)
    return total.bool().tolist()


def all_equal(number: int) -> bool:
    """Whether all ranks have this number (of 63 bits)."""
    if world_size() == 1:
        return True
    ends = torch.tensor([number, -number])
    dist.all_reduce(ends, dist.ReduceOp.MAX)
    return ends[0].item() == -ends[1].item()


def call_on_all_ranks(function: Callable[[], T]) -> T:
    """This rank's value of the function; an `Ended` that it raises on any rank is raised on all."""
    if world_size() == 1:
        return function()
    value: Any = None
    error = None
    try:
        value = function()
    except Ended as ended:
        error = type(ended), str(ended)
    for failure in gather(error):
        if failure is not None:
            ended = failure[0](failure[1])
            ended.agreed = True
            raise ended
    return value


def from_rank_0(function: Callable[[], T]) -> T:
    """The function's value on rank 0, which alone calls it; its `Ended` is raised on every rank."""
    box: list[Any] = [call_on_all_ranks(lambda: function() if rank() == 0 else None)]
    if world_size() > 1:
        dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: T) -> list[T]:
    """Every rank's value, by rank, on every rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def concatenate(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """On rank 0 all ranks' CPU rows (counts[rank], ...) in order; on the others their own."""
    if world_size() == 1 or rank():
        if rank() and len(rows):
            dist.send(rows, 0)
        return rows
    gathered = rows.new_empty(sum(counts), *rows.shape[1:])
    blocks = gathered.split(list(counts))
    blocks[0].copy_(rows)
    for source, block in enumerate(blocks):
        if source and len(block):
            dist.recv(block, source)
    return gathered
