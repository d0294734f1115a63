"""`images`: a real collection, in folders or tar shards, encoded once into a cache of latents that training draws from.

The cache is shards `latents-00000.safetensors`, ...: `latents` (n, C, h, w) scaled, with flips `flipped`, the latents of the
mirrored crops, and `labels` (n,) int64.  Where labels come from:
- a folder: the folder that holds an image; with `text` its `prompts.json`, as `hdbench.datasets.prompts.read_prompts`.
- tar shards, not compressed: the member `.cls` beside an image (a whole number), or else the folder that holds it; with `text`
  its `.txt`, or else the "prompt" or "caption" of its `.json`.  Beside: of the same name but for the suffix.
Class folders sorted by name, over all shards, are 0 to classes - 1; for ImageNet that is the order of the wnids.  With `text`
a label is a row of the artifact's `prompts.json`: the distinct [{"prompt", "category"?}] in the order of their first images.
"""

from hdbench.datasets.latents.cache import Latents, encode, open_latents
from hdbench.datasets.latents.source import Configuration

__all__ = ["Configuration", "Latents", "encode", "open_latents"]
