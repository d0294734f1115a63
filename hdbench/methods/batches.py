"""The batch of an update inside another's: its tensors under names that start with a prefix."""

from __future__ import annotations

from hdbench.methods.base import Batch


def prefixed(prefix: str, b: Batch) -> Batch:
    """`prefix/name` for every name of the inner batch."""
    return {f"{prefix}/{name}": drawn for name, drawn in b.items()}


def under(prefix: str, b: Batch) -> Batch:
    """Inverse of `prefixed`, of a batch that has other tensors too."""
    start = f"{prefix}/"
    return {name.removeprefix(start): drawn for name, drawn in b.items() if name.startswith(start)}
