"""What images a source has: folders or tar shards, their labels and captions."""

from __future__ import annotations

import glob
import posixpath
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from hdbench.core.errors import UserError
from hdbench.core.files import from_json, list_files
from hdbench.core.image_files import READ, ignored, is_picture
from hdbench.datasets.latents.config import ImageCollection
from hdbench.datasets.prompts import described, read_prompts

PROMPTS = "prompts.json"


class Item(NamedTuple):
    """An image file, or `size` bytes from `offset` of a tar, its `member`."""

    file: str
    member: str = ""
    offset: int = 0
    size: int = -1

    def __str__(self) -> str:
        return f"{self.file}: {self.member}" if self.member else self.file


class Listing(NamedTuple):
    """All images in a fixed order, labels, distinct prompts; of each cut tar a sentence."""

    items: list[Item]
    labels: list[int]
    prompts: list[dict[str, str]]
    cut: list[str]


def find(collection: ImageCollection) -> Listing:
    """The images of the source and their labels, not decoded; UserError for what is wrong."""
    source = collection.source
    wanted = (".txt", ".json") if collection.text else (".cls",)
    if Path(source).is_dir():
        paths, hidden = list_files(Path(source))
        pictures = [path for path in paths if is_picture(path)]
        for sentence in ignored(
            [*hidden, *(set(paths) - {*pictures, Path(source) / PROMPTS})], source
        ):
            print(sentence, file=sys.stderr, flush=True)
        files = list(map(str, pictures))
        items = [Item(file) for file in files]
        beside = [{}] * len(files)
        cut = []
    else:
        tars = sorted(glob.glob(source))
        if not tars:
            raise UserError(
                f"{source}: neither a folder nor a glob of .tar files that are there; fix "
                "data.source"
            )
        with ThreadPoolExecutor() as pool:
            items, beside, cut = (
                list(chain(*parts))
                for parts in zip(*pool.map(lambda tar: read_tar(tar, wanted), tars), strict=True)
            )
    tolerate(cut, 0, collection)
    if not items:
        raise UserError(f"{source}: holds no image ({READ}); fix data.source")
    if not collection.text:
        return Listing(items, class_labels(collection, items, beside), [], cut)
    rows = captions(collection, items, beside)
    number = {row: label for label, row in enumerate(dict.fromkeys(rows))}
    return Listing(items, [number[row] for row in rows], [dict(row) for row in number], cut)


def tolerate(broken: list[str], before: int, collection: ImageCollection) -> None:
    """Name broken things on standard error; UserError for the first beyond what is allowed."""
    for number, sentence in enumerate(broken, start=before + 1):
        if number > collection.corrupt_allowed:
            raise UserError(
                f"{sentence}; fix it, or let it be skipped by a higher data.corrupt_allowed, now "
                f"{collection.corrupt_allowed}"
            )
        print(f"{sentence}; skipped", file=sys.stderr, flush=True)


def read_tar(
    path: str, wanted: tuple[str, ...]
) -> tuple[list[Item], list[dict[str, bytes]], list[str]]:
    """A tar's images, their neighbours with a `wanted` suffix, and a sentence if it is cut.

    A whole tar ends with a block of zeros; of one that does not, the last sample is left out, since
    it may be incomplete.
    """
    images = []
    neighbours = {}
    name = ""
    try:
        with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                stem, suffix = posixpath.splitext(name := member.name)
                if posixpath.basename(name).startswith("."):
                    continue
                is_image = is_picture(name)
                if is_image and not member.isfile():
                    raise UserError(
                        f"{path}: {name}: a link, not an image; make the tar with the images "
                        "themselves"
                    )
                if is_image:
                    images.append((stem, Item(path, name, member.offset_data, member.size)))
                elif suffix in wanted:
                    file.seek(member.offset_data)
                    neighbours.setdefault(stem, {})[suffix] = file.read(member.size)
            file.seek(tar.offset)
            ended = file.read(tarfile.BLOCKSIZE) == tarfile.NUL * tarfile.BLOCKSIZE
            cut = "" if ended else "no end block"
    except tarfile.TarError as error:
        cut = str(error)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); fix it or data.source"
        ) from None
    sentences = []
    if cut:
        images = [(stem, item) for stem, item in images if stem != posixpath.splitext(name)[0]]
        where = f"at or after {name}" if name else "at its start"
        sentences = [f"{path}: not a whole uncompressed tar ({cut}), broken {where}"]
    return [item for _, item in images], [neighbours.get(stem, {}) for stem, _ in images], sentences


def class_labels(
    collection: ImageCollection, items: list[Item], beside: list[dict[str, bytes]]
) -> list[int]:
    """The class of each image: that of its `.cls`, or the number of its folder if none has one."""
    if any(beside):
        return [
            label_in(item, files.get(".cls"), collection.classes)
            for item, files in zip(items, beside, strict=True)
        ]
    folders = [posixpath.dirname(item.member or item.file) for item in items]
    nowhere = ("", ".", str(Path(collection.source)))
    if loose := next(
        (item for item, folder in zip(items, folders, strict=True) if folder in nowhere), None
    ):
        unlabelled = " and has no .cls beside it" if loose.member else ""
        raise UserError(
            f"{loose}: lies in no class folder{unlabelled}; put each class into a folder of its own"
        )
    holding = [posixpath.basename(folder) for folder in folders]
    number = {name: label for label, name in enumerate(sorted(set(holding)))}
    if len(number) != collection.classes:
        raise UserError(
            f"{collection.source}: its images lie in {len(number)} class folders ({min(number)} to "
            f"{max(number)}), but data.classes = {collection.classes}; fix the one or the other"
        )
    return [number[name] for name in holding]


def label_in(item: Item, text: bytes | None, n: int) -> int:
    """The class, 0 to n - 1, that an image's `.cls` says; UserError for another text or none."""
    if text is None:
        raise UserError(
            f"{item}: has no .cls beside it, though other images have; give one to each"
        )
    if not (text.strip().isdigit() and int(text) < n):
        raise UserError(
            f"{item}: its .cls says {text.decode(errors='replace').strip()[:40]!r}, not a class "
            f"from 0 to {n - 1}; fix it or data.classes"
        )
    return int(text)


def captions(
    collection: ImageCollection, items: list[Item], beside: list[dict[str, bytes]]
) -> list[tuple]:
    """Of each image its prompt and, where there is one, its category, as the items of a dict."""
    if not items[0].member:
        source = Path(collection.source)
        if not (source / PROMPTS).is_file():
            raise UserError(
                f"{source / PROMPTS}: is missing, and data.text needs it; write "
                '{name: {"prompt": ...}} there, with the names of the images without suffix'
            )
        paths = (Path(item.file).relative_to(source).with_suffix("") for item in items)
        ids = tuple(path.as_posix() for path in paths)
        rows = read_prompts(source / PROMPTS, ids, collection.source)
    else:
        rows = [caption_in(item, files) for item, files in zip(items, beside, strict=True)]
    return [tuple(row.items()) for row in rows]


def caption_in(item: Item, beside: dict[str, bytes]) -> dict[str, str]:
    """The prompt, and the category if any, of an image's `.txt` or `.json`; UserError without."""
    with suppress(ValueError, RecursionError):  # of JSON and of UTF-8
        if ".txt" in beside:
            return {"prompt": beside[".txt"].decode().strip()}
        row = from_json(beside.get(".json", b"{}"))
        if isinstance(row, dict):
            row = {"prompt": row.get("caption")} | row
        if prompt := described(row):
            return prompt
    raise UserError(
        f'{item}: has no caption: give it a .txt, or a .json with a "prompt" or a "caption", in '
        "UTF-8"
    )
