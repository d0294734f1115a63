"""`images`: a real collection, in folders or tar shards, encoded once into a cache of latents that training draws from.

The cache is shards `latents-00000.safetensors`, ...: `latents` (n, C, h, w) scaled, with flips `flipped`, the latents of the
mirrored crops, and `labels` (n,) int64.  Where labels come from:
- a folder: the folder that holds an image; with `text` its `prompts.json`, as `hdbench.evaluation.samples.read_prompts`.
- tar shards, not compressed: the member `.cls` beside an image (a whole number), or else the folder that holds it; with `text`
  its `.txt`, or else the "prompt" or "caption" of its `.json`.  Beside: of the same name but for the suffix.
Class folders sorted by name, over all shards, are 0 to classes - 1; for ImageNet that is the order of the wnids.  With `text`
a label is a row of the artifact's `prompts.json`: the distinct [{"prompt", "category"?}] in the order of their first images.
"""

from __future__ import annotations

import glob
import hashlib
import io
import json
import posixpath
import sys
import tarfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from pydantic import Field, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hdbench import autoencoders, distributed
from hdbench.config import Config
from hdbench.errors import UserError
from hdbench.images import to_float
from hdbench.seeds import sample_noise

FORMATS, SUFFIXES = ("PNG", "JPEG", "WEBP"), (".png", ".jpg", ".jpeg", ".webp")
PROMPTS = "prompts.json"
BATCH = 32  # images encoded at once


class Configuration(Config):
    name: Literal["images"] = "images"
    source: str = Field(description="a folder, or a glob of .tar files")
    resolution: int = Field(ge=1, description="side of the crop, see `center_crop`")
    classes: int | None = Field(None, ge=1, description="class folders; without text alone")
    flips: bool = True
    autoencoder: autoencoders.AutoencoderConfig
    corrupt_allowed: int = Field(0, ge=0, exclude=True,  # of no digest: raising it goes on with what has been encoded
                                 description="so many broken images are skipped; a cut tar counts as one")
    images_per_shard: int = Field(4096, ge=1)
    dtype: Literal["float16", "bfloat16", "float32"] = Field("float32", description="of the cache; it is made in float32")
    text: bool = False
    seed: int = Field(0, ge=0, description="of the autoencoder's noise")

    @model_validator(mode="after")
    def _latents_tile_the_crop(self):
        if self.resolution % self.autoencoder.factor:
            raise ValueError(f"resolution = {self.resolution}: must be a multiple of the autoencoder's factor, "
                             f"{self.autoencoder.factor}")
        return self

    @model_validator(mode="after")
    def _classes_or_text(self):
        if self.text == bool(self.classes):
            raise ValueError("give classes, or text: true; its labels are prompts")
        return self

    @property
    def image_size(self) -> int:
        """Side of the latents."""
        return self.resolution // self.autoencoder.factor

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return self.autoencoder.channels


class Item(NamedTuple):
    """An image file, or `size` bytes from `offset` of a tar, its `member`."""

    file: str
    member: str = ""
    offset: int = 0
    size: int = -1

    def __str__(self) -> str:
        return f"{self.file}: {self.member}" if self.member else self.file


class Listing(NamedTuple):
    """All images of a source in a fixed order, their labels, with `text` the distinct prompts; of each cut tar a sentence."""

    items: list[Item]
    labels: list[int]
    prompts: list[dict[str, str]]
    cut: list[str]


# what there is

def find(configuration: Configuration) -> Listing:
    """The images of the source and their labels, without decoding one; UserError for what is missing or wrong."""
    source = configuration.source
    wanted = (".txt", ".json") if configuration.text else (".cls",)
    if Path(source).is_dir():
        from hdbench.evaluation.samples import _files

        files = sorted(str(path) for path in _files(Path(source)) if path.suffix.lower() in SUFFIXES)
        items, beside, cut = [Item(file) for file in files], [{}] * len(files), []
    else:
        tars = sorted(glob.glob(source))
        if not tars:
            raise UserError(f"{source}: neither a folder nor a glob of .tar files that are there; mend data.source")
        with ThreadPoolExecutor() as pool:
            items, beside, cut = (list(chain(*parts)) for parts in zip(*pool.map(lambda tar: read_tar(tar, wanted), tars)))
    tolerate(cut, 0, configuration)
    if not items:
        raise UserError(f"{source}: holds no {', '.join(SUFFIXES)} image; mend data.source")
    if not configuration.text:
        return Listing(items, class_labels(configuration, items, beside), [], cut)
    rows = captions(configuration, items, beside)
    number = {row: label for label, row in enumerate(dict.fromkeys(rows))}
    return Listing(items, [number[row] for row in rows], [dict(row) for row in number], cut)


def tolerate(broken: list[str], before: int, configuration: Configuration) -> None:
    """Name broken things, after `before` others, on standard error; UserError for the first beyond what is allowed."""
    for number, sentence in enumerate(broken, start=before + 1):
        if number > configuration.corrupt_allowed:
            raise UserError(f"{sentence}; mend it, or let it be skipped by a higher data.corrupt_allowed, now "
                            f"{configuration.corrupt_allowed}")
        print(f"{sentence}; skipped", file=sys.stderr, flush=True)


def read_tar(path: str, wanted: tuple[str, ...]) -> tuple[list[Item], list[dict[str, bytes]], list[str]]:
    """A tar's images, of each the contents of its neighbours with a `wanted` suffix, and a sentence if the tar is cut.

    A whole tar ends with a block of zeros; of one that does not, the last sample is left out, since it may be incomplete.
    """
    found, beside, last = [], {}, ""
    try:
        with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                stem, suffix = posixpath.splitext(last := member.name)
                if posixpath.basename(last).startswith("."):
                    continue
                if suffix.lower() in SUFFIXES and not member.isfile():
                    raise UserError(f"{path}: {last}: a link, not an image; make the tar with the images themselves")
                if suffix.lower() in SUFFIXES:
                    found.append((stem, Item(path, last, member.offset_data, member.size)))
                elif suffix in wanted:
                    file.seek(member.offset_data)
                    beside.setdefault(stem, {})[suffix] = file.read(member.size)
            file.seek(tar.offset)
            cut = "" if file.read(tarfile.BLOCKSIZE) == tarfile.NUL * tarfile.BLOCKSIZE else "no end block"
    except tarfile.TarError as error:
        cut = str(error)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); mend it or data.source") from None
    sentences = []
    if cut:
        found = [(stem, item) for stem, item in found if stem != posixpath.splitext(last)[0]]
        where = f"at or after {last}" if last else "at its start"
        sentences = [f"{path}: not a whole uncompressed tar ({cut}), broken {where}"]
    return [item for _, item in found], [beside.get(stem, {}) for stem, _ in found], sentences


def class_labels(configuration: Configuration, items: list[Item], beside: list[dict[str, bytes]]) -> list[int]:
    """Of each image its class: what stands in the `.cls` beside it, or if no image has one the number of its folder."""
    if any(beside):
        return [label_in(item, found.get(".cls"), configuration.classes) for item, found in zip(items, beside)]
    folders = [posixpath.dirname(item.member or item.file) for item in items]
    nowhere = ("", ".", str(Path(configuration.source)))
    if (loose := next((item for item, folder in zip(items, folders) if folder in nowhere), None)):
        raise UserError(f"{loose}: lies in no class folder{' and has no .cls beside it' if loose.member else ''}; put each "
                        "class into a folder of its own")
    holding = [posixpath.basename(folder) for folder in folders]
    number = {name: label for label, name in enumerate(sorted(set(holding)))}
    if len(number) != configuration.classes:
        raise UserError(f"{configuration.source}: its images lie in {len(number)} class folders ({min(number)} to "
                        f"{max(number)}), but data.classes = {configuration.classes}; mend the one or the other")
    return [number[name] for name in holding]


def label_in(item: Item, text: bytes | None, n: int) -> int:
    if text is None:
        raise UserError(f"{item}: has no .cls beside it, though other images have; give one to each")
    if not (text.strip().isdigit() and int(text) < n):
        raise UserError(f"{item}: its .cls says {text.decode(errors='replace').strip()[:40]!r}, not a class from 0 to "
                        f"{n - 1}; mend it or data.classes")
    return int(text)


def captions(configuration: Configuration, items: list[Item], beside: list[dict[str, bytes]]) -> list[tuple]:
    """Of each image its prompt and, where there is one, its category, as the items of a dict."""
    if not items[0].member:
        from hdbench.evaluation.samples import read_prompts

        source = Path(configuration.source)
        if not (source / PROMPTS).is_file():
            raise UserError(f'{source / PROMPTS}: is missing, and data.text needs it; write {{name: {{"prompt": ...}}}} '
                            "there, with the names of the images without suffix")
        ids = tuple(Path(item.file).relative_to(source).with_suffix("").as_posix() for item in items)
        return [tuple(row.items()) for row in read_prompts(source / PROMPTS, ids, configuration.source)]
    return [tuple(caption_in(item, found).items()) for item, found in zip(items, beside)]


def caption_in(item: Item, beside: dict[str, bytes]) -> dict[str, str]:
    with suppress(ValueError):  # of JSON and of UTF-8
        if ".txt" in beside:
            return {"prompt": beside[".txt"].decode().strip()}
        row = json.loads(beside.get(".json", b"{}"))
        prompt = next((row[key] for key in ("prompt", "caption") if key in row), None) if isinstance(row, dict) else None
        if isinstance(prompt, str):
            return {"prompt": prompt} | ({"category": str(row["category"])} if row.get("category") is not None else {})
    raise UserError(f'{item}: has no caption: give it a .txt, or a .json with a "prompt" or a "caption", in UTF-8')


# pixels

def center_crop(image: Image.Image, size: int) -> np.ndarray:
    """Centre crop of an RGB image, (size, size, 3) uint8, exactly as ADM (guided-diffusion, `center_crop_arr`) has it.

    Both sides are halved by Pillow's box filter while the shorter is at least 2 size, then the shorter is brought to size by
    its bicubic filter: a smaller image is enlarged.  Orientation in EXIF is ignored.
    """
    def resize(width: int, height: int, kind: Image.Resampling) -> Image.Image:
        """Along rows first, rounded, as Pillow always did before 13, which turns the order round for tall images."""
        return image.resize((width, image.height), kind).resize((width, height), kind)

    while min(image.size) >= 2 * size:
        image = resize(image.width // 2, image.height // 2, Image.Resampling.BOX)
    scale = size / min(image.size)
    image = resize(round(image.width * scale), round(image.height * scale), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.array(image)[top:top + size, left:left + size]


def load(item: Item, size: int) -> np.ndarray | str:
    """The crop of an image, (size, size, 3) uint8, or if it is broken how; UserError where its file cannot be read."""
    from hdbench.evaluation.weights import reason

    try:
        with open(item.file, "rb") as file:
            file.seek(item.offset)
            content = file.read(item.size)
    except OSError as error:
        raise UserError(f"{item}: cannot be read ({error.strerror}); mend it or data.source") from None
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return center_crop(image.convert("RGB"), size)
    except UnidentifiedImageError:
        return f"none of {', '.join(FORMATS)}" if content else "empty"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return reason(error)


# the cache

def encode(configuration: Configuration, folder: Path, device: torch.device,
           progress: Callable[[int, int], None]) -> tuple[list[str], dict[str, Any]]:
    """Write the cache into `folder`; the names of its files, and facts: images in it, broken ones, seconds of this run.

    `progress` takes images done and images in all, of this rank.  Shard k is rank k % world_size's; one that is there is kept,
    unless it lacks a broken image, which may have been mended.  Neither a stop nor the number of ranks changes a bit.
    Raises UserError, on all ranks, when each has ended the shard that it was at.
    """
    from hdbench.artifact import write_atomic, write_together

    autoencoder = distributed.together(lambda: autoencoders.load(configuration.autoencoder, device, torch.float32))
    listing = distributed.from_rank_0(lambda: find(configuration))
    every, size = range(len(listing.items)), configuration.images_per_shard
    shards = [every[start:start + size] for start in every[::size]]
    names = [f"latents-{number:05}.safetensors" for number in range(len(shards))]
    mine = range(len(shards))[distributed.rank()::distributed.world_size()]
    about = {"digest": digest_of(configuration, listing), "shards": len(shards)}
    images, broken, done, total = 0, list(listing.cut), 0, sum(len(shards[number]) for number in mine)
    begun, allowed = time.perf_counter(), configuration.corrupt_allowed

    def make(number: int) -> dict[str, Any]:
        path = folder / names[number]
        with suppress(UserError):
            found, _ = read_shard(path)
            if found["digest"] == about["digest"] and not found["broken"]:
                return found
        tensors, new = encoded(configuration, autoencoder, listing, shards[number], len(broken), device,
                               lambda count: progress(done + count, total))
        made = about | {"number": number, "images": len(tensors["labels"]), "broken": new}
        write_together({path: save(tensors, {"about": json.dumps(made)})})  # one key: safetensors orders several at random
        return made

    for turn in range(len(range(len(shards))[::distributed.world_size()])):
        made = distributed.together(lambda: [make(number) for number in mine[turn:turn + 1]])
        for part in chain(*distributed.gather(made)):
            images, broken = images + part["images"], broken + part["broken"]
        distributed.together(lambda: tolerate(broken[allowed:], allowed, configuration))
        done += sum(len(shards[number]) for number in mine[turn:turn + 1])
        progress(done, total)
    if configuration.text:
        names.append(PROMPTS)
        distributed.from_rank_0(lambda: write_atomic(folder / PROMPTS, json.dumps(listing.prompts, indent=1) + "\n"))
    return names, {"images": images, "corrupt": len(broken), "seconds": round(time.perf_counter() - begun, 3)}


@torch.no_grad()
def encoded(configuration: Configuration, autoencoder: autoencoders.Autoencoder, listing: Listing, rows: range, before: int,
            device: torch.device, advance: Callable[[int], None]) -> tuple[dict[str, Tensor], list[str]]:
    """A shard's tensors, and a sentence for each broken image of these rows, of which there were some `before`.

    Image i has its own noise (of kl), and its mirror another, whatever the batch; batches never cross shards.
    """
    shape, dtype = (configuration.channels, *2 * (configuration.image_size,)), getattr(torch, configuration.dtype)
    sides = {side: [torch.empty(0, *shape, dtype=dtype)] for side in ("latents", "flipped")[:1 + configuration.flips]}
    labels, broken = [], []
    batches = [rows[start:start + BATCH] for start in range(0, len(rows), BATCH)]
    with ThreadPoolExecutor() as pool:
        loaded = (pool.map(lambda i: load(listing.items[i], configuration.resolution), batch) for batch in batches)
        for (batch, results), _ in pairwise(chain(zip(batches, loaded), [None])):  # the next batch is read meanwhile
            crops = dict(zip(batch, results))
            new = [f"{listing.items[i]}: broken image ({crops.pop(i)})" for i in batch if isinstance(crops[i], str)]
            tolerate(new, before + len(broken), configuration)
            broken += new
            labels += [listing.labels[i] for i in crops]
            if crops:
                x = to_float(torch.from_numpy(np.stack(list(crops.values())))).permute(0, 3, 1, 2).contiguous().to(device)
                for side, parts in sides.items():
                    noise = (sample_noise((configuration.seed, "images", side), list(crops), shape).to(device)
                             if configuration.autoencoder.name == "kl" else None)
                    latents = autoencoder.encode(x if side == "latents" else x.flip(3), noise)
                    parts.append(latents.to(dtype).cpu())
            advance(batch.stop - rows.start)
    tensors = {side: torch.cat(parts) for side, parts in sides.items()}
    if not all(latents.isfinite().all() for latents in tensors.values()):
        raise UserError(f"{listing.items[rows[0]]} and those after it: a latent is not finite in {configuration.dtype}; mend "
                        "the autoencoder's weights or scale, or choose another data.dtype")
    return tensors | {"labels": torch.tensor(labels, dtype=torch.int64)}, broken


def digest_of(configuration: Configuration, listing: Listing) -> str:
    """Of all that the latents depend on but the pixels: shards with the same one belong together."""
    found = hashlib.sha256(configuration.model_dump_json().encode())
    for row in zip(listing.items, listing.labels):
        found.update(repr(row).encode())
    return found.hexdigest()


def read_shard(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a shard says of itself, and its tensors, mapped into memory: of the file only what is used is read."""
    try:
        with safe_open(path, "pt") as file:
            return json.loads(file.metadata()["about"]), {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
        raise UserError(f"{path}: not a whole shard of latents ({error}); delete the folder {path.parent} and run "
                        "again") from None


class Latents:
    """The latents of a cache as if they were one tensor (N, C, h, w) float32, on disk: what `Draws` needs of one.

    With flips N = 2n, and row n + i is the mirror of row i.
    """

    def __init__(self, parts: list[Tensor]):
        self.parts, counts = parts, torch.tensor([len(part) for part in parts])
        self.ends = counts.cumsum(0)
        self.starts, self.shape = self.ends - counts, torch.Size((int(self.ends[-1]), *parts[0].shape[1:]))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Tensor) -> Tensor:
        """Rows index (B,) int64, each 0 to N - 1, B > 0: (B, C, h, w) float32."""
        part = torch.bucketize(index, self.ends, right=True)
        rows = zip(part.tolist(), (index - self.starts[part]).tolist())
        return torch.stack([self.parts[number][row] for number, row in rows]).float()


def open_latents(folder: Path) -> tuple[Latents, Tensor]:
    """A cache's latents, not read yet, and its labels (N,) int64; UserError for a missing, broken or foreign shard."""
    paths = sorted(folder.glob("latents-*.safetensors"))
    if not paths:
        raise UserError(f"{folder}: holds no latents-*.safetensors; delete the folder and run again")
    abouts, shards = zip(*map(read_shard, paths))
    for number, (path, about) in enumerate(zip(paths, abouts)):
        if (about["digest"], about["shards"], about["number"]) != (abouts[0]["digest"], len(paths), number):
            raise UserError(f"{path}: does not belong to the other {len(paths) - 1} shards there, or one is missing; delete "
                            f"the folder {folder} and run again")
    sides = [side for side in ("latents", "flipped") if side in shards[0]]
    return (Latents([shard[side] for side in sides for shard in shards]),
            torch.cat([shard["labels"] for shard in shards]).repeat(len(sides)))
