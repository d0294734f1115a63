"""Large samples: a PNG each, and an index with their digests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hdbench.core.errors import UserError
from hdbench.core.files import from_json, removed_on_failure, sha256, write_atomic
from hdbench.core.pixels import load_images, to_uint8

PICTURES = "samples"


def first_images(folder: Path, count: int) -> Tensor:
    """The first samples of a `sample` stage, (count, C, H, W) uint8."""
    if (folder / "samples.npz").is_file():
        return load_images(folder / "samples.npz")[0][:count]
    files = sorted((folder / PICTURES).glob("*.png"))[:count]
    images = np.stack([np.array(Image.open(file)) for file in files])
    return torch.from_numpy(images).permute(0, 3, 1, 2)


class Pictures:
    """A PNG for each sample in `work`/samples, whole or not there, so that a run can go on."""

    def __init__(self, work: Path, names: Sequence[str]):
        self.work = work
        self.files = [work / PICTURES / f"{name}.png" for name in names]

    def written(self, indices: range) -> bool:
        return all(self.files[index].exists() for index in indices)

    def write(self, x: Tensor, indices: range) -> Tensor:
        """Write the images of these indices, (B, 3, H, W) in [-1, 1]; none is kept in memory."""
        images = to_uint8(x).permute(0, 2, 3, 1).cpu().numpy()
        for index, image in zip(indices, images, strict=True):
            self.files[index].parent.mkdir(exist_ok=True)
            temporary = self.files[index].with_suffix(".tmp")
            with removed_on_failure(temporary):
                Image.fromarray(image).save(temporary, "PNG")
                temporary.replace(self.files[index])
        return torch.empty(0)

    def index(self) -> list[str]:
        """Write every file's digest into one file, which the manifest names; its name."""
        digests = {file.name: sha256(file) for file in self.files}
        write_atomic(self.work / f"{PICTURES}.json", json.dumps(digests, indent=0) + "\n")
        return [f"{PICTURES}.json"]


def check_pictures(folder: Path) -> None:
    """UserError where a sample stage's pictures are not those of the index in its manifest."""
    index = from_json((folder / f"{PICTURES}.json").read_text(encoding="utf-8"))
    files = {file.name: file for file in (folder / PICTURES).glob("*.png")}
    wrong = sorted(index.keys() ^ files.keys()) or [
        name for name, digest in index.items() if sha256(files[name]) != digest
    ]
    if wrong:
        raise UserError(
            f"{folder / PICTURES / wrong[0]}: differs from its manifest; delete the folder "
            f"{folder} and run again"
        )
