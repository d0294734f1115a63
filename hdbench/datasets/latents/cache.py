"""The cache of latents: encoding into shards, and reading them as one tensor."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hdbench.core import distributed
from hdbench.core.errors import UserError, reason
from hdbench.core.files import write_atomic, write_together
from hdbench.core.pixels import to_float
from hdbench.core.seeds import sample_noise
from hdbench.datasets.latents.config import ImageCollection
from hdbench.datasets.latents.source import FORMATS, PROMPTS, Item, Listing, find, tolerate
from hdbench.networks import autoencoders

BATCH = 32  # images encoded at once


# pixels


def center_crop(image: Image.Image, size: int) -> np.ndarray:
    """Centre crop of an RGB image, (size, size, 3) uint8, exactly as ADM (guided-diffusion,
    `center_crop_arr`) has it.

    Both sides are halved by Pillow's box filter while the shorter is at least 2 size, then the
    shorter is brought to size by its bicubic filter: a smaller image is enlarged.  Orientation in
    EXIF is ignored.
    """

    def resize(width: int, height: int, kind: Image.Resampling) -> Image.Image:
        """Along rows first, rounded, as Pillow always did before 13, which turns the order round
        for tall images.
        """
        return image.resize((width, image.height), kind).resize((width, height), kind)

    while min(image.size) >= 2 * size:
        image = resize(image.width // 2, image.height // 2, Image.Resampling.BOX)
    scale = size / min(image.size)
    image = resize(
        round(image.width * scale), round(image.height * scale), Image.Resampling.BICUBIC
    )
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.array(image)[top : top + size, left : left + size]


def load(item: Item, size: int) -> np.ndarray | str:
    """The crop of an image, (size, size, 3) uint8, or if it is broken how; UserError where its file
    cannot be read.
    """
    try:
        with open(item.file, "rb") as file:
            file.seek(item.offset)
            content = file.read(item.size)
    except OSError as error:
        raise UserError(
            f"{item}: cannot be read ({error.strerror}); mend it or data.source"
        ) from None
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return center_crop(image.convert("RGB"), size)
    except UnidentifiedImageError:
        return f"none of {', '.join(FORMATS)}" if content else "empty"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return reason(error)


# the cache


def encode(
    collection: ImageCollection,
    folder: Path,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> tuple[list[str], dict[str, Any]]:
    """Write the cache into `folder`; the names of its files, and facts: images in it, broken ones,
    seconds of this run.

    `progress` takes images done and images in all, of this rank.  Shard k is rank k % world_size's;
    one that is there is kept, unless it lacks a broken image, which may have been mended.  Neither
    a stop nor the number of ranks changes a bit.  Raises UserError, on all ranks, when each has
    ended the shard that it was at.
    """
    autoencoder = distributed.together(
        lambda: autoencoders.load(collection.autoencoder, device, torch.float32)
    )
    listing = distributed.from_rank_0(lambda: find(collection))
    every, size = range(len(listing.items)), collection.images_per_shard
    shards = [every[start : start + size] for start in every[::size]]
    names = [f"latents-{number:05}.safetensors" for number in range(len(shards))]
    mine = range(len(shards))[distributed.rank() :: distributed.world_size()]
    about = {"digest": digest_of(collection, listing), "shards": len(shards)}
    images, broken, done, total = (
        0,
        list(listing.cut),
        0,
        sum(len(shards[number]) for number in mine),
    )
    begun, allowed = time.perf_counter(), collection.corrupt_allowed

    def make(number: int) -> dict[str, Any]:
        path = folder / names[number]
        with suppress(UserError):
            found, _ = read_shard(path)
            if found["digest"] == about["digest"] and not found["broken"]:
                return found
        tensors, new = encoded(
            collection,
            autoencoder,
            listing,
            shards[number],
            len(broken),
            device,
            lambda count: progress(done + count, total),
        )
        made = about | {"number": number, "images": len(tensors["labels"]), "broken": new}
        write_together(
            {path: save(tensors, {"about": json.dumps(made)})}
        )  # one key: safetensors orders several at random
        return made

    for turn in range(len(range(len(shards))[:: distributed.world_size()])):
        made = distributed.together(lambda: [make(number) for number in mine[turn : turn + 1]])
        for part in chain(*distributed.gather(made)):
            images, broken = images + part["images"], broken + part["broken"]
        distributed.together(lambda: tolerate(broken[allowed:], allowed, collection))
        done += sum(len(shards[number]) for number in mine[turn : turn + 1])
        progress(done, total)
    if collection.text:
        names.append(PROMPTS)
        distributed.from_rank_0(
            lambda: write_atomic(folder / PROMPTS, json.dumps(listing.prompts, indent=1) + "\n")
        )
    return names, {
        "images": images,
        "corrupt": len(broken),
        "seconds": round(time.perf_counter() - begun, 3),
    }


@torch.no_grad()
def encoded(
    collection: ImageCollection,
    autoencoder: autoencoders.Autoencoder,
    listing: Listing,
    rows: range,
    before: int,
    device: torch.device,
    advance: Callable[[int], None],
) -> tuple[dict[str, Tensor], list[str]]:
    """A shard's tensors, and a sentence for each broken image of these rows, of which there were
    some `before`.

    Image i has its own noise (of kl), and its mirror another, whatever the batch; batches never
    cross shards.
    """
    shape, dtype = (
        (collection.channels, *2 * (collection.image_size,)),
        getattr(torch, collection.dtype),
    )
    sides = {
        side: [torch.empty(0, *shape, dtype=dtype)]
        for side in ("latents", "flipped")[: 1 + collection.flips]
    }
    labels, broken = [], []
    batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    with ThreadPoolExecutor() as pool:
        loaded = (
            pool.map(lambda i: load(listing.items[i], collection.resolution), batch)
            for batch in batches
        )
        for (batch, results), _ in pairwise(
            chain(zip(batches, loaded), [None])
        ):  # the next batch is read meanwhile
            crops = dict(zip(batch, results))
            new = [
                f"{listing.items[i]}: broken image ({crops.pop(i)})"
                for i in batch
                if isinstance(crops[i], str)
            ]
            tolerate(new, before + len(broken), collection)
            broken += new
            labels += [listing.labels[i] for i in crops]
            if crops:
                x = (
                    to_float(torch.from_numpy(np.stack(list(crops.values()))))
                    .permute(0, 3, 1, 2)
                    .contiguous()
                    .to(device)
                )
                for side, parts in sides.items():
                    noise = (
                        sample_noise((collection.seed, "images", side), list(crops), shape).to(
                            device
                        )
                        if collection.autoencoder.name == "kl"
                        else None
                    )
                    latents = autoencoder.encode(x if side == "latents" else x.flip(3), noise)
                    parts.append(latents.to(dtype).cpu())
            advance(batch.stop - rows.start)
    tensors = {side: torch.cat(parts) for side, parts in sides.items()}
    if not all(latents.isfinite().all() for latents in tensors.values()):
        raise UserError(
            f"{listing.items[rows[0]]} and those after it: a latent is not finite in "
            f"{collection.dtype}; mend the autoencoder's weights or scale, or choose another "
            "data.dtype"
        )
    return tensors | {"labels": torch.tensor(labels, dtype=torch.int64)}, broken


def digest_of(collection: ImageCollection, listing: Listing) -> str:
    """SHA-256 of all that the latents depend on but the pixels; shards with the same belong together."""
    found = hashlib.sha256(collection.model_dump_json().encode())
    for row in zip(listing.items, listing.labels):
        found.update(repr(row).encode())
    return found.hexdigest()


def read_shard(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a shard says of itself, and its tensors, mapped into memory: of the file only what is
    used is read.
    """
    try:
        with safe_open(path, "pt") as file:
            return json.loads(file.metadata()["about"]), {
                name: file.get_tensor(name) for name in file.keys()
            }
    except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
        raise UserError(
            f"{path}: not a whole shard of latents ({error}); delete the folder {path.parent} and "
            "run again"
        ) from None


class Latents:
    """The latents of a cache as if they were one tensor (N, C, h, w) float32, on disk: what `Draws`
    needs of one.

    With flips N = 2n, and row n + i is the mirror of row i.
    """

    def __init__(self, parts: list[Tensor]):
        self.parts, counts = parts, torch.tensor([len(part) for part in parts])
        self.ends = counts.cumsum(0)
        self.starts, self.shape = (
            self.ends - counts,
            torch.Size((int(self.ends[-1]), *parts[0].shape[1:])),
        )

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Tensor) -> Tensor:
        """Rows index (B,) int64, each 0 to N - 1, B > 0: (B, C, h, w) float32."""
        part = torch.bucketize(index, self.ends, right=True)
        rows = zip(part.tolist(), (index - self.starts[part]).tolist())
        return torch.stack([self.parts[number][row] for number, row in rows]).float()


def open_latents(folder: Path) -> tuple[Latents, Tensor]:
    """A cache's latents, not read yet, and its labels (N,) int64; UserError for a missing, broken
    or foreign shard.
    """
    paths = sorted(folder.glob("latents-*.safetensors"))
    if not paths:
        raise UserError(
            f"{folder}: holds no latents-*.safetensors; delete the folder and run again"
        )
    abouts, shards = zip(*map(read_shard, paths))
    for number, (path, about) in enumerate(zip(paths, abouts)):
        if (about["digest"], about["shards"], about["number"]) != (
            abouts[0]["digest"],
            len(paths),
            number,
        ):
            raise UserError(
                f"{path}: does not belong to the other {len(paths) - 1} shards there, or one is "
                f"missing; delete the folder {folder} and run again"
            )
    sides = [side for side in ("latents", "flipped") if side in shards[0]]
    return (
        Latents([shard[side] for side in sides for shard in shards]),
        torch.cat([shard["labels"] for shard in shards]).repeat(len(sides)),
    )
