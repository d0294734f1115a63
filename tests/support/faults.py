"""A small file system to fill or to lock, and what is left of a device."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def mount(*words: object) -> None:
    done = subprocess.run(["mount", *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")


@contextmanager
def small_disk(place: Path, kilobytes: int = 2048) -> Iterator[Path]:
    """A mounted tmpfs of this size; the test is skipped where nobody may mount."""
    place.mkdir()
    mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", place)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path, left: int) -> Path:
    """A file on the disk that leaves this many kilobytes of it; delete it to free them."""
    ballast = disk / "ballast"
    free = os.statvfs(disk)
    ballast.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - 1024 * left)))
    return ballast
