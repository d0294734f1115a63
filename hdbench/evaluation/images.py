"""Images of any origin: a folder of image files, or npz files, `arr_0` (N, H, W, 3) uint8.

Every file is read and its header checked before anything is computed; pixels are decoded one by
one, when asked for.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hdbench.core import image_files
from hdbench.core.config import nearest
from hdbench.core.errors import UserError, reason
from hdbench.core.files import list_files
from hdbench.core.image_files import FORMATS, READ
from hdbench.datasets import DATASETS
from hdbench.evaluation.archives import CONVERSION, STANDARD, ArrayForm, read_archives

SMALLEST = 32  # side of images that AlexNet takes


@dataclass(frozen=True, kw_only=True)
class Images:
    """N images in a fixed order, each with a unique id; `digest` covers contents and ids.

    `load(i)` gives image i as (H, W, 3) uint8, or (H, W, 1) where so many channels were asked for.
    Ids: path inside the folder without suffix, or position in the npz files.  `notes` say what a
    reader should know of them.
    """

    source: str
    ids: tuple[str, ...]
    digest: str
    sizes: Counter  # of (H, W)
    load: Callable[[int], np.ndarray]
    labels: np.ndarray | None = None  # (N,) int64
    paired: str = ""  # digest of the images that `paired` has put beside these
    converted: int = 0  # how many were not RGB of 8 bits
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Collection[int], digest: str) -> Images:
        """The images of these rows, in their order."""
        rows = list(rows)
        load = self.load
        return replace(
            self,
            ids=tuple(self.ids[row] for row in rows),
            digest=_hash([self.digest, digest]),
            load=lambda i: load(rows[i]),
            labels=None if self.labels is None else self.labels[rows],
        )

    def subset(self, n: int) -> Images:
        """n of the images, drawn once for all: the same ids for every set with the same ids."""
        if n == len(self):
            return self
        order = sorted(
            range(len(self)), key=lambda i: hashlib.sha256(self.ids[i].encode()).digest()
        )
        return self.take(sorted(order[:n]), f"subset {n}")

    def label_kind(self) -> str:
        """Class-balanced, random or unknown, as the labels are."""
        if self.labels is None:
            return "unknown"
        counts = np.unique(self.labels, return_counts=True)[1]
        return "class-balanced" if np.ptp(counts) <= 1 else "random"


def paired(images: Images, others: Images) -> Images:
    """Each image with the other of its id, as (H, W, 6); UserError where they do not fit."""
    row_of = {name: row for row, name in enumerate(others.ids)}
    if missing := [name for name in images.ids if name not in row_of]:
        raise UserError(
            f"{others.source}: lacks {len(missing)} of {len(images)} images of {images.source}, "
            f"such as {missing[0]!r}; give images of the same names"
        )
    sizes = set(images.sizes) | set(others.sizes)
    if len(sizes) > 1 or min(min(size) for size in sizes) < SMALLEST:
        texts = " and ".join(f"{width}x{height}" for height, width in sorted(sizes))
        raise UserError(
            f"{others.source}: images of {texts}; pairs must be of one size, at least "
            f"{SMALLEST}x{SMALLEST}"
        )
    load = images.load
    return replace(
        images,
        digest=_hash([images.digest, others.digest, "pairs"]),
        load=lambda i: np.concatenate([load(i), others.load(row_of[images.ids[i]])], axis=2),
        paired=others.digest,
    )


def open_images(
    path: Path,
    *,
    allow: Collection[str] = (),
    mixed_sizes: bool = False,
    form: ArrayForm = STANDARD,
    channels: int = 3,
) -> Images:
    """The images of a folder (recursive) or of an npz file, whose array has this form.

    `allow` may hold "conversion" (see `hdbench.core.image_files`) and "mixed-sizes".  Raises
    UserError for what cannot be read, is not RGB (with 1 channel: grey, of an npz alone), or is not
    of one size (unless `mixed_sizes`).
    """
    if not path.exists():
        raise UserError(f"{path}: does not exist; give a folder of images, or an npz file")
    if path.is_file():
        if path.suffix.lower() != ".npz":
            raise UserError(
                f"{path}: not an npz file; give a folder of images ({READ}), or an npz file with "
                "arr_0"
            )
        images = _open_npz([path], path, allow, form, channels)
    else:
        files, hidden = list_files(path)
        pictures = [file for file in files if image_files.is_picture(file)]
        archives = [file for file in files if file.suffix.lower() == ".npz"]
        if pictures and archives:
            raise UserError(
                f"{path}: holds both image files and npz files ({archives[0].name}); give a folder "
                "of one kind"
            )
        if not pictures and not archives:
            raise UserError(f"{path}: holds no image file ({READ}) and no .npz file")
        if pictures and form != STANDARD:
            raise UserError(f"{path}: holds no npz file; leave out --array")
        images = (
            _open_folder(pictures, path, allow)
            if pictures
            else _open_npz(archives, path, allow, form, channels)
        )
        left_out = image_files.ignored([*hidden, *(set(files) - {*pictures, *archives})], path)
        images = replace(images, notes=(*images.notes, *left_out))
    if len(images.sizes) > 1 and not mixed_sizes and "mixed-sizes" not in allow:
        sizes = images.sizes.most_common()
        a, count = sizes[0]
        b, _ = sizes[-1]
        raise UserError(
            f"{path}: images of {len(images.sizes)} sizes ({count} of {a[1]}x{a[0]}, but also "
            f"{b[1]}x{b[0]}); make them alike, or give --allow mixed-sizes to resize each by itself"
        )
    return images


def of_dataset(text: str, allow: Collection[str]) -> Images:
    """The images of `NAME:SPLIT`, a data set with default settings; UserError if none."""
    name, _, split = text.partition(":")
    known = [known for known, dataset in DATASETS.load().items() if dataset.stored == "memory"]
    if name not in known:
        raise UserError(f"--dataset = {text!r}: unknown data set" + nearest(name, known))
    dataset: Any = DATASETS[name]
    splits = dataset().build()
    if split not in splits:
        raise UserError(f"--dataset = {text!r}: write {name}:{' or '.join(splits)}")
    images, labels = splits[split]
    if images.shape[1] != 3 and "conversion" not in allow:
        raise UserError(
            f"--dataset = {text!r}: grey images, not RGB; give {CONVERSION} to have them repeated "
            "over three channels"
        )
    array = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()
    return Images(
        source=text,
        ids=tuple(f"{row:06}" for row in range(len(array))),
        load=array.__getitem__,
        digest=hashlib.sha256(array.tobytes()).hexdigest(),
        sizes=Counter({array.shape[1:3]: len(array)}),
        labels=labels.numpy(),
    )


def _hash(texts: list[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _open_folder(files: list[Path], folder: Path, allow: Collection[str]) -> Images:
    from PIL import Image  # optional: Pillow

    ids = [file.relative_to(folder).with_suffix("").as_posix() for file in files]
    if twice := [name for name, count in Counter(ids).items() if count > 1]:
        raise UserError(
            f"{folder}: {twice[0]!r} appears with two suffixes; keep one file for each image"
        )
    with (
        warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
        ThreadPoolExecutor() as pool,
    ):
        headers = list(pool.map(lambda file: _header(file, "conversion" in allow), files))
    digest = _hash([f"{name} {header.digest}" for name, header in zip(ids, headers, strict=True)])
    converted = [header.deviation for header in headers if header.deviation]
    unheeded = Counter(said for header in headers for said in header.unheeded)
    notes = [
        f"{count} of {len(files)}: {said}, which is ignored" for said, count in unheeded.items()
    ]
    if converted:
        notes.insert(0, f"{len(converted)} of {len(files)} were converted to RGB: {converted[0]}")
    return Images(
        source=str(folder),
        ids=tuple(ids),
        digest=digest,
        sizes=Counter(header.size for header in headers),
        load=lambda i: decode(files[i]),
        converted=len(converted),
        notes=tuple(f"{folder}: {note}" for note in notes),
    )


class Header(NamedTuple):
    """What is known of an image file before it is decoded; see `hdbench.core.image_files`."""

    digest: str  # SHA-256 of the file
    size: tuple[int, int]  # (H, W)
    deviation: str
    unheeded: list[str]


def _header(file: Path, convert: bool) -> Header:
    """The header of an RGB image, or of any if it may be converted; UserError for what is none."""
    from PIL import Image, UnidentifiedImageError  # optional: Pillow

    try:
        str(file).encode()
        if not file.is_file():
            raise OSError("a link to nothing, or not a plain file")
        content = file.read_bytes()
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            (width, height) = image.size
            header = Header(
                hashlib.sha256(content).hexdigest(),
                (height, width),
                image_files.deviation(image),
                image_files.unheeded(image),
            )
    except UnicodeEncodeError:
        raise UserError(f"{str(file)!a}: a name that is not UTF-8; rename it") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UserError(
            f"{file}: by its header more than {Image.MAX_IMAGE_PIXELS:,} pixels, which no image to "
            "evaluate has; make it again"
        ) from None
    except (OSError, SyntaxError, ValueError) as error:
        what = (
            reason(error)
            if not isinstance(error, UnidentifiedImageError)
            else "empty"
            if not content
            else f"not {READ}"
        )
        raise UserError(
            f"{file}: not a readable image ({what}); make it again or take it away"
        ) from None
    if header.deviation and not convert:
        raise UserError(
            f"{file}: {header.deviation}, not RGB; give {CONVERSION} to have every such image "
            "converted by Pillow's convert('RGB'), as torch-fidelity and clean-fid do"
        )
    return header


def decode(file: Path) -> np.ndarray:
    """Pixels of an image file, (H, W, 3) uint8; UserError for a broken one."""
    from PIL import Image  # optional: Pillow

    try:
        with Image.open(file, formats=FORMATS) as image:
            return image_files.to_rgb(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{file}: broken image ({reason(error)}); make it again") from None


def _open_npz(
    files: list[Path], source: Path, allow: Collection[str], form: ArrayForm, channels: int
) -> Images:
    arrays = read_archives(files, source, form, channels, "conversion" in allow)
    return Images(
        source=str(source),
        ids=arrays.ids,
        digest=arrays.digest,
        load=arrays.load,
        sizes=arrays.sizes,
        labels=arrays.labels,
        converted=arrays.grey,
        notes=arrays.notes,
    )
