"""Data sets: what their splits hold, and that no shape crosses from train to test."""

from __future__ import annotations

import hashlib
import re
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from hdbench.core.errors import UserError
from hdbench.datasets import DATASETS, digits, photographs, textured_digits
from hdbench.datasets.base import Dataset, completeness_problem
from hdbench.datasets.canvas import Canvas
from hdbench.datasets.captions import Captions
from hdbench.datasets.digits import Digits, originals
from hdbench.datasets.photographs import PHOTOGRAPHS, SIDE, Photographs
from hdbench.datasets.textured_digits import TexturedDigits


def build(name: str, **settings):
    data = DATASETS[name](**settings)
    return data, data.build()


SMALL = {"train": 600, "test": 300}
# of classes; captions have test_captions.py, images test_latents.py
BUILT = ("digits", "textured_digits", "canvas", "photographs")


def test_digits_split_sizes_and_content():
    configuration, splits = build("digits")
    assert list(splits) == ["train", "test"] and [len(splits[s][0]) for s in splits] == [1347, 450]
    assert configuration.largest_sample == 450
    original = load_digits()
    every = torch.cat([images for images, _ in splits.values()]).flatten(1).numpy()
    labels = torch.cat([labels for _, labels in splits.values()]).numpy()

    def rows(ink, targets):
        return sorted((tuple(row), int(label)) for row, label in zip(ink, targets, strict=True))

    assert rows(every, labels) == rows(
        np.rint(original.data * 255 / 16).astype(int), original.target
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_no_original_is_in_both_splits(seed):
    """Compared as images, so a shape that occurs twice in the source would count too."""
    parts = digits.originals(seed)
    train, test = ({ink.tobytes() for ink in parts[split][0]} for split in ("train", "test"))
    assert len(train) == 1347 and len(test) == 450 and not train & test


def test_textured_digits_draw_each_split_from_its_own_originals(monkeypatch):
    """Originals marked by where their ink is: upper rows for train, lower rows for test."""

    def marked(seed):
        train, test = np.zeros((20, 8, 8)), np.zeros((10, 8, 8))
        train[:, 1:3, 2:6], test[:, 5:7, 2:6] = 1.0, 1.0
        return {"train": (train, np.arange(20) % 10), "test": (test, np.arange(10) % 10)}

    monkeypatch.setattr(textured_digits, "originals", marked)
    _, splits = build("textured_digits", **SMALL)
    (train, _), (test, _) = splits["train"], splits["test"]
    assert train[:, :, :8].any() and not train[:, :, 8:].any()
    assert test[:, :, 8:].any() and not test[:, :, :8].any()


@pytest.mark.parametrize("name", BUILT)
def test_images_and_labels_are_well_formed(name):
    configuration, splits = build(name, **({} if name == "digits" else SMALL))
    for split, (images, labels) in splits.items():
        side = configuration.image_size
        shape = (len(labels), configuration.channels, side, side)
        assert images.dtype == torch.uint8 and images.shape == shape, split
        assert labels.dtype == torch.int64
        assert set(labels.tolist()) == set(range(configuration.classes))
        assert images.max() > 240 and images.min() == 0
    if name != "digits":
        assert [len(images) for images, _ in splits.values()] == [600, 300]


@pytest.mark.parametrize("name", BUILT)
def test_data_depend_on_the_seed_alone(name):
    sizes = {} if name == "digits" else SMALL
    first, again, other = (build(name, seed=seed, **sizes)[1] for seed in (0, 0, 1))
    for split in first:
        assert all(torch.equal(a, b) for a, b in zip(first[split], again[split], strict=True))
        assert not torch.equal(first[split][0], other[split][0])


def test_the_test_split_does_not_depend_on_the_size_of_train():
    _, small = build("textured_digits", **SMALL)
    _, large = build("textured_digits", train=900, test=300)
    assert torch.equal(small["test"][0], large["test"][0])


@pytest.mark.parametrize(
    ("train", "test", "largest"),
    [(8000, 4000, 4000), (6000, 4000, 3000), (8000, 500, 500), (7, 9, 3)],
)
def test_largest_sample_fits_three_disjoint_sets(train, test, largest):
    """Two disjoint parts of train and one of test, each of this size."""
    configuration = TexturedDigits(train=train, test=test)
    assert configuration.largest_sample == largest
    assert 2 * largest <= train and largest <= test


def flat_ink(monkeypatch, **settings) -> torch.Tensor:
    """Textured images of originals that are all ink: the texture alone, in [0, 1]."""
    full = {split: (np.ones((4, 8, 8)), np.arange(4)) for split in ("train", "test")}
    monkeypatch.setattr(textured_digits, "originals", lambda seed: full)
    configuration = TexturedDigits(**(SMALL | settings))
    return configuration.build()["train"][0].double() / 255


@pytest.mark.parametrize("wavelength", [3.0, 4.0, 8.0])
def test_texture_has_its_wavelength_on_both_diagonals(monkeypatch, wavelength):
    """Least squares fit 1/2 + 1/2 sin(k . (x, y) + phase), |k| = 2 pi / wavelength, exactly.

    Where the ink lies wherever a digit is put.
    """
    images = flat_ink(monkeypatch, wavelength=wavelength)[:, 0, 2:-2, 2:-2].reshape(600, -1)
    y, x = torch.meshgrid(torch.arange(12.0).double(), torch.arange(12.0).double(), indexing="ij")
    residuals = []
    for direction in (1, -1):
        angle = 2 * torch.pi / wavelength * (x + direction * y).flatten() / 2**0.5
        basis = torch.stack([torch.ones(144).double(), angle.sin(), angle.cos()], dim=1)
        fit = torch.linalg.lstsq(basis, images.T).solution
        residuals.append((images.T - basis @ fit).abs().amax(0))
    best = torch.stack(residuals).argmin(0)
    assert torch.stack(residuals).amin(0).max() < 1 / 255  # rounding to levels only
    assert 0.4 < best.double().mean() < 0.6


def test_splits_have_their_own_random_numbers(monkeypatch):
    """Of the same originals and of equal size, train and test differ in shifts and textures."""
    same = {split: (np.ones((4, 8, 8)), np.arange(4)) for split in ("train", "test")}
    monkeypatch.setattr(textured_digits, "originals", lambda seed: same)
    _, splits = build("textured_digits", train=200, test=200)
    (train, labels), (test, other_labels) = splits["train"], splits["test"]
    assert (train == test).flatten(1).all(1).float().mean() < 0.05
    assert not torch.equal(labels, other_labels)


def test_textures_multiply_the_shape_and_never_add_ink(monkeypatch):
    """Where the digit has no ink there is none; all shifts by -1, 0 or 1 pixel each way occur."""
    one = np.zeros((1, 8, 8))
    one[0, 4, 4] = 1.0
    monkeypatch.setattr(
        textured_digits,
        "originals",
        lambda seed: {s: (one, np.array([7])) for s in ("train", "test")},
    )
    images, labels = TexturedDigits(**SMALL).build()["train"]
    assert (labels == 7).all()
    rows, columns = ((images[:, 0] > 0).any(dim).int() for dim in (2, 1))
    assert not images[:, :, :6].any() and not images[:, :, 12:].any()
    assert not images[..., :6].any() and not images[..., 12:].any()
    for profile in (rows, columns):
        first = profile.argmax(1)
        assert {6, 7, 8} <= set(first.tolist())


def test_a_shift_loses_no_ink(monkeypatch):
    """Without texture, ink on an original's first row stays whole, wherever it is put."""
    top = np.zeros((1, 8, 8))
    top[0, 0] = 1.0
    monkeypatch.setattr(
        textured_digits,
        "originals",
        lambda seed: {s: (top, np.array([0])) for s in ("train", "test")},
    )
    images, _ = TexturedDigits(**SMALL, contrast=0.0).build()["train"]
    ink = images.double().sum(dim=(1, 2, 3))
    assert len(images.flatten(1).unique(dim=0)) == 9 and ink.unique().numel() == 1
    for dim, side in ((3, 3), (2, 14)):
        profile = (images > 0).any(dim)[:, 0].int()
        first, last = profile.argmax(1), 15 - profile.flip(1).argmax(1)
        assert (last - first + 1 == side).all() and (profile.sum(1) == side).all()
        assert {0, 1, 2} == set(first.tolist())


def test_textured_digits_are_those_of_earlier_runs():
    _, splits = build("textured_digits", seed=1, train=500, test=300)
    found = [
        hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()[:16]
        for images, labels in splits.values()
    ]
    assert found == ["c856f892962bc017", "e7c9b78f2bac13c7"]


def numbered(seed):
    """Originals of 10 classes, each of its own level by which a canvas's quarter tells it."""
    levels = np.arange(1, 61) / 64
    ink = np.ones((60, 8, 8)) * levels[:, None, None]
    return {"train": (ink[:40], np.arange(40) % 10), "test": (ink[40:], np.arange(20) % 10)}


def test_a_canvas_is_four_originals_of_its_class_and_split(monkeypatch):
    monkeypatch.setattr(textured_digits, "originals", numbered)
    _, splits = build("canvas", **SMALL, contrast=0.0)
    for (images, labels), first, count in zip(splits.values(), (0, 40), (40, 20), strict=True):
        parts = images.unfold(2, 16, 16).unfold(3, 16, 16).flatten(-2)[:, 0]
        level = parts.amax(-1)
        assert ((parts == 0) | (parts >= level[..., None] - 1)).all()
        assert ((parts > 0).sum(-1) == 14 * 14).all()
        index = (level.double() / 255 * 64).round().long().flatten(1) - 1 - first
        assert set(index.flatten().tolist()) == set(range(count))
        assert torch.equal(index % 10, labels[:, None].expand(-1, 4))
        assert not (index == index[:, :1]).all()  # drawn one by one
        for corner in range(1, 4):  # independent of the first: equal in one of 4 (or 2) cases
            equal = (index[:, 0] == index[:, corner]).double().mean()
            assert equal == pytest.approx(10 / count, abs=0.08)


def test_a_turned_canvas_has_the_opposite_texture_on_the_same_ink():
    """Their sum is (2 - contrast) times the ink alone; where there is none both are 0."""
    configuration = Canvas(**SMALL)
    images, turned, labels = configuration.with_turned()["train"]
    assert torch.equal(images, configuration.build()["train"][0])
    plain, same, _ = Canvas(**SMALL, contrast=0.0).with_turned()["train"]
    assert torch.equal(plain, same)
    total = images.double() + turned.double()
    torch.testing.assert_close(total, 1.3 * plain.double(), rtol=0, atol=1.7)  # three roundings
    assert (images != turned).double().mean() > 0.2 and not images[plain == 0].any()


# the contract


class Squares(Dataset):
    """A data set as another package would write it: settings, sizes, counts and `build`."""

    title: ClassVar[str] = "grey squares"
    name: Literal["squares"] = "squares"
    image_size: int = 4
    channels: int = 1
    classes: int = 2

    @property
    def counts(self) -> dict[str, int]:
        return {"train": 7, "test": 5}

    def build(self):
        return {
            split: (torch.full((n, 1, 4, 4), 51, dtype=torch.uint8), torch.arange(n) % 2)
            for split, n in self.counts.items()
        }


def test_a_data_set_needs_its_sizes_counts_and_build_alone(tmp_path):
    data = Squares()
    names, facts = data.encode(tmp_path, torch.device("cpu"), lambda done, total: None)
    assert (names, facts) == (["train.npz", "test.npz"], {})
    images, labels = data.open(tmp_path, "test")
    assert images.dtype == torch.float32 and torch.equal(labels, torch.arange(5) % 2)
    assert images.unique().item() == pytest.approx(51 / 127.5 - 1)
    assert DATASETS["textured_digits"](train=9, test=4).counts == {"train": 9, "test": 4}
    assert (data.largest_sample, data.attributes, data.label_kind) == (3, (2,), "class")
    assert data.targets(labels) is labels and data.prompts() is None and Squares.version == 1
    # facts of the class are not settings, so they enter no digest
    assert data.model_dump() == {"name": "squares", "image_size": 4, "channels": 1, "classes": 2}


@pytest.mark.parametrize(
    ("images", "labels", "problem"),
    [
        (torch.zeros(7, 1, 4, 4), None, r"images (7, 1, 4, 4) torch.float32, not (7, 1, 4, 4) tor"),
        (torch.zeros(7, 3, 4, 4, dtype=torch.uint8), None, "images (7, 3, 4, 4) torch.uint8, not "),
        (torch.zeros(6, 1, 4, 4, dtype=torch.uint8), None, "images (6, 1, 4, 4) torch.uint8, not "),
        (None, torch.zeros(7), "labels (7,) torch.float32, not (7,) torch.int64"),
        (None, torch.full((7,), 2), "labels outside of 0 to 1"),
    ],
)
def test_a_wrong_build_is_one_sentence(tmp_path, monkeypatch, images, labels, problem):
    right = Squares().build()["train"]
    wrong = (right[0] if images is None else images, right[1] if labels is None else labels)
    monkeypatch.setattr(Squares, "build", lambda self: {"train": wrong})
    with pytest.raises(UserError, match=re.escape(f"squares: its build gives train {problem}")):
        Squares().encode(tmp_path, torch.device("cpu"), lambda done, total: None)
    assert not list(tmp_path.iterdir())


def test_a_build_of_a_split_that_is_not_counted_is_one_sentence(tmp_path, monkeypatch):
    splits = Squares().build()
    monkeypatch.setattr(Squares, "build", lambda self: {"score": splits["test"]})
    with pytest.raises(UserError, match="its build gives score which is not in its counts; fix it"):
        Squares().encode(tmp_path, torch.device("cpu"), lambda done, total: None)


def test_a_class_that_is_no_whole_data_set_says_what_it_lacks():
    class Sizeless(Dataset):
        name: Literal["sizeless"] = "sizeless"
        channels: int = 1

    assert completeness_problem(Squares) == ""
    assert completeness_problem(Sizeless) == "lacks image_size, classes, build"


def test_every_data_set_states_the_contract():
    for name, dataset in DATASETS.items():
        assert issubclass(dataset, Dataset) and dataset.model_fields["name"].default == name
        assert dataset.title and dataset.version >= 1
    assert [name for name, dataset in DATASETS.items() if dataset.stored == "latents"] == ["images"]
    assert (DATASETS["textured_digits"].version, DATASETS["canvas"].version) == (2, 2)
    assert DATASETS["captions"]().label_kind == "caption"


@pytest.mark.parametrize("name", [*BUILT, "captions"])
def test_counts_are_those_of_the_splits(name):
    data, splits = build(name, **({} if name == "digits" else SMALL))
    assert data.counts == {split: len(labels) for split, (_, labels) in splits.items()}


def test_images_of_one_original_are_known():
    """Untextured, they differ by a shift that loses no ink; the labels are the originals'."""
    plain = TexturedDigits(train=3000, test=2000, contrast=0)
    for split, (images, labels) in plain.build().items():
        index = plain.originals_of(split)
        total = images.double().sum((1, 2, 3)).numpy()
        assert len(np.unique(index)) < len(index) / 2
        for original in np.unique(index)[:40]:
            assert len(np.unique(total[index == original])) == 1
        assert (originals(0)[split][1][index] == labels.numpy()).all()
    captions = Captions(train=60, score=50, test=40)
    for split, (_, labels) in captions.build().items():
        digits = originals(0)["test" if split == "test" else "train"][1]
        digits = digits[673:] if split == "score" else digits
        assert (
            digits[captions.originals_of(split)] == captions.targets(labels)[:, 0].numpy()
        ).all()
    assert Digits().originals_of("test") is None


def test_no_row_of_a_photograph_is_in_both_splits_nor_within_the_guard_band():
    for photograph in PHOTOGRAPHS:
        places = photographs.places(len(photographs.pixels_of(photograph)), photograph)
        side = SIDE * photograph.reduction
        train, test = ({int(row) + i for row in places[s] for i in range(side)} for s in places)
        apart = min(abs(a - b) for a in train for b in test)
        assert apart > photographs.GUARD * photograph.reduction, photograph
        assert len(train) > len(test) > 0


def test_a_crop_is_the_mean_of_its_pixels_rounded_half_up_and_mirrored():
    pixels = np.random.default_rng(0).integers(256, size=(100, 120, 3)).astype(np.uint8)
    plain = photographs.crop(pixels, 3, 2, 5, False, False)
    square = torch.from_numpy(pixels[2:98, 5:101]).permute(2, 0, 1).double()
    means = torch.nn.functional.avg_pool2d(square, 3).permute(1, 2, 0).numpy()
    assert np.array_equal(plain, np.floor(means + 0.5))
    mirrored = photographs.crop(pixels, 3, 2, 5, True, True)
    assert np.array_equal(mirrored, plain[::-1, ::-1])


def test_crops_of_one_original_overlap_and_those_of_a_photograph_are_its_class():
    data = Photographs(train=120, test=60)
    for split, (images, labels) in data.build().items():
        assert labels.tolist() == [row % len(PHOTOGRAPHS) for row in range(data.counts[split])]
        cells = data.originals_of(split)
        for cell in np.unique(cells):
            members = np.flatnonzero(cells == cell)
            (label,) = set(labels[members].tolist())
            drawn = data.drawn(split, label)
            side = SIDE * PHOTOGRAPHS[label].reduction
            places = members // len(PHOTOGRAPHS)
            assert np.ptp(drawn.top[places]) < side and np.ptp(drawn.left[places]) < side
        grey = images.float().std(1).mean((1, 2)) < 1e-6  # three photographs have no colour
        assert set(labels[grey].tolist()) == {0, 1, 2}
