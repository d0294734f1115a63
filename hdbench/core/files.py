"""Files: digests, atomic writes, canonical JSON."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from hdbench.core.errors import UserError

MANIFEST = "manifest.json"


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, text: str) -> None:
    """Text into a file that is either the old one or the new one, never half of it."""
    write_together({path: text.encode()})


def write_together(contents: dict[Path, bytes]) -> None:
    """Files of which none is ever half written: all of them or, if the file system can, none."""
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}") for path in contents}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary[path].write_bytes(content)
        for path in contents:
            os.replace(temporary[path], path)
    except OSError as error:
        for unfinished in temporary.values():
            with suppress(OSError):
                unfinished.unlink()
        raise UserError(
            f"{next(iter(contents))}: cannot be written ({error.strerror}); choose another folder"
        ) from None


def list_files(folder: Path) -> Iterator[Path]:
    """The files under a folder but hidden ones; UserError for what would be left out silently."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})")

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            if (link := Path(place, name)).is_symlink():
                raise UserError(
                    f"{link}: a link to a folder, which is not followed; put the folder itself "
                    "there, or links to files"
                )
        yield from (Path(place, name) for name in names if not name.startswith("."))


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces, the form that is hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest_of(value: Any) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]
