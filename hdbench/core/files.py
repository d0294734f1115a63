"""Files: digests, atomic writes, canonical JSON."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from glob import escape, glob
from pathlib import Path
from typing import Any

from hdbench.core.errors import UserError

MANIFEST = "manifest.json"
LARGEST_TEXT = 2**28  # bytes of a text, table or JSON that is read as a whole


def expanded(path: str | os.PathLike[str]) -> str:
    """A path of the user's, of any command or file, with `~` and `~NAME` as a shell has them.

    UserError as of `check_plain`.
    """
    path = os.path.expanduser(path)
    check_plain(path)
    return path


def check_plain(path: str | os.PathLike[str]) -> None:
    """UserError for a pipe, a device or a socket, where a reader could wait or go on for ever."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # its reader says so
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UserError(f"{os.fspath(path)}: a pipe or a device, not a file; name a file")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(path: Path, most: int = LARGEST_TEXT) -> bytes:
    """A whole file; OSError for what is no file, such as a device, or larger than `most` bytes."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "a folder, not a file")
    if not stat.S_ISREG(mode):  # a pipe or a device, which may have no end
        raise OSError(errno.EINVAL, "a pipe or a device, not a file")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"larger than {most:,} bytes, so not such a file")
    return content


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """The text of a file, lines ending in \\n; OSError as `read_bytes`, ValueError for no text."""
    return read_bytes(path).decode(encoding).replace("\r\n", "\n").replace("\r", "\n")


def hidden(path: Path) -> Path:
    """A name beside a file or folder to make it under, which no process of any machine has."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")


@contextmanager
def removed_on_failure(path: Path) -> Iterator[Path]:
    """The file or folder goes again if what is done inside fails, or is stopped."""
    try:
        yield path
    except BaseException:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()
        raise


def settle(path: Path) -> None:
    """Wait until the file is on the disk; a full network disk says so here and not before."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_atomic(path: Path, text: str) -> None:
    """Text into a file that is either the old one or the new one, never half of it."""
    write_together({path: text.encode()})


def write_together(contents: dict[Path, bytes]) -> None:
    """Files of which none is ever half written: all of them or, if the file system can, none."""
    temporary = {path: hidden(path) for path in contents}
    try:
        with ExitStack() as unfinished:
            for path, content in contents.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                unfinished.enter_context(removed_on_failure(temporary[path]))
                temporary[path].write_bytes(content)
            for path in contents:
                os.replace(temporary[path], path)
    except OSError as error:
        raise UserError(
            f"{next(iter(contents))}: cannot be written ({error.strerror}); choose another folder"
        ) from None


class Fingerprint:
    """What lies at a path of the user's: a file, all files of a folder, or those of a glob.

    `quick` is a digest of names, sizes, times and inodes, `content` of names and contents, or of
    names and sizes where reading more than `LARGE` bytes would take minutes; None: nothing is
    there.
    """

    LARGE = 20e9

    def __init__(self, path: str):
        """UserError for a path that cannot be looked at."""
        place = Path(path)
        try:
            is_one = place.is_file()
            listed = [place] if is_one else place.rglob("*") if place.is_dir() else glob(path)
            if place.name.endswith(".index.json"):  # of shards, which have its first name
                listed = place.parent.glob(f"{escape(place.name.partition('.')[0])}*")
            files = sorted(file for file in map(Path, listed) if file.is_file())
            self.stats = {file: file.stat() for file in files}
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None

    @property
    def quick(self) -> str | None:
        """Digest that is the same while nobody has written to the files."""
        rows = [
            [str(file), stat.st_size, stat.st_mtime_ns, stat.st_ino]
            for file, stat in self.stats.items()
        ]
        return digest_of(rows) if rows else None

    @property
    def content(self) -> str | None:
        """Digest that is the same for files of the same names and contents."""
        is_large = sum(stat.st_size for stat in self.stats.values()) > self.LARGE
        rows = [
            [str(file), stat.st_size if is_large else sha256(file)]
            for file, stat in self.stats.items()
        ]
        return digest_of(rows) if rows else None

    def record(self) -> dict[str, str | None]:
        """What a manifest keeps."""
        return {"quick": self.quick, "content": self.content}

    def differs(self, record: dict[str, str | None]) -> bool:
        """Whether other contents were recorded; False where nothing is there, now or then."""
        if not self.stats or not record.get("content") or self.quick == record["quick"]:
            return False
        return self.content != record["content"]


def share(path: Path) -> None:
    """Give safetensors files, which their owner alone may read at first, the mode of the umask."""
    umask = os.umask(0)
    os.umask(umask)
    for file in path.rglob("*.safetensors") if path.is_dir() else [path]:
        file.chmod(0o666 & ~umask)


def list_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files under a folder in the order of their paths, and what is hidden and left out.

    UserError for what can be neither read nor followed, and as of `check_plain`.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})")

    files: list[Path] = []
    left_out: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=refuse):
        left_out += (Path(place, name) for name in (*folders, *names) if name.startswith("."))
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            if (link := Path(place, name)).is_symlink():
                raise UserError(
                    f"{link}: a link to a folder, which is not followed; put the folder itself "
                    "there, or links to files"
                )
        files += (Path(place, name) for name in names if not name.startswith("."))
    for file in files:
        check_plain(file)
    return sorted(files, key=lambda file: file.relative_to(folder).as_posix()), left_out


def from_json(text: str | bytes) -> Any:
    """The value in a JSON text; ValueError for any other text, too deep a nesting among them."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces, the form that is hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest_of(value: Any) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]
