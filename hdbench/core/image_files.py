"""Image files of any origin: which are read, which are plain RGB, and the one conversion to it.

As torch-fidelity and clean-fid do, orientation in EXIF (but that of TIFF, which Pillow applies) and
colour profiles are ignored; who evaluates is told.  Everything that is not RGB of 8 bits with one
picture takes a conversion: Pillow's `convert("RGB")` of the first picture, which drops
transparency; of 16 bits the upper 8.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np

from hdbench.core.errors import UserError

if TYPE_CHECKING:
    from PIL import Image, ImageFile

SUFFIXES = {
    ".png": "PNG",
    ".apng": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".gif": "GIF",
    ".ppm": "PPM",
    ".pgm": "PPM",
    ".pbm": "PPM",
    ".pnm": "PPM",
}
FORMATS = tuple(dict.fromkeys(SUFFIXES.values()))
READ = "PNG, JPEG, WebP, BMP, TIFF, GIF or PPM"
UNREAD = frozenset(
    ".avif .avifs .bpg .cr2 .cur .dds .dib .dng .eps .exr .fits .hdr .heic .heif .hif .icns .ico "
    ".im .j2c .j2k .jp2 .jpc .jpf .jpx .jxl .jxr .mpo .nef .pcx .pfm .psd .qoi .ras .raw .rgb "
    ".sgi .svg .svgz .tga .wdp .xbm .xcf .xpm".split()
)
KINDS = {
    "L": "a grey image",
    "1": "a grey image",
    "P": "a palette image",
    "RGBA": "an image with transparency",
    "LA": "a grey image with transparency",
    "PA": "a palette image with transparency",
    "RGB with tRNS": "an image with a transparent colour",
    "16 bits": "an image of 16 bits a channel",
}
ORIENTATION = 0x0112  # EXIF
SRGB = (b"sRGB", "sRGB".encode("utf-16-be"))  # as profiles of versions 2 and 4 name it


def is_picture(name: PurePath | str) -> bool:
    """Whether it is an image file that is read, by its suffix; UserError for one that is not."""
    suffix = PurePath(name).suffix.lower()
    if suffix in UNREAD:
        raise UserError(
            f"{name}: {suffix} is not read; convert it to PNG, or take it away (images are {READ})"
        )
    return suffix in SUFFIXES


def ignored(files: Iterable[Path], source: object) -> tuple[str, ...]:
    """The sentence that files or folders in a source are no images, or nothing without any."""
    names = sorted(map(str, files))
    if not names:
        return ()
    count = "1 file or folder" if len(names) == 1 else f"{len(names)} files or folders"
    return (f"{source}: ignored {count}, of no images or hidden, such as {names[0]}",)


def deviation(image: ImageFile.ImageFile) -> str:
    """What an opened image is, if not RGB of 8 bits with one picture, as `a grey image (mode L)`.

    Raises ValueError for values without a range, which nothing can convert.
    """
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode}, values of no known range")
    if has_pictures(image):
        return f"a file of several pictures (format {image.format})"
    mode = image.mode
    if mode == "RGB":
        deep = any(";16" in str(tile) for tile in image.tile)  # Pillow keeps the upper byte
        mode = "16 bits" if deep else "RGB with tRNS" if "transparency" in image.info else mode
    if mode == "RGB":
        return ""
    kind = "a grey image" if mode.startswith("I;16") else KINDS.get(mode, "an image")
    return f"{kind} (mode {mode})"


def has_pictures(image: Image.Image) -> bool:
    """Whether there are further pictures in it, of an animation or of pages."""
    if image.format not in ("PNG", "WEBP", "TIFF", "GIF"):
        return False
    try:
        image.seek(1)
    except EOFError:
        return False
    image.seek(0)
    return True


def unheeded(image: Image.Image) -> list[str]:
    """What an opened image says of itself that is ignored."""
    said = []
    if "exif" in image.info and image.getexif().get(ORIENTATION, 1) != 1:
        said.append("EXIF says that they are turned")
    profile = image.info.get("icc_profile") or b""
    if profile and not any(name in profile for name in SRGB):
        said.append("they have a colour profile that is not named sRGB")
    return said


def to_rgb(image: Image.Image) -> np.ndarray:
    """The first picture of an opened file, (H, W, 3) uint8; ValueError without a known range."""
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode}, values of no known range")
    if image.mode.startswith("I;16"):
        upper = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(upper[..., None], 3, axis=2)
    return np.array(image.convert("RGB"))
