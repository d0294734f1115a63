"""The latent cache: what is in it, that a stop or more ranks change nothing of it, and what is said
of broken sources.
"""

from __future__ import annotations

import io
import json
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

from hdbench.core import distributed
from hdbench.core.config import validate
from hdbench.core.errors import UserError
from hdbench.core.image_files import FORMATS
from hdbench.core.pixels import to_float
from hdbench.core.seeds import Draws, sample_noise
from hdbench.datasets.latents import Images
from hdbench.datasets.latents import cache as images
from hdbench.datasets.latents.cache import encode, open_latents
from hdbench.datasets.latents.content import center_crop, load
from hdbench.datasets.latents.readers.base import Item
from hdbench.datasets.latents.readers.tar import Tar
from hdbench.networks import autoencoders
from tests.scale.test_distributed import connected, fork
from tests.support.material import pictures

CPU = torch.device("cpu")
FACTOR, SIDE = 4, 16


class Pooling:
    """An autoencoder whose latents are means over patches, and a part of the noise: known in closed
    form.
    """

    def __init__(self, fails_after: int | None = None):
        self.calls, self.fails_after = 0, fails_after

    def encode(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        assert x.dtype == torch.float32 and -1 <= x.min() and x.max() <= 1
        if self.calls == self.fails_after:
            raise KeyboardInterrupt
        self.calls += 1
        return F.avg_pool2d(x, FACTOR) + 0.125 * noise


@pytest.fixture
def pooling(monkeypatch) -> Pooling:
    found = Pooling()
    monkeypatch.setattr(autoencoders, "load", lambda *arguments: found)
    return found


def settings(source: Path | str, **changes) -> Images:
    kind = {
        "name": "kl",
        "path": "nowhere",
        "channels": 3,
        "factor": FACTOR,
        "scale": 1.0,
        "shift": 0.0,
    }
    plain = {"source": str(source), "resolution": SIDE, "autoencoder": kind} | (
        {} if changes.get("text") else {"classes": 2}
    )
    return validate(Images, plain | changes, "data")


def made(configuration: Images, folder: Path) -> tuple[list[str], dict]:
    folder.mkdir(exist_ok=True)
    return encode(configuration, folder, CPU, lambda done, total: None)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def coded(array: np.ndarray, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, form)
    return stream.getvalue()


def write_tar(path: Path, members: dict[str, bytes | str]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            content = content.encode() if isinstance(content, str) else content
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return path


CROPS = pictures(10, 5, SIDE)
PICTURE = coded(CROPS[0])
CLASSES = ["n02", "n01"]  # not in the order of labels
LABELS = [1, 0] * 5


@pytest.fixture
def source(tmp_path) -> Path:
    """Ten images in two class folders, in the order of CROPS once they are sorted."""
    return folder_of(tmp_path / "source", CROPS)


def folder_of(folder: Path, crops: np.ndarray) -> Path:
    for row, crop in enumerate(crops):
        path = folder / CLASSES[row % 2] / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(coded(crop))
    return folder


SORTED = [row for name in sorted(CLASSES) for row in range(10) if CLASSES[row % 2] == name]


def expected(
    rows: list[int], seed: int = 0, indices: list[int] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents of these of CROPS and of their mirrors."""
    x = to_float(torch.from_numpy(CROPS[rows])).permute(0, 3, 1, 2)
    indices = list(range(len(rows))) if indices is None else indices
    noise = [
        0.125 * sample_noise((seed, "images", side), indices, (3, 4, 4))
        for side in ("latents", "flipped")
    ]
    return F.avg_pool2d(x, FACTOR) + noise[0], F.avg_pool2d(x.flip(3), FACTOR) + noise[1]


# what is in a cache


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_a_cache_holds_every_image_and_its_mirror(pooling, source, tmp_path, monkeypatch, batch):
    monkeypatch.setattr(images, "BATCH", batch)
    names, facts = made(settings(source, images_per_shard=4), tmp_path / "cache")
    assert (
        names
        == [f"latents-0000{number}.safetensors" for number in range(3)]
        == list(contents(tmp_path / "cache"))
    )
    assert facts.keys() == {"images", "corrupt", "seconds"} and (
        facts["images"],
        facts["corrupt"],
    ) == (10, 0)
    latents, labels = open_latents(tmp_path / "cache")
    assert len(latents) == 20 and latents.shape == (20, 3, 4, 4)
    found = latents[torch.arange(20)]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.cat(expected(SORTED)), rtol=0, atol=1e-6)
    assert labels.dtype == torch.int64 and labels.tolist() == 2 * [LABELS[row] for row in SORTED]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_cache_has_its_dtype_and_without_flips_no_mirrors(pooling, source, tmp_path, dtype):
    made(settings(source, dtype=dtype, flips=False, seed=3), tmp_path / "cache")
    tensors = load_file(tmp_path / "cache/latents-00000.safetensors")
    assert tensors.keys() == {"latents", "labels"} and tensors["latents"].dtype == getattr(
        torch, dtype
    )
    latents, labels = open_latents(tmp_path / "cache")
    assert latents.shape == (10, 3, 4, 4) and len(labels) == 10
    whole = expected(SORTED, seed=3)[0]
    torch.testing.assert_close(
        latents[torch.arange(10)], whole.to(getattr(torch, dtype)).float(), rtol=0, atol=1e-2
    )


def test_tar_shards_and_folders_hold_the_same(pooling, source, tmp_path):
    """Two tars with the images of one class each in turn, in class folders below another folder."""
    for number in range(2):
        write_tar(
            tmp_path / f"part-{number}.tar",
            {
                f"./train/{CLASSES[row % 2]}/{row}.PNG": coded(CROPS[row])
                for row in SORTED[5 * number : 5 * number + 5]
            },
        )
    made(settings(source), tmp_path / "folder")
    made(settings(tmp_path / "part-*.tar"), tmp_path / "tars")
    first, second = (
        load_file(tmp_path / name / "latents-00000.safetensors") for name in ("folder", "tars")
    )
    assert first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def test_class_folders_are_sorted_over_all_tars(pooling, tmp_path):
    for number, folder in enumerate("ba"):
        write_tar(tmp_path / f"{number}.tar", {f"{folder}/x.png": PICTURE})
    made(settings(tmp_path / "?.tar"), tmp_path / "cache")
    assert open_latents(tmp_path / "cache")[1].tolist() == [1, 0] * 2


def test_labels_of_webdataset(pooling, tmp_path):
    """`.cls` beside the image, before or after it, and nothing else is looked at."""
    write_tar(
        tmp_path / "a.tar",
        {
            "s0.cls": "1",
            "s0.png": coded(CROPS[0]),
            "s0.json": "{",
            "._s0.png": b"",
            "s1.png": coded(CROPS[1]),
            "s1.cls": " 0\n",
            "s2.x.jpg": coded(CROPS[2], "JPEG"),
            "s2.x.cls": "1",
            "notes.txt": "",
        },
    )
    write_tar(tmp_path / "b.tar", {"s0.webp": coded(CROPS[3], "WEBP"), "s0.cls": "0"})
    made(settings(tmp_path / "*.tar"), tmp_path / "cache")
    assert open_latents(tmp_path / "cache")[1].tolist() == [1, 0, 1, 0] * 2


def test_captions_of_tars(pooling, tmp_path):
    captions = {
        "0.txt": "a dog\n",
        "1.json": json.dumps({"caption": "ein Hündchen", "category": "dogs"}),
        "2.txt": "a dog",
        "2.json": json.dumps({"prompt": "not this"}),
        "3.json": json.dumps({"prompt": "a cat", "width": 3}),
    }
    write_tar(tmp_path / "a.tar", {f"{row}.png": coded(CROPS[row]) for row in range(4)} | captions)
    names, _ = made(settings(tmp_path / "a.tar", text=True), tmp_path / "cache")
    assert names == ["latents-00000.safetensors", "prompts.json"]
    assert json.loads((tmp_path / "cache/prompts.json").read_text()) == [
        {"prompt": "a dog"},
        {"prompt": "ein Hündchen", "category": "dogs"},
        {"prompt": "a cat"},
    ]
    assert open_latents(tmp_path / "cache")[1].tolist() == [0, 1, 0, 2] * 2


def test_captions_of_a_folder(pooling, source, tmp_path):
    table = {
        str(row): {"prompt": f"thing {row // 4}", "category": "any", "seed": row}
        for row in range(10)
    }
    (source / "prompts.json").write_text(json.dumps(table))
    made(settings(source, text=True), tmp_path / "cache")
    prompts = json.loads((tmp_path / "cache/prompts.json").read_text())
    assert sorted(row["prompt"] for row in prompts) == ["thing 0", "thing 1", "thing 2"]
    assert all(row.keys() == {"prompt", "category"} for row in prompts)
    labels = open_latents(tmp_path / "cache")[1][:10].tolist()
    assert [prompts[label]["prompt"] for label in labels] == [f"thing {row // 4}" for row in SORTED]


# the crop


def resampled(x: np.ndarray, size: int, kernel, support: float) -> np.ndarray:
    """Along the first axis, as Pillow resamples: the kernel stretched by the scale, normalised,
    rounded to levels.
    """
    scale = len(x) / size
    stretch = max(scale, 1.0)
    centres = (np.arange(size) + 0.5) * scale
    distance = (np.arange(len(x)) + 0.5 - centres[:, None]) / stretch
    weights = np.where(np.abs(distance) < support + 1e-9, kernel(distance), 0.0)
    exact = weights / weights.sum(1, keepdims=True) @ x.reshape(len(x), -1)
    return np.floor(exact + 0.5).clip(0, 255).reshape(size, *x.shape[1:])


def box(d):
    return ((d > -0.5) & (d <= 0.5)) * 1.0


def cubic(d, a=-0.5):
    d = np.abs(d)
    return np.where(
        d < 1,
        ((a + 2) * d - (a + 3)) * d * d + 1,
        np.where(d < 2, (((d - 5) * d + 8) * d - 4) * a, 0.0),
    )


def adm_crop(x: np.ndarray, size: int) -> np.ndarray:
    """(H, W, 3) levels -> (size, size, 3) by matrices: halve while the shorter side is twice too
    long or more, cubic, crop.
    """

    def to(x, height, width, *filter):
        return resampled(
            resampled(x.swapaxes(0, 1), width, *filter).swapaxes(0, 1), height, *filter
        )

    x = x.astype(float)
    while min(x.shape[:2]) >= 2 * size:
        x = to(x, x.shape[0] // 2, x.shape[1] // 2, box, 0.5)
    height, width = (round(side * (size / min(x.shape[:2]))) for side in x.shape[:2])
    x = to(x, height, width, cubic, 2.0)
    top, left = (height - size) // 2, (width - size) // 2
    return x[top : top + size, left : left + size]


@pytest.mark.parametrize(
    ("height", "width"),
    [(16, 16), (16, 21), (23, 19), (31, 64), (32, 32), (33, 47), (150, 67), (9, 12)],
)
def test_the_crop_is_that_of_adm(height, width):
    """Against matrices of our own, along rows first also where an image is tall; Pillow rounds
    weights to 2^-22.
    """
    x = pictures(1, height * width, 160)[0, :height, :width]
    found = center_crop(Image.fromarray(x), 16)
    assert found.shape == (16, 16, 3) and found.dtype == np.uint8
    difference = np.abs(found - adm_crop(x, 16))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01


def test_images_become_rgb_and_exif_is_ignored(pooling, tmp_path):
    grey = CROPS[0, :, :, 0]
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(CROPS[1]).save(stream, "PNG", exif=exif)
    write_tar(tmp_path / "a.tar", {"a/0.png": coded(grey), "b/1.png": stream.getvalue()})
    made(settings(tmp_path / "a.tar", flips=False), tmp_path / "cache")
    noise = 0.125 * sample_noise((0, "images", "latents"), range(2), (3, 4, 4))
    x = to_float(torch.from_numpy(np.stack([np.stack([grey] * 3, axis=-1), CROPS[1]]))).permute(
        0, 3, 1, 2
    )
    torch.testing.assert_close(
        open_latents(tmp_path / "cache")[0][torch.arange(2)], F.avg_pool2d(x, FACTOR) + noise
    )


@pytest.mark.parametrize(("name", "scale"), [("kl", 0.18215), ("dc", 0.41407)])
def test_the_cache_of_an_autoencoder_is_what_it_says_of_each_image(source, tmp_path, name, scale):
    from tests.support import pipelines

    path = getattr(pipelines, f"{name}_autoencoder")()
    kind = {"name": name, "path": str(path), "channels": 4, "factor": 4, "scale": scale}
    configuration = settings(source, autoencoder=kind, images_per_shard=4)
    made(configuration, tmp_path / "cache")
    latents, _ = open_latents(tmp_path / "cache")
    autoencoder = autoencoders.load(configuration.autoencoder, CPU)
    for row in (0, 7, 10, 19):
        x = to_float(torch.from_numpy(CROPS[[SORTED[row % 10]]])).permute(0, 3, 1, 2)
        side = "latents" if row < 10 else "flipped"
        noise = (
            sample_noise((0, "images", side), range(row % 10, row % 10 + 1), (4, 4, 4))
            if name == "kl"
            else None
        )
        expected = autoencoder.encode(x if row < 10 else x.flip(3), noise)
        torch.testing.assert_close(latents[torch.tensor([row])], expected, rtol=1e-4, atol=1e-5)


# stop and go on; ranks


def test_a_stopped_run_goes_on_with_the_same_bytes(source, tmp_path, monkeypatch):
    """Stopped in the second of three shards, of two batches and two sides each; the first is not
    made again.
    """
    monkeypatch.setattr(images, "BATCH", 2)
    configuration, autoencoder = settings(source, images_per_shard=4), Pooling(fails_after=6)
    monkeypatch.setattr(autoencoders, "load", lambda *arguments: autoencoder)
    with pytest.raises(KeyboardInterrupt):
        made(configuration, tmp_path / "stopped")
    first = tmp_path / "stopped/latents-00000.safetensors"
    assert list(contents(tmp_path / "stopped")) == [first.name]
    before, autoencoder.fails_after = first.stat().st_ino, None
    seen = []
    encode(configuration, tmp_path / "stopped", CPU, lambda *done: seen.append(done))
    assert first.stat().st_ino == before and autoencoder.calls == 6 + 4 + 2
    assert seen == [(4, 10), (6, 10), (8, 10), (8, 10), (10, 10), (10, 10)]
    made(configuration, tmp_path / "straight")
    assert contents(tmp_path / "stopped") == contents(tmp_path / "straight")


def test_a_shard_of_other_settings_or_half_written_is_made_again(pooling, source, tmp_path):
    made(settings(source, images_per_shard=4, seed=1), tmp_path / "cache")
    broken = tmp_path / "cache/latents-00001.safetensors"
    broken.write_bytes(broken.read_bytes()[:-1])
    for configuration in (
        settings(source, images_per_shard=4, seed=1),
        settings(source, images_per_shard=4),
    ):
        made(configuration, tmp_path / "cache")
        made(configuration, tmp_path / f"straight{configuration.seed}")
        assert contents(tmp_path / "cache") == contents(tmp_path / f"straight{configuration.seed}")


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_shards_and_write_the_same_bytes(pooling, source, tmp_path, world_size):
    configuration = settings(source, images_per_shard=4)

    def job():
        names, facts = made(configuration, tmp_path / "shared")
        own = range(3)[distributed.rank() :: distributed.world_size()]
        assert len(names) == 3 and facts["images"] == 10 and pooling.calls == 2 * len(own)

    ranks = fork(tmp_path, world_size, lambda: connected(job))
    assert ranks.wait() == [0] * world_size, ranks.said()
    made(configuration, tmp_path / "alone")
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone")


def test_what_is_allowed_is_counted_over_ranks(pooling, source, tmp_path):
    """One broken image in each of two shards, one allowed: both ranks end with one sentence."""
    for row in (SORTED[0], SORTED[5]):
        (source / CLASSES[row % 2] / f"{row}.png").write_bytes(b"")

    def job(allowed: int):
        made(
            settings(source, images_per_shard=5, corrupt_allowed=allowed),
            tmp_path / f"cache{allowed}",
        )

    for allowed, codes in ((1, [1, 1]), (2, [0, 0])):
        ranks = fork(tmp_path, 2, lambda: connected(lambda: job(allowed)))
        assert ranks.wait() == codes
        said = ["\n".join(lines) for lines in ranks.said()]
        for text, row in zip(said, (1, 0), strict=True):
            assert f"/{row}.png: broken image (empty); skipped" in text
        assert all(
            ("0.png: broken image (empty); fix it" in text) == (allowed == 1) for text in said
        )


# reading


def test_draws_of_a_cache_are_those_of_its_tensor(pooling, source, tmp_path):
    made(settings(source, images_per_shard=3), tmp_path / "cache")
    latents, labels = open_latents(tmp_path / "cache")
    whole = latents[torch.arange(20)]
    lazy, eager = (Draws((0, "x"), x, labels, 64) for x in (latents, whole))
    for _ in range(3):
        found, there = ([*draws.data(), draws.noise(), draws.label()] for draws in (lazy, eager))
        assert all(
            torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(found, there, strict=True)
        )


def anonymous_megabytes() -> float:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux only")
def test_a_cache_is_mapped_and_not_read_into_memory(tmp_path):
    """64 MB in four shards cost less than 8 MB of memory of our own after a batch was drawn."""
    for number in range(4):
        save_file(
            {
                "latents": torch.full((1024, 4, 32, 32), float(number)),
                "labels": torch.full((1024,), number),
            },
            tmp_path / f"latents-0000{number}.safetensors",
            {"about": json.dumps({"digest": "", "shards": 4, "number": number})},
        )
    before = anonymous_megabytes()
    latents, labels = open_latents(tmp_path)
    index = torch.tensor([0, 1023, 1024, 4095, 2500])
    assert latents[index].mean((1, 2, 3)).tolist() == labels[index].tolist() == [0, 0, 1, 3, 2]
    assert anonymous_megabytes() - before < 8
    assert str(tmp_path / "latents-00003.safetensors") in Path("/proc/self/maps").read_text()


def refusal(function, *arguments) -> str:
    with pytest.raises(UserError) as error:
        function(*arguments)
    return str(error.value)


def test_what_is_not_a_cache_is_refused(pooling, source, tmp_path):
    cache, other = tmp_path / "cache", tmp_path / "other"
    made(settings(source, images_per_shard=4), cache)
    made(settings(source, images_per_shard=4, seed=1), other)
    second = cache / "latents-00001.safetensors"
    again = f"delete the folder {cache} and run again"
    foreign = f"{second}: does not belong to the other 2 shards there, or one is missing; {again}"
    content = second.read_bytes()
    for broken in (b"", content[:100], content[:-1], content.replace(b"about", b"abaut")):
        second.write_bytes(broken)
        text = refusal(open_latents, cache)
        assert text.startswith(f"{second}: not a whole shard of latents (") and text.endswith(again)
    second.write_bytes((other / second.name).read_bytes())
    assert refusal(open_latents, cache) == foreign
    second.write_bytes((cache / "latents-00002.safetensors").read_bytes())
    assert refusal(open_latents, cache) == foreign
    second.unlink()
    assert "latents-00000.safetensors: does not belong to the other 1 shards there" in refusal(
        open_latents, cache
    )
    for path in cache.iterdir():
        path.unlink()
    assert (
        refusal(open_latents, cache)
        == f"{cache}: holds no latents-*.safetensors; delete the folder and run again"
    )


# broken images


def test_a_broken_image_is_named_and_skipped_only_if_allowed(
    pooling, source, tmp_path, monkeypatch, capfd
):
    """A cut JPEG and an empty file in two batches; the rest keep their own noise, and labels stay
    beside their images.
    """
    monkeypatch.setattr(images, "BATCH", 5)
    cut, empty = (
        source / "n01/9.png",
        source / "n02/0.png",
    )  # last of the first class, first of the second
    cut.write_bytes(coded(pictures(1, 1)[0], "JPEG")[:-200])
    empty.write_bytes(b"")
    sentence = f"{cut}: broken image (image file is truncated"
    for allowed in (0, 1):
        text = refusal(made, settings(source, corrupt_allowed=allowed), tmp_path / "cache")
        assert text.startswith((sentence, f"{empty}: broken image (empty); fix it")[allowed])
        assert text.endswith(
            f"; fix it, or let it be skipped by a higher data.corrupt_allowed, now {allowed}"
        )
        assert not contents(tmp_path / "cache")
    capfd.readouterr()
    _, facts = made(settings(source, corrupt_allowed=2), tmp_path / "cache")
    first, second = capfd.readouterr().err.splitlines()
    assert first.startswith(sentence) and second == f"{empty}: broken image (empty); skipped"
    assert (facts["images"], facts["corrupt"]) == (8, 2)
    latents, labels = open_latents(tmp_path / "cache")
    kept = [number for number, row in enumerate(SORTED) if row not in (0, 9)]
    whole = torch.cat(expected([SORTED[number] for number in kept], indices=kept))
    torch.testing.assert_close(latents[torch.arange(16)], whole, rtol=0, atol=1e-6)
    assert labels.tolist() == 2 * [LABELS[SORTED[number]] for number in kept]


def test_a_mended_image_comes_back(pooling, source, tmp_path):
    """A shard that lacks an image is made again, and others are not."""
    broken, configuration = (
        source / "n02/0.png",
        settings(source, images_per_shard=5, corrupt_allowed=1),
    )
    content = broken.read_bytes()
    broken.write_bytes(b"no image")
    _, facts = made(configuration, tmp_path / "cache")
    assert (facts["images"], facts["corrupt"], pooling.calls) == (9, 1, 4)
    broken.write_bytes(content)
    _, facts = made(configuration, tmp_path / "cache")
    assert (facts["images"], facts["corrupt"], pooling.calls) == (10, 0, 6)
    made(configuration, tmp_path / "straight")
    assert contents(tmp_path / "cache") == contents(tmp_path / "straight")


def test_a_shard_of_broken_images_is_empty(pooling, source, tmp_path):
    for path in (source / "n01").iterdir():
        path.write_bytes(b"")
    made(settings(source, images_per_shard=5, corrupt_allowed=5), tmp_path / "cache")
    latents, labels = open_latents(tmp_path / "cache")
    assert (
        latents.shape == (10, 3, 4, 4)
        and labels.tolist() == [1] * 10
        and latents[torch.tensor([0, 9])].isfinite().all()
    )


def test_damaged_files_end_in_a_sentence(tmp_path):
    """Of 600 damaged images none raises what is not caught."""
    rng, path = random.Random(0), tmp_path / "x"
    for trial in range(600):
        content = bytearray(coded(CROPS[trial % 10], FORMATS[trial % len(FORMATS)]))
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content[: rng.randint(1, len(content))] if trial % 2 else content)
        found = load(Item(str(path)), SIDE)
        assert isinstance(found, str) or found.shape == (SIDE, SIDE, 3)


def cut_tar(path: Path, at: int) -> Path:
    write_tar(path, {f"n0{row % 2}/{row}.png": coded(CROPS[row]) for row in range(4)})
    path.write_bytes(path.read_bytes()[:at])
    return path


def ends(path: Path) -> list[int]:
    """Of each member where its last block ends."""
    with tarfile.open(path) as tar:
        return [member.offset_data + -(-member.size // 512) * 512 for member in tar]


def test_a_cut_tar_is_named_and_loses_its_last_sample(pooling, tmp_path, capfd):
    """Cut in the data of a member, in a header, between members: none of them is taken for a whole
    tar.
    """
    path = cut_tar(tmp_path / "a.tar", 10**9)
    third = ends(path)[2]
    for at, reason in (
        (third - 600, "unexpected end of data"),
        (third + 100, "no end block"),
        (third, "no end block"),
    ):
        cut_tar(path, at)
        sentence = f"{path}: not a whole uncompressed tar ({reason}), broken at or after n00/2.png"
        text = refusal(made, settings(path), tmp_path / f"cache{at}")
        assert (
            text
            == f"{sentence}; fix it, or let it be skipped by a higher data.corrupt_allowed, now 0"
        )
        capfd.readouterr()
        _, facts = made(settings(path, corrupt_allowed=1), tmp_path / f"cache{at}")
        assert capfd.readouterr().err == f"{sentence}; skipped\n"
        assert (facts["images"], facts["corrupt"]) == (2, 1)
        assert open_latents(tmp_path / f"cache{at}")[1].tolist() == [0, 1] * 2


@pytest.mark.parametrize("content", [b"", b"no tar" * 300])
def test_what_is_no_tar_is_named(pooling, tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content)
    write_tar(tmp_path / "b.tar", {f"n0{row}/{row}.png": coded(CROPS[row]) for row in range(2)})
    text = refusal(made, settings(tmp_path / "*.tar"), tmp_path / "cache")
    assert (
        text.startswith(f"{tmp_path}/a.tar: not a whole uncompressed tar (")
        and "), broken at its start; fix it" in text
    )
    assert (
        made(settings(tmp_path / "*.tar", corrupt_allowed=1), tmp_path / "cache")[1]["images"] == 2
    )


def test_damaged_tars_end_in_a_sentence_or_are_read(tmp_path):
    rng, path = random.Random(0), tmp_path / "a.tar"
    content = cut_tar(path, 10**9).read_bytes()
    headers = [0, *ends(path)]
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 8)):
            damaged[rng.choice(headers) + rng.randrange(512)] = rng.randrange(256)
        path.write_bytes(damaged)
        found, beside, cut = Tar().contents(str(path), (".cls",))
        assert len(found) == len(beside) and (cut or len(found) == 4)


# sources


def test_planning_needs_no_data():
    configuration = settings("/nowhere/*.tar", resolution=64, dtype="float16")
    assert (configuration.image_size, configuration.channels, configuration.classes) == (16, 3, 2)
    assert Images.model_validate_json(configuration.model_dump_json()) == configuration
    assert refusal(lambda: settings("/nowhere", resolution=30)) == (
        "data: resolution = 30: must be a multiple of the autoencoder's factor, 4"
    )


@pytest.mark.parametrize(
    ("members", "changes", "sentence"),
    [
        (
            {"a/0.png": PICTURE, "b/1.png": PICTURE},
            {"classes": 3},
            "{source}: its images lie in 2 class folders (a to b), but "
            "data.classes = 3; fix the one or the other",
        ),
        (
            {"a/0.png": PICTURE, "1.png": PICTURE},
            {},
            "{tar}: 1.png: lies in no class folder and has no .cls beside it; put each "
            "class into a folder of its own",
        ),
        (
            {"0.png": PICTURE, "0.cls": "2"},
            {},
            "{tar}: 0.png: its label is '2', not a class from 0 to 1; fix it or data.classes",
        ),
        (
            {"0.png": PICTURE, "0.cls": b"\xff -1"},
            {},
            "{tar}: 0.png: its label is '\ufffd -1', not a class from 0 to 1; fix it "
            "or data.classes",
        ),
        (
            {"0.png": PICTURE, "0.cls": "0", "1.png": PICTURE},
            {},
            "{tar}: 1.png: has no label, though other images have; give one to each",
        ),
        (
            {"notes.txt": "none"},
            {},
            "{source}: holds no image (PNG, JPEG, WebP, BMP, TIFF, GIF or PPM); fix data.source",
        ),
        *(
            (
                {"0.png": PICTURE, **beside},
                {"text": True},
                "{tar}: 0.png: has no caption: give it a .txt, or a .json with a "
                '"prompt" or a "caption", in UTF-8',
            )
            for beside in (
                {},
                {"0.txt": b"\xff"},
                *({"0.json": text} for text in ("{", "[]", '{"prompt": 3}', '{"title": "x"}')),
            )
        ),
    ],
)
def test_wrong_labels_are_refused(pooling, tmp_path, members, changes, sentence):
    path = write_tar(tmp_path / "a.tar", members)
    glob = str(tmp_path / "*.tar")
    assert refusal(made, settings(glob, **changes), tmp_path / "cache") == sentence.format(
        source=glob, tar=path
    )
    assert pooling.calls == 0


def test_wrong_folders_are_refused(pooling, source, tmp_path):
    def said(where: Path, **changes) -> str:
        return refusal(made, settings(where, **changes), tmp_path / "cache")

    absent = tmp_path / "absent"
    assert (
        said(absent)
        == f"{absent}: neither a folder nor a glob of files that are there; fix data.source"
    )
    assert said(source, classes=1000) == (
        f"{source}: its images lie in 2 class folders (n01 to n02), but data.classes = "
        "1000; fix the one or the other"
    )
    assert said(source, text=True) == (
        f"{source / 'prompts.json'}: is missing, and data.text needs it; write {{name: "
        '{"prompt": ...}} there, with the names of the images without suffix'
    )
    (source / "prompts.json").write_text('{"0": "one"}')
    assert said(source, text=True).startswith(f"{source / 'prompts.json'}: has no prompt for ")
    (source / "loose.png").write_bytes(PICTURE)
    assert (
        said(source)
        == f"{source / 'loose.png'}: lies in no class folder; put each class into a folder of its "
        f"own"
    )
    (tmp_path / "empty").mkdir()
    assert (
        said(tmp_path / "empt*")
        == f"{tmp_path / 'empty'}: not read; a folder is, and files of one kind (.tar of "
        "WebDataset, not compressed; .zip of EDM's dataset_tool; .parquet of the Hugging Face "
        "hub; .bin of CIFAR-10's binary version); fix data.source"
    )
    sentence = "holds no image (PNG, JPEG, WebP, BMP, TIFF, GIF or PPM); fix data.source"
    assert said(tmp_path / "empty") == f"{tmp_path / 'empty'}: {sentence}"


def test_a_link_in_a_tar_is_refused(pooling, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        link = tarfile.TarInfo("n01/0.png")
        link.type, link.linkname = tarfile.LNKTYPE, "n02/0.png"
        tar.addfile(link)
    assert refusal(made, settings(tmp_path / "a.tar"), tmp_path / "cache") == (
        f"{tmp_path}/a.tar: n01/0.png: a link, not an image; make the tar with the images "
        f"themselves"
    )


def test_latents_that_are_not_finite_are_refused(source, tmp_path, monkeypatch):
    class Loud(Pooling):
        def encode(self, x, noise):
            return 1e5 + super().encode(x, noise)

    monkeypatch.setattr(autoencoders, "load", lambda *arguments: Loud())
    made(settings(source), tmp_path / "cache")
    text = refusal(made, settings(source, dtype="float16"), tmp_path / "cache")
    assert text.endswith(
        "a latent is not finite in float16; fix the autoencoder's weights or scale, or choose "
        "another "
        "data.dtype"
    )
