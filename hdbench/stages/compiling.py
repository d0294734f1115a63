"""torch.compile of what costs time: losses as a whole, or the blocks of a network."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hdbench.core import distributed
from hdbench.methods.base import Batch, Loss
from hdbench.networks.base import TokenNetwork
from hdbench.networks.config import TransformerConfig
from hdbench.stages.context import Context

BACKEND: Any = "inductor"  # of torch.compile


def compiles_losses(context: Context) -> bool:
    """Whether each update's loss is compiled as a whole, forward-mode passes included.

    Not with prompts, which the host gathers, and over several ranks neither one in which these
    exchange sums nor one of sharded networks, which gather their weights inside.
    """
    training = context.config.training
    if not (training.compile and compiler_is_there(context.device.type)):
        return False  # as of stages without a network of their own
    alone = distributed.world_size() == 1
    apart = context.sharding == "none" and not training.objective.exchanges
    return isinstance(context.config.network, TransformerConfig) and (alone or apart)


def compiled(loss: Callable[[Batch], Loss]) -> Callable[[Batch], Loss]:
    """The loss as one graph for each shape of its batch."""
    _prepare()
    return torch.compile(loss, dynamic=False, backend=BACKEND)


def compile_blocks(network: TokenNetwork) -> None:
    """Change the network: its blocks share one graph for each shape of their tokens."""
    _prepare()
    for block in network.blocks:
        block.compile(dynamic=False, backend=BACKEND)


def _prepare() -> None:
    torch.use_deterministic_algorithms(True)  # the compiler too, whose import others are spared
    torch._dynamo.config.trace_autograd_ops = True  # a GAN's gradient is taken inside a loss


def with_rows(
    rows: int, sampler: Callable[[Tensor, Tensor], Tensor]
) -> Callable[[Tensor, Tensor], Tensor]:
    """A sampler that is only asked for so many rows, and whose surplus of a last batch is dropped.

    It takes noises (noises, B, C, H, W) and labels (B,), B at most `rows`, to (B, C, H, W).
    """

    def sample(eps: Tensor, c: Tensor) -> Tensor:
        index = torch.arange(rows, device=c.device).clamp(max=len(c) - 1)
        return sampler(eps[:, index], c[index])[: len(c)]

    return sample


@functools.cache
def compiler_is_there(device: str) -> bool:
    """Whether torch.compile has what it needs for a type of device; if not, says so once."""
    from torch._inductor import cpp_builder  # start-up: a compiler
    from torch.utils._triton import has_triton  # start-up: a compiler

    try:
        there = has_triton() if device == "cuda" else bool(cpp_builder.get_cpp_compiler())
    except (RuntimeError, OSError):
        there = False
    if not there:
        missing = "Triton" if device == "cuda" else "C++ compiler"
        print(f"compile: no {missing} is there; goes on without, slower", file=sys.stderr)
    return there
