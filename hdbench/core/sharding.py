"""FSDP2: parameters sharded over the ranks."""

from __future__ import annotations

from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
import torch.distributed as dist
from torch import Tensor, nn

from hdbench.core.distributed import group_of, rank


def shard(module: nn.Module, device: torch.device) -> None:
    """Shard the parameters over all ranks, in place: each block of a transformer, then the rest.

    A module of buffers alone stays whole on every rank.
    """
    if next(module.parameters(), None) is None:
        return
    from torch.distributed.device_mesh import DeviceMesh  # start-up: of sharded training alone
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = DeviceMesh.from_group(group_of(device) or dist.group.WORLD, device.type)
    for unit in (*getattr(module, "blocks", ()), module):
        fully_shard(unit, mesh=mesh, reshard_after_forward=True)
        _carry_tangents(unit)
    if hasattr(module, "features"):
        register_fsdp_forward_method(module, "features")


def _carry_tangents(module: nn.Module) -> None:
    """Take forward-mode tangents past FSDP2's hook, whose autograd function loses them."""
    held: list[list[Tensor | None]] = []

    def strip(module: nn.Module, arguments: tuple) -> tuple:
        duals = [
            forward_ad.unpack_dual(x) if isinstance(x, Tensor) else (x, None) for x in arguments
        ]
        held.append([tangent for _, tangent in duals])
        return tuple(primal for primal, _ in duals)

    def restore(module: nn.Module, arguments: tuple) -> tuple:
        return tuple(
            x if tangent is None else forward_ad.make_dual(x, tangent)
            for x, tangent in zip(arguments, held.pop(), strict=True)
        )

    module.register_forward_pre_hook(strip, prepend=True)
    module.register_forward_pre_hook(restore)


def to_local(tensor: Any) -> Tensor:
    """This rank's shard, sharing memory; a tensor that is not sharded as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def full_tensor(tensor: Any) -> Tensor:
    """All ranks' shards put together, on every rank; a tensor that is not sharded as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def on_rank_0(tensor: Any) -> Tensor:
    """As `full_tensor`, in the CPU memory of rank 0 alone and empty elsewhere."""
    if not hasattr(tensor, "full_tensor"):
        return tensor
    return tensor.full_tensor().cpu() if rank() == 0 else tensor.full_tensor().new_empty(0)


def distribute_like(tensor: Tensor, other: Any) -> Tensor:
    """A full tensor, the same on every rank, sharded as `other` of the same shape is, if it is."""
    if not hasattr(other, "full_tensor"):
        return tensor
    from torch.distributed.tensor import distribute_tensor  # start-up: of sharded training alone

    return distribute_tensor(
        tensor.to(other.device), other.device_mesh, other.placements, src_data_rank=None
    )
