"""What a command writes where a user says: nothing that hdbench did not write itself is replaced.

Beside the files of a folder `.hdbench` has a line for each that was written there, its SHA-256 and
its name, as sha256sum has them.  A file is replaced if it still is what such a line says, or would
not change; in the run's own folder, `--results`, also one of which no line speaks.  Another file,
or one that the command reads, is replaced with `--force` alone.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hdbench.core.errors import UserError
from hdbench.core.files import sha256, write_together

RECORD = ".hdbench"
TEXT: Any = {"encoding": "utf-8", "errors": "surrogateescape"}  # of any name that a system has
ADVICE = "name another place, or replace it by --force"


@dataclass(frozen=True)
class Command:
    """What is known of the command that writes: what it reads, and where its run's folder is."""

    force: bool = False
    inputs: tuple[Path, ...] = ()
    results: Path | None = None


_UNKNOWN = Command()
_COMMAND: ContextVar[Command] = ContextVar("command")


@contextmanager
def writing(command: Command) -> Iterator[None]:
    """What is written inside is written by this command."""
    token = _COMMAND.set(command)
    try:
        yield
    finally:
        _COMMAND.reset(token)


def forced() -> bool:
    """Whether the command may replace what is not its own."""
    return _COMMAND.get(_UNKNOWN).force


def check_outputs(paths: Iterable[Path], contents: Mapping[Path, bytes] | None = None) -> None:
    """UserError for the first path at which something lies that may not be replaced.

    `contents` are those that will lie there, if they are known.
    """
    command = _COMMAND.get(_UNKNOWN)
    for path in paths if not command.force else ():
        if not os.path.lexists(path) or _is_same(path, (contents or {}).get(path)):
            continue
        if path.exists() and any(
            source.exists() and path.samefile(source) for source in command.inputs
        ):
            raise UserError(f"{path}: is what this command reads; {ADVICE}")
        if not path.is_file() or not is_ours(path, command.results):
            raise UserError(
                f"{path}: is there, and hdbench has not written it, or it was changed since; "
                f"{ADVICE}"
            )


def _is_same(path: Path, content: bytes | None) -> bool:
    return content is not None and path.is_file() and path.read_bytes() == content


def is_ours(path: Path, results: Path | None = None) -> bool:
    """Whether hdbench wrote the file as it is; in the folder of results, unless it was changed."""
    digest = sha256(path)
    record = path.parent / RECORD
    lines = record.read_text(**TEXT).splitlines() if record.is_file() else []
    digests = {line[:64] for line in lines if line[66:] == path.name}
    of_run = results is not None and path.resolve().is_relative_to(results.resolve())
    return digest in digests or (of_run and not digests)


def write_outputs(contents: dict[Path, bytes]) -> list[Path]:
    """Write these files, all or none; the paths. UserError where one may not be replaced."""
    check_outputs(contents, contents)
    write_together(contents)
    record({path: hashlib.sha256(content).hexdigest() for path, content in contents.items()})
    return list(contents)


def record(digests: Mapping[Path, str]) -> None:
    """Note that files of these SHA-256 are written; several processes may do so at once.

    Where that is not possible they are replaced with `--force` alone.
    """
    for path, digest in digests.items():
        line = f"{digest}  {path.name}\n"
        with suppress(OSError), (path.parent / RECORD).open("a+", **TEXT) as file:
            file.seek(0)
            if line not in file:
                file.write(line)
