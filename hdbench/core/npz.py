"""Arrays of npz files, memory-mapped where the archive stores them uncompressed."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from hdbench.core.errors import UserError, reason


def read_array(file: Path, name: str) -> np.ndarray | None:
    """An array of an npz file, mapped if possible; None without it, UserError for a broken file."""
    try:
        with zipfile.ZipFile(file) as archive:
            if f"{name}.npy" not in archive.namelist():
                return None
            entry = archive.getinfo(f"{name}.npy")
            with archive.open(entry) as stream:
                version = np.lib.format.read_magic(stream)
                reader = (
                    np.lib.format.read_array_header_1_0
                    if version == (1, 0)
                    else np.lib.format.read_array_header_2_0
                )
                shape, fortran, dtype = reader(stream)
                header = stream.tell()
                stored = entry.compress_type == zipfile.ZIP_STORED and not dtype.hasobject
                # to the end, where the archive's checksum is compared
                while stored and stream.read(1 << 20):
                    pass
            if stored:
                # of name and extra field; the central directory's may differ
                with file.open("rb") as raw:
                    raw.seek(entry.header_offset + 26)
                    lengths = np.frombuffer(raw.read(4), "<u2").tolist()
                start = entry.header_offset + 30 + sum(lengths) + header
                return np.memmap(file, dtype, "r", start, shape, "F" if fortran else "C")
        with np.load(file, allow_pickle=False) as arrays:
            return arrays[name]
    except Exception as error:  # of zipfile, of each compression, of Python's tokenizer (headers)
        raise _unreadable(file, error) from None


def array_names(file: Path) -> frozenset[str]:
    """The names of an npz file's arrays; UserError for a broken file."""
    try:
        with zipfile.ZipFile(file) as archive:
            return frozenset(name.removesuffix(".npy") for name in archive.namelist())
    except Exception as error:  # of zipfile, and of files
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: Exception) -> UserError:
    return UserError(f"{file}: not a readable npz file ({reason(error)}); make it again")
