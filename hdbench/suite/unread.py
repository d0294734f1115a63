"""What of a configuration no training stage reads."""

from __future__ import annotations

from hdbench.core.config import C, Config
from hdbench.methods.base import Objective, Pairs
from hdbench.methods.distribution.gan import GanSettings


def without_unread(config: C) -> C:
    """A configuration with what no training stage reads left at its default.

    That is a head's settings where there is none, or its method does not use them, and how pairs
    are made: in a stage of their own.
    """
    changes = {}
    for field in type(config).model_fields:
        value = getattr(config, field)
        if isinstance(config, Objective) and (head := config.head()) and head[1] is value:
            unread = config.unread_of_head()
            kept = {k: getattr(value, k) for k in type(value).model_fields if k not in unread}
            changes[field] = GanSettings() if head[0] == "none" else type(value)(**kept)
        elif isinstance(value, Pairs):
            changes[field] = Pairs()
        elif isinstance(value, Config):
            changes[field] = without_unread(value)
    return config.model_copy(update=changes)
