"""`images`: a real collection, in folders or tar shards, encoded once into a latent cache.

The cache is shards `latents-00000.safetensors`, ...: `latents` (n, C, h, w) scaled, with flips
`flipped`, the latents of the mirrored crops, and `labels` (n,) int64.  Where labels come from:
- a folder: the folder that holds an image; with `text` its `prompts.json`, as
  `hdbench.datasets.prompts.read_prompts`.
- tar shards, not compressed: the member `.cls` beside an image (a whole number), or else the folder
  that holds it; with `text` its `.txt`, or else the "prompt" or "caption" of its `.json`.  Beside:
  of the same name but for the suffix.

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
