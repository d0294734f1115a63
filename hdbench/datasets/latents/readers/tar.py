"""Tar shards as of WebDataset, not compressed."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator

from hdbench.core.errors import UserError
from hdbench.core.image_files import is_picture
from hdbench.datasets.latents.readers.base import MOMENTS, Contents, Item, Reader, paired


class Tar(Reader):
    """A member's label or caption is the member of the same name but for the suffix."""

    name = "tar"
    title = "WebDataset, not compressed"

    def contents(self, path: str, wanted: tuple[str, ...]) -> Contents:
        """A whole tar ends with a block of zeros; one that does not is cut.

        Of it the last sample is left out, since it may be incomplete.
        """
        members: list[Item] = []
        last = ""
        try:
            with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    last = member.name
                    members += plain(path, member, wanted)
                file.seek(tar.offset)
                ended = file.read(tarfile.BLOCKSIZE) == tarfile.NUL * tarfile.BLOCKSIZE
                cut = "" if ended else "no end block"
        except tarfile.TarError as error:
            cut = str(error)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read ({error.strerror}); fix it or data.source"
            ) from None
        if not cut:
            return paired(path, members, wanted)
        stem = posixpath.splitext(last)[0]
        whole = [item for item in members if posixpath.splitext(item.member)[0] != stem]
        where = f"at or after {last}" if last else "at its start"
        sentence = f"{path}: not a whole uncompressed tar ({cut}), broken {where}"
        return paired(path, whole, wanted)._replace(cut=[sentence])

    def check(self, path: str) -> None:
        if not tarfile.is_tarfile(path):
            raise UserError(f"{path} is not a tar")


def plain(path: str, member: tarfile.TarInfo, wanted: tuple[str, ...]) -> Iterator[Item]:
    """The member where it is a file that is read; UserError for a link to an image."""
    name = member.name
    suffix = posixpath.splitext(name)[1]
    if posixpath.basename(name).startswith("."):
        return
    is_image = is_picture(name) or suffix.lower() in MOMENTS
    if is_image and not member.isfile():
        raise UserError(
            f"{path}: {name}: a link, not an image; make the tar with the images themselves"
        )
    if is_image or (suffix in wanted and member.isfile()):
        yield Item(path, name, member.offset_data, member.size)
