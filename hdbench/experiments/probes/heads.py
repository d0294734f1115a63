"""Heads as tables and figures name them."""

from __future__ import annotations

from hdbench.methods.discriminators import HEADS
from hdbench.report.columns import dagger


def is_adaptive(head: str) -> bool:
    """Whether it learns token weights."""
    return HEADS[head].adaptive


def label(head: str) -> str:
    """Its title, with the mark of reconstructions."""
    return HEADS[head].title + dagger(head)
