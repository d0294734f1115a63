"""CIFAR-10's binary version: a byte of label and 3,072 of a picture, by colour, for each image."""

from __future__ import annotations

from pathlib import Path

from hdbench.core.errors import UserError
from hdbench.datasets.latents.readers.base import Contents, Item, Reader

SIDE = 32
PICTURE = 3 * SIDE * SIDE


class Cifar(Reader):
    """Rows of one length without a header (https://www.cs.toronto.edu/~kriz/cifar.html)."""

    name = "bin"
    title = "CIFAR-10's binary version"

    def contents(self, path: str, wanted: tuple[str, ...]) -> Contents:
        content = self._content(path)
        starts = range(0, len(content), 1 + PICTURE)
        items = [
            Item(path, f"image {number}.bin", start + 1, PICTURE)
            for number, start in enumerate(starts)
        ]
        return Contents(items, [{".cls": str(content[start]).encode()} for start in starts])

    def _content(self, path: str) -> bytes:
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read ({error.strerror}); fix it or data.source"
            ) from None
        if not content or len(content) % (1 + PICTURE):
            raise UserError(
                f"{path}: {len(content)} bytes are no whole number of CIFAR-10's rows of "
                f"{1 + PICTURE}; get it again"
            )
        return content
