"""Images in npz files: `arr_0` (N, H, W, C) uint8, or an array of another declared form."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hdbench.core.errors import UserError
from hdbench.core.files import sha256
from hdbench.core.npz import read_array

CONVERSION = "--allow conversion"
ROWS = 256  # images whose values are looked at together


@dataclass(frozen=True, kw_only=True)
class ArrayForm:
    """Which array holds the images, (N, H, W, C) or channels first, uint8 or low to high."""

    name: str = "arr_0"
    channels_first: bool = False
    scaled: bool = False  # from the range low to high; else uint8
    low: float = 0.0
    high: float = 255.0

    @classmethod
    def read(cls, text: str) -> ArrayForm:
        """`NAME[:nchw][:LOW..HIGH]` of the option --array; UserError for another text."""
        name, *rest = text.split(":")
        first = rest[:1] in (["nchw"], ["nhwc"])
        layout = rest.pop(0) if first else "nhwc"
        number = r"([-+]?\d+\.?\d*)"
        values = re.fullmatch(rf"{number}\.\.{number}", rest.pop(0)) if rest else ()
        if (
            not name
            or rest
            or values is None
            or values
            and not float(values[1]) < float(values[2]) < math.inf
        ):
            raise UserError(
                f"--array = {text!r}: write NAME, NAME:nchw, NAME:-1..1 or NAME:nchw:0..1, the "
                "array's name, its layout if not nhwc, and the range of values that are not uint8"
            )
        form = cls(name=name, channels_first=layout == "nchw", scaled=bool(values))
        return replace(form, low=float(values[1]), high=float(values[2])) if values else form


STANDARD = ArrayForm()


class Arrays(NamedTuple):
    """The images of npz files in order; `load(i)` gives image i as (H, W, channels) uint8."""

    ids: tuple[str, ...]
    digest: str
    sizes: Counter  # of (H, W)
    load: Callable[[int], np.ndarray]
    labels: np.ndarray | None  # (N,) int64
    grey: int  # how many were repeated over channels
    notes: tuple[str, ...]  # what was converted


def read_archives(
    files: list[Path], source: Path, form: ArrayForm, channels: int, convert: bool
) -> Arrays:
    """Images, ids and labels of npz files; `convert`: grey images are repeated over channels.

    UserError for arrays of another form or with values outside of its range, and for ids or labels
    that do not fit.
    """
    arrays = []
    labels = []
    names = []
    notes = []
    for file in files:
        array = _array(file, form, channels, convert)
        arrays.append(array)
        notes += _notes(file, array, form, channels)
        labels.append(_optional(file, ("labels", "arr_1"), len(array), np.integer))
        names.append(_optional(file, ("ids",), len(array), np.str_))
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
        return np.array(np.broadcast_to(to_levels(image, form), (*image.shape[:2], channels)))

    digests = [sha256(file) for file in files] + ([] if form == STANDARD else [repr(form)])
    return Arrays(
        ids=tuple(ids),
        digest=hashlib.sha256("\n".join(digests).encode()).hexdigest(),
        sizes=Counter({array.shape[1:3]: len(array) for array in arrays}),
        load=load,
        labels=np.concatenate(labels).astype(np.int64)
        if all(given is not None for given in labels)
        else None,
        grey=sum(len(array) for array in arrays if array.shape[3] < channels),
        notes=tuple(notes),
    )


def to_levels(values: np.ndarray, form: ArrayForm) -> np.ndarray:
    """Values of the form's range as uint8, rounded as by `hdbench.core.pixels.to_uint8`."""
    if not form.scaled:
        return values
    scale = 255 / (form.high - form.low)
    return np.rint((values - form.low) * scale).clip(0, 255).astype(np.uint8)


def _array(file: Path, form: ArrayForm, channels: int, convert: bool) -> np.ndarray:
    """The array as (N, H, W, C), C `channels` or 1, mapped into memory where it can be."""
    name = form.name
    array = read_array(file, name)
    if array is None:
        raise UserError(
            f"{file}: has no {name}; images must be there as (N, H, W, {channels}) uint8, or say "
            "by --array which array holds them"
        )
    if array.ndim == 3 and array.shape[2] in (1, 3, 4):
        raise UserError(
            f"{file}: {name} has the shape {array.shape}, that of one image; several are (N, H, W, "
            f"{channels})"
        )
    if array.ndim == 3:
        array = array[:, None] if form.channels_first else array[..., None]
    if form.channels_first and array.ndim == 4:
        array = np.moveaxis(array, 1, 3)
    if array.ndim != 4 or array.shape[3] not in (1, channels) or 0 in array.shape:
        first = array.ndim == 4 and array.shape[1] in (1, 3) and not form.channels_first
        hint = f"; it looks channels-first, give --array {name}:nchw" if first else ""
        raise UserError(
            f"{file}: {name} has the shape {array.shape}, not (N, H, W, {channels}){hint}"
        )
    if array.shape[3] < channels and not convert:
        raise UserError(
            f"{file}: grey images (one channel), not RGB; give {CONVERSION} to have them repeated "
            "over three channels"
        )
    _check_values(file, array, form)
    return array


def _check_values(file: Path, array: np.ndarray, form: ArrayForm) -> None:
    """UserError where values are not uint8, or not of the form's range."""
    name = form.name
    numeric = array.dtype.kind in "fiu"
    if not form.scaled and array.dtype != np.uint8:
        finite = array.dtype.kind != "f" or all(
            np.isfinite(array[row : row + ROWS]).all() for row in range(0, len(array), ROWS)
        )
        layout = ":nchw" * form.channels_first
        raise UserError(
            f"{file}: {name} is {array.dtype}{'' if finite else ' with values not finite'}, not "
            f"uint8; convert it, or say what range to convert from, as --array {name}{layout}:-1..1"
        )
    if not form.scaled:
        return
    if not numeric or array.dtype == np.uint8 and (form.low, form.high) != (0, 255):
        raise UserError(f"{file}: {name} is {array.dtype}, which has no such range; leave it out")
    low, high = _extremes(array)
    level = (form.high - form.low) / 255
    within = form.low - level / 2 <= low and high <= form.high + level / 2  # false for NaN
    narrower = form.low < 0 <= low or high <= 1 < form.high
    if not within or narrower:
        raise UserError(
            f"{file}: {name} has values from {low:g} to {high:g}, which "
            + ("look like 0..1" if within else f"are not within {form.low:g} to {form.high:g}")
            + "; give --array the range that they were made for"
        )


def _extremes(array: np.ndarray) -> tuple[float, float]:
    """The least and the largest value; NaN if there is one."""
    rows = range(0, len(array), ROWS)
    low = np.min([array[row : row + ROWS].min() for row in rows])
    return float(low), float(np.max([array[row : row + ROWS].max() for row in rows]))


def _notes(file: Path, array: np.ndarray, form: ArrayForm, channels: int) -> list[str]:
    """What was converted: from which range, and from how many channels."""
    notes = []
    if form.scaled:
        low, high = _extremes(array)
        notes.append(
            f"{file}: {form.name} {array.dtype} of {low:g} to {high:g}, read as {form.low:g} to "
            f"{form.high:g}, was rounded to uint8"
        )
    if array.shape[3] < channels:
        notes.append(f"{file}: grey images were repeated over {channels} channels")
    return notes


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
