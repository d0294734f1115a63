"""What a suite says of its tables."""

from __future__ import annotations

from typing import Annotated

from pydantic import Discriminator, Field, Tag

from hdbench.core.config import Config


class TableOptions(Config):
    """What a suite says of a table that differs from the table's defaults."""

    caption: str | None = None
    rows: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="these arms, in this order, in place of the default ones",
    )
    also: tuple[str, ...] = Field(default=(), description="arms beside the default ones")
    without: tuple[str, ...] = Field(
        default=(), description="arms of the default ones that are left out"
    )
    against: tuple[str, ...] | None = Field(
        default=None, description="arms to which paired differences are shown"
    )


Tables = Annotated[
    Annotated[tuple[str, ...], Tag("list")]
    | Annotated[dict[str, TableOptions | None], Tag("mapping")],
    Discriminator(lambda value: "mapping" if isinstance(value, dict) else "list"),
]
