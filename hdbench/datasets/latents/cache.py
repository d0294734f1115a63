"""The cache of latents: encoding into shards, and reading them as one tensor."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hdbench.core import distributed
from hdbench.core.errors import UserError
from hdbench.core.files import write_atomic, write_together
from hdbench.core.pixels import to_float
from hdbench.datasets.latents.config import ImageCollection
from hdbench.datasets.latents.content import Content, content_of
from hdbench.datasets.latents.source import PROMPTS, Listing, find, tolerate
from hdbench.networks import autoencoders

BATCH = 32  # images encoded at once, of at most 512 pixels


def rows_at_once(resolution: int) -> int:
    """Images of this side that are encoded at once: fewer of larger ones, for the same memory."""
    return max(1, min(BATCH, BATCH * 512**2 // resolution**2))


@dataclass(frozen=True)
class Encoder:
    """Encodes images of a listing, and writes them into shards of the cache in `folder`."""

    collection: ImageCollection
    listing: Listing
    content: Content
    folder: Path

    @cached_property
    def shards(self) -> list[range]:
        """The images of each shard."""
        rows = range(len(self.listing.items))
        size = self.collection.images_per_shard
        return [rows[start : start + size] for start in rows[::size]]

    @cached_property
    def about(self) -> dict[str, Any]:
        """What every shard says of the cache that it belongs to."""
        return {"digest": digest_of(self.collection, self.listing), "shards": len(self.shards)}

    def make(self, number: int, before: int, advance: Callable[[int], None]) -> dict[str, Any]:
        """Write a shard, unless it is there without a broken image; return what it says of itself.

        There were some broken images `before`; `advance` takes images done.
        """
        path = self.folder / name_of(number)
        with suppress(UserError):
            about, _ = read_shard(path)
            if about["digest"] == self.about["digest"] and not about["broken"]:
                return about
        tensors, broken = self.encode(self.shards[number], before, advance)
        about = self.about | {"number": number, "images": len(tensors["labels"]), "broken": broken}
        # one key, since safetensors orders several at random
        write_together({path: save(tensors, {"about": json.dumps(about)})})
        return about

    @torch.no_grad()
    def encode(
        self, rows: range, before: int, advance: Callable[[int], None]
    ) -> tuple[dict[str, Tensor], list[str]]:
        """A shard's tensors, and a sentence for each broken image of these rows.

        Image i has its own noise (of kl), and its mirror another, whatever the batch; batches never
        cross shards.
        """
        dtype = getattr(torch, self.collection.dtype)
        names = ("latents", "flipped")[: 1 + self.collection.flips]
        sides = {side: [torch.empty(0, *self.content.shape, dtype=dtype)] for side in names}
        labels: list[int] = []
        broken: list[str] = []
        for batch, crops in self._batches(rows):
            sentences = [
                f"{self.listing.items[i]}: broken image ({crops.pop(i)})"
                for i in batch
                if isinstance(crops[i], str)
            ]
            tolerate(sentences, before + len(broken), self.collection)
            broken += sentences
            labels += [self.listing.labels[i] for i in crops]
            if crops:
                for side, latents in sides.items():
                    latents.append(self.content.kept(crops, side).to(dtype).cpu())
            advance(batch.stop - rows.start)
        tensors = {side: torch.cat(latents) for side, latents in sides.items()}
        if not all(latents.isfinite().all() for latents in tensors.values()):
            raise UserError(
                f"{self.listing.items[rows[0]]} and those after it: a latent is not finite in "
                f"{self.collection.dtype}; fix the autoencoder's weights or scale, or choose "
                "another data.dtype"
            )
        return tensors | {"labels": torch.tensor(labels, dtype=torch.int64)}, broken

    def _batches(self, rows: range) -> Iterator[tuple[range, dict[int, np.ndarray | str]]]:
        """Batches of these rows with their crops; the next one is read while one is encoded."""
        step = rows_at_once(self.collection.resolution)
        batches = [rows[start : start + step] for start in range(0, len(rows), step)]
        with ThreadPoolExecutor() as pool:
            loading = (
                (batch, pool.map(lambda i: self.content.load(self.listing.items[i]), batch))
                for batch in batches
            )
            for (batch, crops), _ in pairwise(chain(loading, [None])):
                yield batch, dict(zip(batch, crops, strict=True))


def name_of(shard: int) -> str:
    """The file name of a shard."""
    return f"latents-{shard:05}.safetensors"


def encode(
    collection: ImageCollection,
    folder: Path,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> tuple[list[str], dict[str, Any]]:
    """Write the cache into `folder`; its file names, and facts: images, broken ones, seconds.

    `progress` takes images done and images in all, of this rank.  Shard k is rank k % world_size's;
    one that is there is kept, unless it lacks a broken image, which may have been repaired.
    Neither a stop nor the number of ranks changes a bit.  Raises UserError, on all ranks, when each
    has ended the shard that it was at.
    """
    autoencoder = distributed.call_on_all_ranks(
        lambda: collection.autoencoder and autoencoders.load(collection.autoencoder, device)
    )
    listing = distributed.from_rank_0(lambda: find(collection))
    content = content_of(collection, listing.items, autoencoder, device)
    encoder = Encoder(collection, listing, content, folder)
    shards = encoder.shards
    mine = range(len(shards))[distributed.rank() :: distributed.world_size()]
    total = sum(len(shards[number]) for number in mine)
    allowed = collection.corrupt_allowed
    begun = time.perf_counter()
    images = 0
    done = 0
    broken = list(listing.cut)

    def advance(count: int) -> None:
        progress(done + count, total)

    def make(numbers: range) -> list[dict[str, Any]]:
        return [encoder.make(number, len(broken), advance) for number in numbers]

    def check() -> None:
        tolerate(broken[allowed:], allowed, collection)

    for turn in range(math.ceil(len(shards) / distributed.world_size())):
        numbers = mine[turn : turn + 1]
        made = distributed.call_on_all_ranks(partial(make, numbers))
        for about in chain(*distributed.gather(made)):
            images += about["images"]
            broken += about["broken"]
        distributed.call_on_all_ranks(check)
        done += sum(len(shards[number]) for number in numbers)
        progress(done, total)
    names = [name_of(number) for number in range(len(shards))]
    if collection.text:
        names.append(PROMPTS)
        text = json.dumps(listing.prompts, indent=1) + "\n"
        distributed.from_rank_0(lambda: write_atomic(folder / PROMPTS, text))
    seconds = round(time.perf_counter() - begun, 3)
    return names, {"images": images, "corrupt": len(broken), "seconds": seconds}


def digest_of(collection: ImageCollection, listing: Listing) -> str:
    """SHA-256 of all that the latents depend on but the pixels: that of the shards of one cache."""
    digest = hashlib.sha256(collection.model_dump_json().encode())
    for row in zip(listing.items, listing.labels, strict=True):
        digest.update(repr(row).encode())
    return digest.hexdigest()


def read_shard(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a shard says of itself, and its tensors, mapped into memory."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["about"])
            return about, {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
        raise UserError(
            f"{path}: not a whole shard of latents ({error}); delete the folder {path.parent} and "
            "run again"
        ) from None


class Latents:
    """The latents of a cache as if they were one tensor (N, C, h, w) float32, on disk.

    Pixels, which are stored in uint8, are in [-1, 1].  With flips N = 2n, and row n + i is the
    mirror of row i.
    """

    def __init__(self, shards: list[Tensor]):
        self.shards = shards
        counts = torch.tensor([len(shard) for shard in shards])
        self.ends = counts.cumsum(0)
        self.starts = self.ends - counts
        self.shape = torch.Size((int(self.ends[-1]), *shards[0].shape[1:]))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Tensor) -> Tensor:
        """Rows index (B,) int64, each 0 to N - 1, B > 0: (B, C, h, w) float32."""
        shard = torch.bucketize(index, self.ends, right=True)
        places = zip(shard.tolist(), (index - self.starts[shard]).tolist(), strict=True)
        rows = torch.stack([self.shards[number][row] for number, row in places])
        return to_float(rows) if rows.dtype == torch.uint8 else rows.float()


def open_latents(folder: Path) -> tuple[Latents, Tensor]:
    """A cache's latents and labels (N,) int64; UserError for a broken or foreign shard."""
    paths = sorted(folder.glob("latents-*.safetensors"))
    if not paths:
        raise UserError(
            f"{folder}: holds no latents-*.safetensors; delete the folder and run again"
        )
    abouts, shards = zip(*map(read_shard, paths), strict=True)
    digest = abouts[0]["digest"]
    for number, (path, about) in enumerate(zip(paths, abouts, strict=True)):
        if (about["digest"], about["shards"], about["number"]) != (digest, len(paths), number):
            raise UserError(
                f"{path}: does not belong to the other {len(paths) - 1} shards there, or one is "
                f"missing; delete the folder {folder} and run again"
            )
    sides = [side for side in ("latents", "flipped") if side in shards[0]]
    return (
        Latents([shard[side] for side in sides for shard in shards]),
        torch.cat([shard["labels"] for shard in shards]).repeat(len(sides)),
    )
