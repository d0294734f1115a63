"""Zip files as EDM's dataset_tool writes them: images or latents, stored, and a dataset.json."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from typing import BinaryIO

from hdbench.core.errors import UserError, reason
from hdbench.datasets.latents.readers.base import Contents, Item, Reader, labels_of_edm, paired

LABELS = "dataset.json"
LOCAL_HEADER = struct.Struct("<4s22x2H")  # signature, lengths of the name and of the extra field


class Zip(Reader):
    """Labels are those of the dataset.json at its top, or else as in a tar."""

    name = "zip"
    title = "EDM's dataset_tool"

    def contents(self, path: str, wanted: tuple[str, ...]) -> Contents:
        try:
            with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
                members = list(stored(path, file, archive.infolist()))
        except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
            raise UserError(f"{path}: not a whole zip ({reason(error)}); get it again") from None
        pairs = paired(path, members, wanted)
        labels = next((item for item in members if item.member == LABELS), None)
        if labels is None or ".cls" not in wanted:
            return pairs
        beside = labels_of_edm(
            f"{path}: {LABELS}", labels.read(), [item.member for item in pairs.items]
        )
        return pairs._replace(beside=beside)

    def check(self, path: str) -> None:
        if not zipfile.is_zipfile(path):
            raise UserError(f"{path} is not a zip")


def stored(path: str, file: BinaryIO, infos: list[zipfile.ZipInfo]) -> Iterator[Item]:
    """The members with their places in the file; UserError for a compressed or encrypted one.

    So no member is longer than the file, and each is read by itself.
    """
    for info in infos:
        if info.is_dir():
            continue
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise UserError(
                f"{path}: {info.filename}: compressed or encrypted; store the members as they are "
                "(zip -0), as EDM's dataset_tool does"
            )
        file.seek(info.header_offset)
        header = file.read(LOCAL_HEADER.size)
        if len(header) < LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
            raise zipfile.BadZipFile(f"no member at {info.header_offset}")
        _, name, extra = LOCAL_HEADER.unpack(header)
        offset = info.header_offset + LOCAL_HEADER.size + name + extra
        yield Item(path, info.filename, offset, info.file_size)
