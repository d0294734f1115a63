"""`images`: a real collection, encoded once into a cache of latents, or kept as pixels.

The cache is shards `latents-00000.safetensors`, ...: `latents` (n, C, h, w) scaled, with flips
`flipped`, the latents of the mirrored crops, and `labels` (n,) int64.  With `autoencoder: null`
both are pixels in uint8.  What is read, and where labels come from:
- a folder of pictures: the folder that holds one; with `text` its `prompts.json`, as
  `hdbench.datasets.prompts.read_prompts`.  With a dataset.json of EDM's dataset_tool its labels.
- .tar, shards as of WebDataset, not compressed: the member `.cls` beside an image (a whole number),
  or else the folder that holds it; with `text` its `.txt`, or else the "prompt" or "caption" of its
  `.json`.  Beside: of the same name but for the suffix.
- .zip of EDM's dataset_tool, members not compressed: its dataset.json, or else as in a tar.
- .parquet of the Hugging Face hub: the columns `image` (or `img`, ...), `label`, with `text`
  `prompt`, `caption` or `text`.
- .bin, CIFAR-10's binary version: the first byte of each row.
Where pictures may lie, latents may too that the same autoencoder gave before, see
`content.Moments`: MAR's .npz in class folders, REPA's .npy with a dataset.json.

Class folders sorted by name, over all shards, are 0 to classes - 1; for ImageNet that is the order
of the wnids.  With `text` a label is a row of the artifact's `prompts.json`: the distinct
[{"prompt", "category"?}] in the order of their first images.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hdbench.datasets.latents import cache
from hdbench.datasets.latents.config import ImageCollection


class Images(ImageCollection):
    """The collection with its cache."""

    def encode(
        self, folder: Path, device: torch.device, progress: Callable[[int, int], None]
    ) -> tuple[list[str], dict[str, Any]]:
        return cache.encode(self, folder, device, progress)

    def open(self, folder: Path, split: str) -> tuple[cache.Latents, Tensor]:
        return cache.open_latents(folder)
