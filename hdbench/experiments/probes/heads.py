"""Facts of heads.  To be removed: they belong to the heads, as `adaptive` and `title`."""

from __future__ import annotations

from hdbench.report.figures.sources import dagger


def is_adaptive(head: str) -> bool:
    """Whether it learns token weights."""
    return head.startswith("awd")


def label(head: str) -> str:
    """Its title, with the mark of reconstructions."""
    return head.replace("awd_", "AWD-") + dagger(head)
