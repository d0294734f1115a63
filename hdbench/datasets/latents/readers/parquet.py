"""Parquet files as the Hugging Face hub has them: a column of images, and labels or captions."""

from __future__ import annotations

from functools import lru_cache
from threading import Lock
from typing import Any, NamedTuple

from hdbench.core.errors import UserError, reason
from hdbench.datasets.latents.readers.base import Contents, Reader

IMAGES = ("image", "img", "jpg", "png", "webp")
LABELS = ("label", "labels", "fine_label", "cls")
CAPTIONS = ("prompt", "caption", "text", "txt")
LARGEST = 2**32  # bytes of a row group, which is read at once
LOCK = Lock()


class Row(NamedTuple):
    """A row's image; those of one row group are read together."""

    file: str
    column: str
    group: int
    row: int

    def __str__(self) -> str:
        return f"{self.file}: {self.member}"

    @property
    def member(self) -> str:
        return f"row {self.row} of row group {self.group}"

    @property
    def suffix(self) -> str:
        return ""

    def read(self) -> bytes:
        """UserError where the row group cannot be read."""
        with LOCK:  # else every thread reads the group
            images = images_of(self.file, self.column, self.group)
        return images[self.row].as_py() or b""


class Parquet(Reader):
    """The columns are found by the names that they have in public data sets."""

    name = "parquet"
    title = "the Hugging Face hub"

    def contents(self, path: str, wanted: tuple[str, ...]) -> Contents:
        file = opened(path)
        names = file.schema_arrow.names
        image = image_column(path, file)
        if ".cls" in wanted:
            suffix, text = ".cls", column_of(path, "labels", LABELS, names)
        elif wanted:
            suffix, text = ".txt", column_of(path, "captions", CAPTIONS, names)
        else:
            suffix, text = "", None
        items: list[Any] = []
        beside: list[dict[str, bytes]] = []
        for group in range(file.num_row_groups):
            about = file.metadata.row_group(group)
            if about.total_byte_size > LARGEST:
                raise UserError(
                    f"{path}: row group {group} has {about.total_byte_size:.1e} bytes, too many to "
                    "be read at once; write it with some hundred rows in each"
                )
            items += (Row(path, image, group, row) for row in range(about.num_rows))
            if text is None:
                beside += ({} for _ in range(about.num_rows))
                continue
            values = column_in(path, file, group, text)
            beside += (
                {} if value is None else {suffix: str(value).encode()}
                for value in values.to_pylist()
            )
        return Contents(items, beside)

    def check(self, path: str) -> None:
        image_column(path, opened(path))


def opened(path: str) -> Any:
    """The file of pyarrow; UserError for what is no parquet."""
    import pyarrow.parquet  # optional: pyarrow

    try:
        return pyarrow.parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: not a whole parquet file ({reason(error)}); get it again"
        ) from None


def image_column(path: str, file: Any) -> str:
    """The column of bytes of images: `image`, or `image.bytes` of the hub's pairs with a path."""
    name = column_of(path, "images", IMAGES, file.schema_arrow.names)
    kind = file.schema_arrow.field(name).type
    if str(kind).startswith("struct<") and kind.get_field_index("bytes") >= 0:
        return f"{name}.bytes"
    if str(kind) in ("binary", "large_binary"):
        return name
    raise UserError(f"{path}: its column {name} is of {kind}, not of images as bytes; convert it")


def column_of(path: str, what: str, known: tuple[str, ...], names: list[str]) -> str:
    """The first known name of a column that is there; UserError for none."""
    for name in known:
        if name in names:
            return name
    raise UserError(
        f"{path}: has no column of {what} ({', '.join(known)}), its columns are "
        f"{', '.join(names)[:200]}; rename one"
    )


@lru_cache(maxsize=2)
def images_of(path: str, column: str, group: int) -> Any:
    """The contents of a row group's images, as pyarrow's array of bytes."""
    return column_in(path, opened(path), group, column)


def column_in(path: str, file: Any, group: int, column: str) -> Any:
    """One column of a row group; UserError where it is broken."""
    try:
        values = file.read_row_group(group, columns=[column]).column(0).combine_chunks()
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: row group {group} cannot be read ({reason(error)}); get it again"
        ) from None
    return values.field("bytes") if column.endswith(".bytes") else values
