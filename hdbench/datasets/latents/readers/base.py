"""What a reader of a collection gives: which images or latents a file holds, not yet decoded."""

from __future__ import annotations

import posixpath
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar, NamedTuple, Protocol

from hdbench.core.errors import UserError
from hdbench.core.files import from_json
from hdbench.core.image_files import is_picture

MOMENTS = (".npz", ".npy")  # of latents that were encoded before, see `content.Moments`
LONGEST = 2**20  # bytes of a label or a caption beside an image


class Source(Protocol):
    """Where one image or its latents are."""

    @property
    def file(self) -> str: ...

    @property
    def member(self) -> str:
        """Which of the file, for people; empty where the file is the image."""
        ...

    @property
    def suffix(self) -> str:
        """What `read` gives: of a picture, of `MOMENTS`, or .bin; "" of any picture."""
        ...

    def read(self) -> bytes:
        """Its content; OSError where the file cannot be read."""
        ...


class Item(NamedTuple):
    """A file, or `size` bytes from `offset` of an archive, its `member`."""

    file: str
    member: str = ""
    offset: int = 0
    size: int = -1

    def __str__(self) -> str:
        return f"{self.file}: {self.member}" if self.member else self.file

    @property
    def suffix(self) -> str:
        return posixpath.splitext(self.member or self.file)[1].lower()

    def read(self) -> bytes:
        with open(self.file, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


class Contents(NamedTuple):
    """What a file holds, in order."""

    items: list[Source]
    beside: list[dict[str, bytes]]
    """Of each item its label and caption by suffix: .cls, .txt, .json."""
    cut: list[str] = []
    """A sentence where the file ends too early."""


class Reader(ABC):
    """Reads files of one suffix, whose `name` it is."""

    name: ClassVar[str]  # the suffix without its dot
    title: ClassVar[str]  # whose layout it is, for people

    @abstractmethod
    def contents(self, path: str, wanted: tuple[str, ...]) -> Contents:
        """The file's items with what is `wanted` beside them, of .cls, .txt and .json.

        UserError for a file of another kind.
        """

    def check(self, path: str) -> None:
        """UserError where the file does not begin as one of this kind; `contents` by default."""
        self.contents(path, ())


def paired(path: str, members: Iterable[Item], wanted: tuple[str, ...]) -> Contents:
    """An archive's images and latents, each with the `wanted` members of its name but the suffix.

    Hidden members are passed over.
    """
    items: list[tuple[str, Item]] = []
    beside: dict[str, dict[str, bytes]] = {}
    for item in members:
        stem, suffix = posixpath.splitext(item.member)
        if posixpath.basename(item.member).startswith("."):
            continue
        if is_picture(item.member) or suffix.lower() in MOMENTS:
            items.append((stem, item))
        elif suffix in wanted:
            if item.size > LONGEST:
                raise UserError(f"{item}: has {item.size} bytes, too long for a label or a caption")
            beside.setdefault(stem, {})[suffix] = item.read()
    return Contents([item for _, item in items], [beside.get(stem, {}) for stem, _ in items])


def labels_of_edm(source: str, text: bytes, names: Iterable[str]) -> list[dict[str, bytes]]:
    """The `.cls` of each name in a dataset.json of EDM: {"labels": [[name, class], ...] or null}.

    {} each where there are no labels.  UserError for another file or a name without a label.
    """
    try:
        rows = from_json(text)["labels"]
        labels = dict(rows or ())
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f'{source}: not as EDM writes it, {{"labels": [[name, class], ...]}}; make it again'
        ) from None
    if not labels:
        return [{} for _ in names]
    beside = []
    for name in names:
        if type(label := labels.get(name)) is not int:
            raise UserError(
                f"{source}: says {label!r} of {name}, not a class; make it again with a class for "
                "each image"
            )
        beside.append({".cls": str(label).encode()})
    return beside
