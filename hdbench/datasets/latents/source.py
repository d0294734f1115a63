"""What images a source has, by its readers, with their labels and captions."""

from __future__ import annotations

import glob
import posixpath
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from hdbench.core.errors import UserError
from hdbench.core.files import from_json
from hdbench.core.image_files import READ
from hdbench.datasets.latents.config import ImageCollection
from hdbench.datasets.latents.readers import folder, reader_of
from hdbench.datasets.latents.readers.base import MOMENTS, Source
from hdbench.datasets.latents.readers.folder import PROMPTS
from hdbench.datasets.prompts import described, read_prompts


class Listing(NamedTuple):
    """All images in a fixed order, labels, distinct prompts; of each cut tar a sentence."""

    items: list[Source]
    labels: list[int]
    prompts: list[dict[str, str]]
    cut: list[str]


def find(collection: ImageCollection) -> Listing:
    """The images of the source and their labels, not decoded; UserError for what is wrong."""
    source = collection.source
    wanted = (".txt", ".json") if collection.text else (".cls",)
    if Path(source).is_dir():
        items, beside, cut = folder.contents(source, wanted)
    else:
        files = sorted(glob.glob(source))
        if not files:
            raise UserError(
                f"{source}: neither a folder nor a glob of files that are there; fix data.source"
            )
        with ThreadPoolExecutor() as pool:
            read = pool.map(lambda file: reader_of(file).contents(file, wanted), files)
            items, beside, cut = (list(chain(*parts)) for parts in zip(*read, strict=True))
    tolerate(cut, 0, collection)
    if not items:
        raise UserError(f"{source}: holds no image ({READ}); fix data.source")
    check_kind(collection, items)
    if not collection.text:
        return Listing(items, class_labels(collection, items, beside), [], cut)
    rows = captions(collection, items, beside)
    number = {row: label for label, row in enumerate(dict.fromkeys(rows))}
    return Listing(items, [number[row] for row in rows], [dict(row) for row in number], cut)


def check_kind(collection: ImageCollection, items: list[Source]) -> None:
    """UserError where a source has latents that its settings have no use for, or pictures too."""
    source = collection.source
    latents = [item for item in items if item.suffix in MOMENTS]
    if not latents:
        return
    kinds = {item.suffix for item in items}
    if len(kinds) > 1:
        raise UserError(
            f"{source}: holds {latents[0].suffix} of latents and others ({', '.join(sorted(kinds))}"
            "); give a folder or files with one kind alone"
        )
    if collection.autoencoder is None or collection.autoencoder.name != "kl":
        raise UserError(
            f"{source}: holds moments of AutoencoderKL; set data.autoencoder to the one that made "
            "them, of the name kl"
        )
    if collection.flips and kinds == {".npy"}:
        raise UserError(
            f"{source}: its .npy have no latents of the mirrored images; set data.flips to false"
        )


def tolerate(broken: list[str], before: int, collection: ImageCollection) -> None:
    """Name broken things on standard error; UserError for the first beyond what is allowed."""
    for number, sentence in enumerate(broken, start=before + 1):
        if number > collection.corrupt_allowed:
            raise UserError(
                f"{sentence}; fix it, or let it be skipped by a higher data.corrupt_allowed, now "
                f"{collection.corrupt_allowed}"
            )
        print(f"{sentence}; skipped", file=sys.stderr, flush=True)


def class_labels(
    collection: ImageCollection, items: list[Source], beside: list[dict[str, bytes]]
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


def label_in(item: Source, text: bytes | None, n: int) -> int:
    """The class, 0 to n - 1, that an image's `.cls` says; UserError for another text or none."""
    if text is None:
        raise UserError(f"{item}: has no label, though other images have; give one to each")
    digits = text.strip()
    if not (digits.isdigit() and len(digits) < 20 and int(digits) < n):
        raise UserError(
            f"{item}: its label is {text.decode(errors='replace').strip()[:40]!r}, not a class "
            f"from 0 to {n - 1}; fix it or data.classes"
        )
    return int(text)


def captions(
    collection: ImageCollection, items: list[Source], beside: list[dict[str, bytes]]
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


def caption_in(item: Source, beside: dict[str, bytes]) -> dict[str, str]:
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
