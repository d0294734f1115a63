"""Readers of public layouts: tiny files of each kind become the cache that is known of their
pixels or moments, and what is wrong with one is a sentence.
"""

from __future__ import annotations

import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hdbench.core.errors import UserError
from hdbench.core.pixels import to_float
from hdbench.core.seeds import sample_noise
from hdbench.datasets.latents.cache import open_latents
from hdbench.datasets.latents.readers import READERS, parquet, reader_of
from tests.support.material import pictures
from tests.unit.test_latents import coded, made, pooling, refusal, settings, write_tar

__all__ = ["pooling"]
SIDE = 16
CROPS = pictures(6, 7, SIDE)
LABELS = [1, 0, 0, 1, 1, 0]
PIXELS = {"autoencoder": None, "dtype": "uint8", "classes": 2}
AUTOENCODER = {"name": "kl", "path": "nowhere", "channels": 3, "factor": 4, "scale": 0.5}
MOMENTS = {"autoencoder": AUTOENCODER | {"shift": 0.25}, "classes": 2}
NAMES = [f"{i // 3:05}/img{i:08}.png" for i in range(6)]


def tensors_of(folder: Path) -> tuple[torch.Tensor, list[int]]:
    latents, labels = open_latents(folder)
    return latents[torch.arange(len(latents))], labels.tolist()


def read(source: Path | str, folder: Path, **changes) -> tuple[torch.Tensor, list[int]]:
    made(settings(source, **PIXELS | changes), folder)
    return tensors_of(folder)


def said(source: Path | str, folder: Path, **changes) -> str:
    return refusal(made, settings(source, **PIXELS | changes), folder)


def check_pixels(found: tuple[torch.Tensor, list[int]]) -> None:
    """The crops in their order and then their mirrors, as floats in [-1, 1]."""
    x = to_float(torch.from_numpy(CROPS)).permute(0, 3, 1, 2)
    assert torch.equal(found[0], torch.cat([x, x.flip(3)])) and found[1] == LABELS * 2


# pixels


def write_zip(path: Path, labels=..., kind=zipfile.ZIP_STORED, members=None) -> Path:
    rows = [[name, label] for name, label in zip(NAMES, LABELS, strict=True)]
    with zipfile.ZipFile(path, "w", kind) as file:
        for name, crop in (members or dict(zip(NAMES, map(coded, CROPS), strict=True))).items():
            file.writestr(name, crop)
        if labels is not None:
            file.writestr("dataset.json", json.dumps({"labels": rows if labels is ... else labels}))
    return path


def test_edm_zip(tmp_path):
    check_pixels(read(write_zip(tmp_path / "a.zip"), tmp_path / "cache"))
    tensors = open_latents(tmp_path / "cache")[0].shards
    assert all(shard.dtype == torch.uint8 for shard in tensors)


def test_edm_zip_without_labels_has_class_folders(tmp_path):
    found = read(write_zip(tmp_path / "a.zip", labels=None), tmp_path / "cache", flips=False)
    assert found[1] == [0, 0, 0, 1, 1, 1]


def test_a_folder_with_the_labels_of_edm(tmp_path, capfd):
    zipfile.ZipFile(write_zip(tmp_path / "a.zip")).extractall(tmp_path / "folder")
    check_pixels(read(tmp_path / "folder", tmp_path / "cache"))
    assert capfd.readouterr().err == ""


def test_cifar_binary(tmp_path):
    """Two files of rows: a byte of label, then the planes red, green and blue."""
    crops = pictures(5, 3, 32)
    rows = [
        bytes([label]) + crop.transpose(2, 0, 1).tobytes()
        for label, crop in zip([3, 9, 0, 1, 3], crops, strict=True)
    ]
    (tmp_path / "data_batch_1.bin").write_bytes(b"".join(rows[:3]))
    (tmp_path / "data_batch_2.bin").write_bytes(b"".join(rows[3:]))
    x, labels = read(
        tmp_path / "data_batch_*.bin", tmp_path / "cache", classes=10, resolution=32, flips=False
    )
    assert torch.equal(x, to_float(torch.from_numpy(crops)).permute(0, 3, 1, 2))
    assert labels == [3, 9, 0, 1, 3]


def write_parquet(path: Path, image: str = "image", label: str = "label", group: int = 2, **more):
    images = [{"bytes": coded(crop), "path": f"{i}.png"} for i, crop in enumerate(CROPS)]
    pq.write_table(pa.table({image: images, label: LABELS} | more), path, row_group_size=group)
    return path


@pytest.mark.parametrize("names", [("image", "label"), ("img", "fine_label")])
def test_parquet(tmp_path, names):
    """Row groups of four, which no batch has, and the columns of ImageNet and of CIFAR-100."""
    parquet.images_of.cache_clear()
    path = write_parquet(tmp_path / "train-00000-of-00001.parquet", *names, group=4)
    check_pixels(read(path, tmp_path / "cache"))
    assert parquet.images_of.cache_info().misses == 2


def test_parquet_of_captions_and_plain_bytes(pooling, tmp_path):
    captions = ["a dog", "ein Hündchen", "a dog", "a cat", "a cat", "a dog"]
    table = pa.table({"jpg": [coded(crop) for crop in CROPS], "caption": captions})
    pq.write_table(table, tmp_path / "a.parquet")
    made(settings(tmp_path / "a.parquet", text=True, flips=False), tmp_path / "cache")
    prompts = json.loads((tmp_path / "cache/prompts.json").read_text())
    labels = open_latents(tmp_path / "cache")[1]
    assert [prompts[label]["prompt"] for label in labels] == captions


def test_two_files_of_one_collection_and_encoding(pooling, tmp_path):
    """Latents of pictures in a zip are those of the same pictures in a tar."""
    write_zip(tmp_path / "a.zip")
    members = {f"{i}.png": coded(crop) for i, crop in enumerate(CROPS)}
    write_tar(tmp_path / "a.tar", members | {f"{i}.cls": str(c) for i, c in enumerate(LABELS)})
    for kind in ("zip", "tar"):
        made(settings(tmp_path / f"a.{kind}"), tmp_path / kind)
    (x, labels), (y, others) = (tensors_of(tmp_path / kind) for kind in ("zip", "tar"))
    assert torch.equal(x, y) and labels == others == LABELS * 2


# latents that were encoded before


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def moments(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2, 6, 4, 4)).astype(np.float32)


def drawn(mean: np.ndarray, deviation: np.ndarray, side: str) -> torch.Tensor:
    """(mean + deviation noise - shift) scale of (N, C, h, w), computed in float64."""
    noise = sample_noise((0, "images", side), range(len(mean)), (3, 4, 4)).double().numpy()
    return torch.from_numpy((mean + deviation * noise - 0.25) * 0.5).float()


def mar_folder(folder: Path, write=np.savez) -> Path:
    for i, label in enumerate(sorted(LABELS)):
        path = folder / f"n{label}" / f"{i}.JPEG.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        both = moments(i)
        both[0, 3:, 0, 0] = (99, -99, 0)  # a logarithm that is clamped on both sides
        write(path, moments=both[0], moments_flip=both[1])
    return folder


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_moments_of_mar(pooling, tmp_path, write):
    made(settings(mar_folder(tmp_path / "mar", write), **MOMENTS), tmp_path / "cache")
    x, labels = tensors_of(tmp_path / "cache")
    stored = np.stack([moments(i) for i in range(6)]).astype(float)
    stored[:, 0, 3:, 0, 0] = (20, -30, 0)
    expected = [
        drawn(stored[:, i, :3], np.exp(stored[:, i, 3:] / 2), side)
        for i, side in enumerate(("latents", "flipped"))
    ]
    torch.testing.assert_close(x, torch.cat(expected), rtol=1e-5, atol=1e-5)
    assert labels == sorted(LABELS) * 2 and pooling.calls == 0


def repa_members() -> dict[str, bytes]:
    return {f"00000/img-mean-std-{i:08}.npy": npy(np.abs(moments(i)[0])) for i in range(6)}


def test_moments_of_repa_in_a_zip_and_a_folder(pooling, tmp_path):
    members = repa_members()
    labels = [list(row) for row in zip(members, LABELS, strict=True)]
    zipfile.ZipFile(write_zip(tmp_path / "a.zip", labels, members=members)).extractall(
        tmp_path / "vae-sd"
    )
    stored = np.stack([np.abs(moments(i)[0]) for i in range(6)]).astype(float)
    expected = drawn(stored[:, :3], stored[:, 3:], "latents")
    for source in ("a.zip", "vae-sd"):
        made(settings(tmp_path / source, **MOMENTS, flips=False), tmp_path / f"cache-{source}")
        x, found = tensors_of(tmp_path / f"cache-{source}")
        torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-5)
        assert found == LABELS


# what is wrong


def test_wrong_zips(tmp_path):
    path = tmp_path / "a.zip"
    write_zip(path, kind=zipfile.ZIP_DEFLATED)
    assert said(path, tmp_path).startswith(f"{path}: {NAMES[0]}: compressed or encrypted; store")
    write_zip(path, [[name, 1] for name in NAMES[:5]])
    assert said(path, tmp_path).startswith(
        f"{path}: dataset.json: says None of {NAMES[5]}, not a class; make it again"
    )
    write_zip(path, [[name, [0.5, 0.5]] for name in NAMES])
    assert f"says [0.5, 0.5] of {NAMES[0]}, not a class" in said(path, tmp_path)
    write_zip(path, [[name, 2] for name in NAMES])
    assert said(path, tmp_path) == (
        f"{path}: {NAMES[0]}: its label is '2', not a class from 0 to 1; fix it or data.classes"
    )
    write_zip(path, [["a"], 3])
    assert said(path, tmp_path).startswith(f"{path}: dataset.json: not as EDM writes it")
    whole = write_zip(path).read_bytes()
    for content in (b"", whole[:-30], whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert said(path, tmp_path).startswith(f"{path}: not a whole zip (")
    path.write_bytes(b"\0" * 40 + whole[40:])
    assert said(path, tmp_path).startswith(f"{path}: not a whole zip (no member at 0")


def test_damaged_zips_end_in_a_sentence_or_are_read(tmp_path):
    rng = np.random.default_rng(0)
    content = write_zip(tmp_path / "a.zip").read_bytes()
    directory = content.index(b"PK\1\2")
    reader = reader_of("a.zip")
    for _ in range(150):
        damaged = bytearray(content)
        for place in rng.integers(directory, len(content), size=3):
            damaged[place] = rng.integers(256)
        (tmp_path / "a.zip").write_bytes(damaged)
        try:
            items = reader.contents(str(tmp_path / "a.zip"), (".cls",)).items
        except UserError:
            continue
        assert all(len(item.read()) <= len(content) for item in items)


def test_wrong_parquets(pooling, tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    write_parquet(path, image="picture")
    assert said(path, tmp_path) == (
        f"{path}: has no column of images (image, img, jpg, png, webp), its columns are picture, "
        "label; rename one"
    )
    write_parquet(path, label="class")
    assert "has no column of labels (label, labels, fine_label, cls)" in said(path, tmp_path)
    write_parquet(path)
    assert "has no column of captions (prompt, caption, text, txt)" in refusal(
        made, settings(path, text=True), tmp_path
    )
    write_parquet(path, image="x", jpg=[1.0] * 6)
    assert "its column jpg is of double, not of images as bytes" in said(path, tmp_path)
    write_parquet(path, label="other", cls=[0, 1, None, 0, 0, 0])
    assert said(path, tmp_path) == (
        f"{path}: row 0 of row group 1: has no label, though other images have; give one to each"
    )
    whole = write_parquet(path).read_bytes()
    for content in (b"", b"PAR1", whole[:-9]):
        path.write_bytes(content)
        assert said(path, tmp_path).startswith(f"{path}: not a whole parquet file (")
    path.write_bytes(b"\0" * 400 + whole[400:])
    parquet.images_of.cache_clear()
    assert said(path, tmp_path).startswith(f"{path}: row group 0 cannot be read (")
    path.write_bytes(whole)
    monkeypatch.setattr(parquet, "LARGEST", 100)
    assert "too many to be read at once" in said(path, tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ModuleNotFoundError, match="pyarrow"):
        made(settings(path, **PIXELS), tmp_path)


def test_a_row_without_an_image_is_a_broken_image(tmp_path):
    images = [{"bytes": None, "path": "x.png"}, {"bytes": coded(CROPS[0]), "path": "y.png"}]
    pq.write_table(pa.table({"image": images, "label": [0, 1]}), tmp_path / "a.parquet")
    parquet.images_of.cache_clear()
    assert "row 0 of row group 0: broken image (empty); fix it" in said(
        tmp_path / "a.parquet", tmp_path
    )


@pytest.mark.parametrize("length", [0, 3072, 3074])
def test_wrong_cifar(tmp_path, length):
    (tmp_path / "a.bin").write_bytes(bytes(length))
    assert said(tmp_path / "a.bin", tmp_path) == (
        f"{tmp_path}/a.bin: {length} bytes are no whole number of CIFAR-10's rows of 3073; get it "
        "again"
    )


def test_other_suffixes_name_what_is_read(tmp_path):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"")
    text = said(tmp_path / "*.gz", tmp_path)
    assert text.startswith(
        f"{tmp_path}/cifar-10-python.tar.gz: not read; a folder is, and files of one kind ("
    )
    assert all(f".{name} of {reader.title}" in text for name, reader in READERS.items())


def header(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    stream = io.BytesIO()
    about = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, about)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (npy(np.zeros((8, 4, 4), np.float32)), "float32 [8, 4, 4], not floats [6, 4, 4]"),
        (npy(np.zeros((6, 4, 4), np.int64)), "int64 [6, 4, 4], not floats [6, 4, 4]"),
        (header((6, 4, 4)) + b"\0" * 100, "ends after 100 of 384 bytes"),
        (header((10**9, 10**9)), "float32 [1000000000, 1000000000], not floats [6, 4, 4]"),
        (header((6, 4, 4), "|O"), "object [6, 4, 4], not floats [6, 4, 4]"),
        (b"", "EOF"),
        (b"\x80\x04K\x01......", "magic string is not correct"),
    ],
)
def test_wrong_moments(pooling, tmp_path, content, fault):
    """A shape is read before its numbers, so an absurd one costs nothing."""
    source = tmp_path / "a"
    source.mkdir()
    (source / "0.npy").write_bytes(content)
    (source / "dataset.json").write_text('{"labels": [["0.npy", 0]]}')
    text = refusal(made, settings(source, **MOMENTS, flips=False), tmp_path / "cache")
    assert text.startswith(f"{source}/0.npy: broken image (") and fault in text


def test_wrong_moments_of_mar(pooling, tmp_path):
    folder = mar_folder(tmp_path / "mar")
    first = folder / "n0/0.JPEG.npz"
    np.savez(first, moments=moments(0)[0])
    text = refusal(made, settings(folder, **MOMENTS), tmp_path / "cache")
    assert text.startswith(f"{first}: broken image (") and "moments_flip" in text
    first.write_bytes(first.read_bytes()[:-50])
    text = refusal(made, settings(folder, **MOMENTS), tmp_path / "cache")
    assert text.startswith(f"{first}: broken image (File is not a zip file)")


def test_moments_need_their_autoencoder_and_one_kind(pooling, tmp_path):
    folder = mar_folder(tmp_path / "mar")
    dc = {"autoencoder": AUTOENCODER | {"name": "dc"}, "classes": 2}
    sentence = f"{folder}: holds moments of AutoencoderKL; set data.autoencoder"
    assert said(folder, tmp_path / "cache").startswith(sentence)
    assert refusal(made, settings(folder, **dc), tmp_path / "cache").startswith(sentence)
    (folder / "n0/x.png").write_bytes(coded(CROPS[0]))
    text = refusal(made, settings(folder, **MOMENTS), tmp_path / "cache")
    assert text.startswith(f"{folder}: holds .npz of latents and others (.npz, .png); give")
    members = repa_members()
    labels = [list(row) for row in zip(members, LABELS, strict=True)]
    write_zip(tmp_path / "a.zip", labels, members=members)
    assert refusal(made, settings(tmp_path / "a.zip", **MOMENTS), tmp_path / "cache") == (
        f"{tmp_path}/a.zip: its .npy have no latents of the mirrored images; set data.flips to "
        "false"
    )


@pytest.mark.parametrize("changes", [{"dtype": "float32"}, {"autoencoder": AUTOENCODER}])
def test_pixels_are_uint8_and_latents_are_not(changes):
    text = refusal(lambda: settings("/nowhere", **PIXELS | changes))
    assert text.endswith(": pixels, of autoencoder: null, are uint8, and latents are not")


def test_a_label_beside_is_short(tmp_path):
    write_tar(tmp_path / "a.tar", {"0.png": coded(CROPS[0]), "0.cls": "1" * (2**20 + 1)})
    assert said(tmp_path / "a.tar", tmp_path) == (
        f"{tmp_path}/a.tar: 0.cls: has 1048577 bytes, too long for a label or a caption"
    )
    write_tar(tmp_path / "a.tar", {"0.png": coded(CROPS[0]), "0.cls": "1" * 5000})
    assert f"its label is '{'1' * 40}', not a class" in said(tmp_path / "a.tar", tmp_path)
