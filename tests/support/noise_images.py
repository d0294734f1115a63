"""Folders of noise to try evaluation on: python -m tests.support.noise_images FOLDER

`ours`, `theirs` and `real` with 12 images each, and `inception.pth` with random weights.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.material import inception_weights


def write(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for name in ("ours", "theirs", "real"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(12):
            image = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(image).save(folder / name / f"{index:03}.png")
    shutil.copy(inception_weights(), folder / "inception.pth")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
