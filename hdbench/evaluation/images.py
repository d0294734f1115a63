"""Images of any origin: a folder of PNG or JPEG, or npz files, `arr_0` (N, H, W, 3) uint8.

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
from typing import Any

import numpy as np

from hdbench.core.config import nearest
from hdbench.core.errors import UserError, reason
from hdbench.core.files import list_files, sha256
from hdbench.core.npz import read_array
from hdbench.datasets import DATASETS

FORMATS = ("PNG", "JPEG")
SUFFIXES = (".png", ".jpg", ".jpeg")
SMALLEST = 32  # side of images that AlexNet takes
CONVERSION = "--allow conversion"


@dataclass(frozen=True, kw_only=True)
class Images:
    """N images in a fixed order, each with a unique id; `digest` covers contents and ids.

    `load(i)` gives image i as (H, W, 3) uint8.  Ids: path inside the folder without suffix, or
    position in the npz files.
    """

    source: str
    ids: tuple[str, ...]
    digest: str
    sizes: Counter  # of (H, W)
    load: Callable[[int], np.ndarray]
    labels: np.ndarray | None = None  # (N,) int64
    paired: str = ""  # digest of the images that `paired` has put beside these

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


def open_images(path: Path, *, allow: Collection[str] = (), mixed_sizes: bool = False) -> Images:
    """The images of a folder (recursive) or of an npz file.

    `allow` may hold "conversion" (grey, palette and transparent images become RGB by Pillow's
    convert) and "mixed-sizes".  Raises UserError for what cannot be read, is not RGB, or is not of
    one size (unless `mixed_sizes`).
    """
    if not path.exists():
        raise UserError(
            f"{path}: does not exist; give a folder of PNG or JPEG files, or an npz file"
        )
    if path.is_file():
        if path.suffix != ".npz":
            raise UserError(
                f"{path}: not an npz file; give a folder of PNG or JPEG files, or an npz file with "
                "arr_0"
            )
        images = _open_npz([path], path, allow)
    else:
        files = sorted(list_files(path), key=lambda file: file.relative_to(path).as_posix())
        pictures = [file for file in files if file.suffix.lower() in SUFFIXES]
        archives = [file for file in files if file.suffix == ".npz"]
        if pictures and archives:
            raise UserError(
                f"{path}: holds both image files and npz files ({archives[0].name}); give a folder "
                "of one kind"
            )
        if not pictures and not archives:
            raise UserError(f"{path}: holds no .png, .jpg, .jpeg or .npz file")
        images = (
            _open_folder(pictures, path, allow) if pictures else _open_npz(archives, path, allow)
        )
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
    digest = _hash([f"{name} {digest}" for name, (digest, _) in zip(ids, headers, strict=True)])
    return Images(
        source=str(folder),
        ids=tuple(ids),
        digest=digest,
        sizes=Counter(size for _, size in headers),
        load=lambda i: decode(files[i]),
    )


def _header(file: Path, convert: bool) -> tuple[str, tuple[int, int]]:
    """SHA-256 and (H, W) of a file whose header says that it is an RGB image."""
    from PIL import Image, UnidentifiedImageError  # optional: Pillow

    try:
        str(file).encode()
        if not file.is_file():
            raise OSError("a link to nothing, or not a plain file")
        content = file.read_bytes()
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            mode = image.mode
            (width, height) = image.size
            if mode == "RGB" and ";16" in str(image.tile):  # Pillow would drop the lower byte
                mode = "RGB;16"
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
            else "neither PNG nor JPEG"
        )
        raise UserError(
            f"{file}: not a readable image ({what}); make it again or take it away"
        ) from None
    if mode != "RGB" and not convert:
        kind = {
            "L": "a grey image",
            "1": "a grey image",
            "I;16": "a grey image",
            "RGBA": "an image with transparency",
            "RGB;16": "an image of 16 bits a channel",
        }
        raise UserError(
            f"{file}: {kind.get(mode, 'an image')} (mode {mode}), not RGB; give {CONVERSION} to "
            "have every such image converted by Pillow's convert('RGB'), as torch-fidelity and "
            "clean-fid do"
        )
    return hashlib.sha256(content).hexdigest(), (height, width)


def decode(file: Path) -> np.ndarray:
    """Pixels of an image file, (H, W, 3) uint8; UserError for a broken one."""
    from PIL import Image  # optional: Pillow

    try:
        with Image.open(file, formats=FORMATS) as image:
            return np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{file}: broken image ({reason(error)}); make it again") from None


def _open_npz(files: list[Path], source: Path, allow: Collection[str]) -> Images:
    arrays = []
    labels = []
    names = []
    for file in files:
        arrays.append(_array(file, "conversion" in allow))
        labels.append(_optional(file, ("labels", "arr_1"), len(arrays[-1]), np.integer))
        names.append(_optional(file, ("ids",), len(arrays[-1]), np.str_))
    if len({ids is None for ids in names}) > 1:
        raise UserError(
            f"{source}: some of its npz files hold ids and others do not; give ids to all or to "
            "none"
        )
    ends = np.cumsum([len(array) for array in arrays])
    width = max(6, len(str(ends[-1])))
    ids = (
        [str(name) for given in names for name in given]
        if all(given is not None for given in names)
        else [f"{row:0{width}}" for row in range(ends[-1])]
    )
    if twice := [name for name, count in Counter(ids).items() if count > 1]:
        raise UserError(
            f"{source}: the id {twice[0]!r} appears more than once; give each image its own"
        )

    def load(i: int) -> np.ndarray:
        index = int(np.searchsorted(ends, i, side="right"))
        image = arrays[index][i - (ends[index - 1] if index else 0)]
        return np.array(np.broadcast_to(image, (*image.shape[:2], 3)))

    return Images(
        source=str(source),
        ids=tuple(ids),
        digest=_hash([sha256(file) for file in files]),
        load=load,
        sizes=Counter({array.shape[1:3]: len(array) for array in arrays}),
        labels=np.concatenate(labels).astype(np.int64)
        if all(given is not None for given in labels)
        else None,
    )


def _array(file: Path, convert: bool) -> np.ndarray:
    """arr_0 (N, H, W, 3 or 1) uint8, memory-mapped where the archive stores it uncompressed."""
    array = read_array(file, "arr_0")
    if array is None:
        raise UserError(f"{file}: has no arr_0; images must be there as (N, H, W, 3) uint8")
    if array.dtype != np.uint8:
        broken = (
            ""
            if not np.issubdtype(array.dtype, np.floating) or np.isfinite(array).all()
            else " with values not finite"
        )
        raise UserError(
            f"{file}: arr_0 is {array.dtype}{broken}, not uint8; convert images once, with "
            "hdbench.core.pixels.to_uint8"
        )
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[3] not in (1, 3) or 0 in array.shape:
        hint = (
            "; it looks channels-first, transpose it"
            if array.ndim == 4 and array.shape[1] in (1, 3)
            else ""
        )
        raise UserError(f"{file}: arr_0 has the shape {array.shape}, not (N, H, W, 3){hint}")
    if array.shape[3] == 1 and not convert:
        raise UserError(
            f"{file}: grey images (one channel), not RGB; give {CONVERSION} to have them repeated "
            "over three channels"
        )
    return array


def _optional(file: Path, names: tuple[str, ...], n: int, kind: type) -> np.ndarray | None:
    for name in names:
        array = read_array(file, name)
        if array is not None:
            if array.shape != (n,) or not np.issubdtype(array.dtype, kind):
                what = "text" if kind is np.str_ else "whole number"
                raise UserError(
                    f"{file}: {name} is {array.dtype} of shape {array.shape}, not one {what} for "
                    f"each of {n} images"
                )
            return np.array(array)
    return None
