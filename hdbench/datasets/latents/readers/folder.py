"""Folders: pictures or latents in class folders, or beside a dataset.json of EDM."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hdbench.core.errors import UserError
from hdbench.core.files import list_files
from hdbench.core.image_files import ignored, is_picture
from hdbench.datasets.latents.readers.base import MOMENTS, Contents, Item, labels_of_edm
from hdbench.datasets.latents.readers.zipped import LABELS

PROMPTS = "prompts.json"


def contents(source: str, wanted: tuple[str, ...]) -> Contents:
    """The pictures and latents of a folder, with the labels of its dataset.json if it has one.

    Standard error is told of other files.
    """
    folder = Path(source)
    paths, hidden = list_files(folder)
    files = [path for path in paths if is_picture(path) or path.suffix.lower() in MOMENTS]
    labels = folder / LABELS
    others = set(paths) - {*files, folder / PROMPTS, labels}
    for sentence in ignored([*hidden, *others], source):
        print(sentence, file=sys.stderr, flush=True)
    items: list[Any] = [Item(str(path)) for path in files]
    beside: list[dict[str, bytes]] = [{} for _ in files]
    if labels in paths and ".cls" in wanted:
        try:
            text = labels.read_bytes()
        except OSError as error:
            raise UserError(f"{labels}: cannot be read ({error.strerror}); fix it") from None
        names = [path.relative_to(folder).as_posix() for path in files]
        beside = labels_of_edm(str(labels), text, names)
    return Contents(items, beside)
