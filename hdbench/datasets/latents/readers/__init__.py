"""Readers of collections: a folder's, and one for each suffix of files."""

from __future__ import annotations

from pathlib import PurePath

from hdbench.core.errors import UserError
from hdbench.core.files import check_plain
from hdbench.core.registry import Registry
from hdbench.datasets.latents.readers.base import Reader
from hdbench.datasets.latents.readers.cifar import Cifar
from hdbench.datasets.latents.readers.parquet import Parquet
from hdbench.datasets.latents.readers.tar import Tar
from hdbench.datasets.latents.readers.zipped import Zip

READERS = Registry("hdbench.readers", base=Reader, builtin=[Tar, Zip, Parquet, Cifar])


def reader_of(path: str) -> Reader:
    """The reader of a file's suffix; UserError for one that no reader has, and for no file."""
    check_plain(path)
    suffix = PurePath(path).suffix.lower().removeprefix(".")
    if suffix in READERS.load():
        return READERS[suffix]()
    known = "; ".join(f".{name} of {reader.title}" for name, reader in READERS.items())
    raise UserError(
        f"{path}: not read; a folder is, and files of one kind ({known}); fix data.source"
    )
