"""Images as people have them: formats, what is ignored, 16 bits, animations, forms of npz files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image, ImageCms

from hdbench.cli import main
from hdbench.core import image_files
from hdbench.core.errors import UserError
from hdbench.core.pixels import to_uint8
from hdbench.datasets.latents.content import load
from hdbench.datasets.latents.readers.base import Item
from hdbench.evaluation import references
from hdbench.evaluation.archives import STANDARD, ArrayForm
from hdbench.evaluation.extractors import Setup
from hdbench.evaluation.extractors.inception import (
    InceptionClean,
    InceptionExtractor,
    InceptionTensorflow,
)
from hdbench.evaluation.images import open_images
from hdbench.evaluation.protocols import PROTOCOLS, label
from hdbench.evaluation.weights import Weights
from tests.support.material import pictures, write_folder
from tests.support.tiny import run_until, stage_of, tiny_plan

N = 5
IMAGES = pictures(N, 11, 32)


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_folder(tmp_path / "samples", IMAGES)


LOSSLESS = {".bmp": {}, ".tif": {}, ".webp": {"lossless": True}, ".ppm": {}, ".apng": {}}


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_a_lossless_format_beside_png_is_read_to_the_bit(folder, suffix):
    form = image_files.SUFFIXES[suffix]
    Image.fromarray(IMAGES[0]).save(folder / f"x{suffix.upper()}", form, **LOSSLESS[suffix])
    images = open_images(folder)
    assert images.ids[-1] == "x" and len(images) == N + 1 and not images.notes
    np.testing.assert_array_equal(images.load(N), IMAGES[0])


@pytest.mark.parametrize("name", ["x.jp2", "x.AVIF", "x.heic", "x.tga", "x.svg"])
def test_an_image_of_another_format_is_refused_by_name(folder, name):
    (folder / name).write_bytes(b"any")
    with pytest.raises(UserError, match=rf"{name}: .* is not read; convert it to PNG"):
        open_images(folder)


def test_what_is_ignored_is_counted_and_said(folder):
    (folder / "notes.txt").write_text("any")
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".hidden.png").write_bytes(b"any")
    images = open_images(folder)
    assert len(images) == N
    assert images.notes == (
        f"{folder}: ignored 3 files or folders, of no images or hidden, such as "
        f"{folder / '.hidden.png'}",
    )


def test_an_npz_in_capitals_is_one(tmp_path):
    np.savez(tmp_path / "a.npz", arr_0=IMAGES)
    (tmp_path / "shards").mkdir()
    file = (tmp_path / "a.npz").rename(tmp_path / "shards/A.NPZ")
    assert len(open_images(file)) == len(open_images(tmp_path / "shards")) == N


def animated(suffix: str):
    def write(path: Path) -> Path:
        frames = [Image.fromarray(image) for image in IMAGES[:2]]
        path = path.with_suffix(suffix)
        frames[0].save(path, save_all=True, append_images=frames[1:])
        return path

    return write


def transparent_colour(path: Path) -> Path:
    Image.fromarray(IMAGES[0]).save(path, transparency=(1, 2, 3))
    return path


def grey_16(path: Path) -> Path:
    Image.fromarray(np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)).save(path)
    return path


DEVIATIONS = {
    "animated png": (animated(".png"), "a file of several pictures (format PNG)"),
    "animated webp": (animated(".webp"), "a file of several pictures (format WEBP)"),
    "pages": (animated(".tif"), "a file of several pictures (format TIFF)"),
    "gif": (animated(".gif"), "a file of several pictures (format GIF)"),
    "tRNS": (transparent_colour, "an image with a transparent colour (mode RGB with tRNS)"),
    "16 bits": (grey_16, "a grey image (mode I;16)"),
}


@pytest.mark.parametrize("kind", DEVIATIONS)
def test_what_is_not_plain_rgb_takes_a_conversion_that_is_said(folder, kind):
    write, named = DEVIATIONS[kind]
    file = write(folder / "x.png")
    with pytest.raises(UserError) as refused:
        open_images(folder)
    assert f"{file}: {named}, not RGB; give --allow conversion" in str(refused.value)
    images = open_images(folder, allow=("conversion",))
    assert images.notes == (f"{folder}: 1 of {N + 1} were converted to RGB: {named}",)
    column = label(PROTOCOLS["clean_fid"], {}, "abc", converted=images.converted > 0)
    assert column == "clean_fid[images=converted]:abc"


def test_of_16_bits_the_upper_8_are_kept_in_samples_and_training_data(folder):
    file = grey_16(folder / "x.png")
    expected = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16) >> 8
    sample = open_images(folder, allow=("conversion",)).load(N)
    np.testing.assert_array_equal(sample, np.repeat(expected[..., None], 3, 2))
    np.testing.assert_array_equal(load(Item(str(file)), 32), sample)


def test_values_without_a_range_are_refused_everywhere(folder):
    file = folder / "x.tif"
    Image.fromarray(np.ones((32, 32), np.float32)).save(file)
    with pytest.raises(UserError, match="values of no known range"):
        open_images(folder, allow=("conversion",))
    assert "values of no known range" in load(Item(str(file)), 32)


def test_orientation_and_profile_are_ignored_and_said(folder):
    exif = Image.Exif()
    exif[image_files.ORIENTATION] = 6
    Image.fromarray(IMAGES[0]).save(folder / "turned.png", exif=exif)
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(IMAGES[0]).save(folder / "profile.png", icc_profile=lab)
    Image.fromarray(IMAGES[0]).save(folder / "srgb.png", icc_profile=srgb)
    images = open_images(folder)
    np.testing.assert_array_equal(images.load(images.ids.index("turned")), IMAGES[0])
    assert sorted(images.notes) == [
        f"{folder}: 1 of {N + 3}: EXIF says that they are turned, which is ignored",
        f"{folder}: 1 of {N + 3}: they have a colour profile that is not named sRGB, which is "
        "ignored",
    ]
    assert images.converted == 0


# npz files of other forms

FLOATS = torch.rand(N, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
LEVELS = to_uint8(FLOATS).permute(0, 2, 3, 1).numpy()
FORMS = {
    "images:nchw:-1..1": FLOATS.numpy(),
    "images:-1..1": FLOATS.permute(0, 2, 3, 1).numpy(),
    "images:nchw:0..1": ((FLOATS.double() + 1) / 2).numpy(),
    "images:nchw": to_uint8(FLOATS).numpy(),
    "images": LEVELS,
    "images:nhwc:0..255": LEVELS.astype(np.float32),
}


@pytest.mark.parametrize("text", FORMS)
def test_a_declared_form_is_converted_as_our_own_images_are(tmp_path, text):
    np.savez(tmp_path / "x.npz", images=FORMS[text])
    images = open_images(tmp_path / "x.npz", form=ArrayForm.read(text))
    np.testing.assert_array_equal(np.stack([images.load(i) for i in range(N)]), LEVELS)
    assert all("was rounded to uint8" in note for note in images.notes)
    assert len(images.notes) == (".." in text)


@pytest.mark.parametrize(
    ("text", "array", "sentence"),
    [
        ("images:nchw", FLOATS, "is float32, not uint8; convert it, or say what range"),
        ("images:nchw:0..1", FLOATS, "which are not within 0 to 1"),
        ("images:nchw:-1..1", FLOATS.abs(), "which look like 0..1"),
        ("images:nchw:0..255", FLOATS.abs(), "which look like 0..1"),
        ("images:nchw:-1..1", FLOATS * torch.nan, "has values from nan to nan"),
        ("images:-1..1", FLOATS, "it looks channels-first, give --array images:nchw"),
        ("images", LEVELS[0], "that of one image"),
        ("images:-1..1", LEVELS, "is uint8, which has no such range"),
        ("pixels", LEVELS, "has no pixels"),
        ("images:1..-1", LEVELS, "--array = 'images:1..-1': write NAME"),
        ("images:chwn", LEVELS, "--array = 'images:chwn': write NAME"),
        ("images:-1..1:nchw", LEVELS, "write NAME"),
        ("images:0..1e400", LEVELS, "write NAME"),
        (f"images:0..1{'0' * 400}", LEVELS, "write NAME"),
        ("", LEVELS, "write NAME"),
    ],
)
def test_a_form_that_is_not_the_files_is_refused(tmp_path, text, array, sentence):
    np.savez(tmp_path / "x.npz", images=np.asarray(array))
    with pytest.raises(UserError) as refused:
        open_images(tmp_path / "x.npz", form=ArrayForm.read(text), allow=("conversion",))
    assert sentence in str(refused.value)


def test_other_forms_of_one_file_are_other_images(tmp_path):
    np.savez(tmp_path / "x.npz", arr_0=LEVELS, images=LEVELS)
    file = tmp_path / "x.npz"
    assert open_images(file).digest == open_images(file, form=STANDARD).digest
    assert open_images(file).digest != open_images(file, form=ArrayForm.read("images")).digest


# statistics of another preprocessing


def planned(source: Path, kind: type[InceptionExtractor]) -> references.Plan:
    weights = Weights("inception", source, "0" * 64, False)
    setup = Setup(device=torch.device("cpu"))
    extractor = kind(SimpleNamespace(layout="library"), weights, ("2048",), setup)
    protocol = next(p for p in PROTOCOLS.values() if p.extractors == (kind.name,) and p.n is None)
    return references.plan(source, protocol, extractor, source.parent / "cache")


def test_statistics_are_taken_only_where_they_are_of_the_preprocessing(tmp_path):
    """ADM's file serves torch-fidelity's Inception; others take its images, or a file of their
    name.
    """
    statistics = {"mu": np.zeros(2048), "sigma": np.eye(2048)}
    np.savez(tmp_path / "adm.npz", arr_0=IMAGES, **statistics)
    np.savez(tmp_path / "alone.npz", **statistics)
    np.savez(tmp_path / "inception_clean.npz", **statistics)
    assert planned(tmp_path / "adm.npz", InceptionTensorflow).key["statistics"] == ["2048"]
    plan = planned(tmp_path / "adm.npz", InceptionClean)
    assert plan.key["statistics"] == "computed" and plan.images is not None
    assert plan.images.notes[-1].endswith("its images are used")
    for kind in (InceptionClean, InceptionTensorflow):
        with pytest.raises(UserError, match=f"not said to be of {kind.name}'s preprocessing"):
            planned(tmp_path / "alone.npz", kind)
    named = planned(tmp_path / "inception_clean.npz", InceptionClean)
    assert named.key["statistics"] == ["2048"] and named.images is None


# the protocol classifier has the same reader


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> tuple[Path, Path]:
    """Samples of a tiny suite, and its reference stage."""
    folder = tmp_path_factory.mktemp("chain")
    plan = tiny_plan(folder)
    stage = stage_of(plan, "sample", "td")
    reference = plan.stages[stage_of(plan, "evaluate", "td")].parents["reference"]
    for needed in (stage, reference):
        run_until(plan, folder / "results", needed)
    stages = folder / "results/stages"
    return stages / stage / "samples.npz", stages / reference


def measured(samples: Path, reference: Path, *more: object):
    arguments = ["evaluate", "--protocol", "classifier", "--samples", samples]
    arguments += ["--reference", reference, *more]
    return CliRunner().invoke(main, list(map(str, arguments)))


WRONG = {
    "float": (lambda x, y: {"arr_0": x / 127.5 - 1, "labels": y}, "is float64, not uint8"),
    "uint16": (lambda x, y: {"arr_0": x.astype("u2"), "labels": y}, "is uint16, not uint8"),
    "from 1": (lambda x, y: {"arr_0": x, "labels": y + 1}, "labels from 1 to 10"),
    "negative": (lambda x, y: {"arr_0": x, "labels": y - 1}, "labels from -1 to 8"),
    "few labels": (lambda x, y: {"arr_0": x, "labels": y[:5]}, "not one whole number for each"),
    "float labels": (lambda x, y: {"arr_0": x, "labels": y * 1.0}, "not one whole number for each"),
    "no labels": (lambda x, y: {"arr_0": x}, "has no labels"),
    "two": (lambda x, y: {"arr_0": x[:2], "labels": y[:2]}, "holds 2 images, classifier wants 64"),
    "none": (lambda x, y: {"arr_0": x[:0], "labels": y[:0]}, "has the shape (0, 8, 8, 1)"),
    "colour": (lambda x, y: {"arr_0": x.repeat(3, 3), "labels": y}, "not (N, H, W, 1)"),
    "larger": (lambda x, y: {"arr_0": x.repeat(2, 1).repeat(2, 2), "labels": y}, "images of 16x16"),
    "first": (lambda x, y: {"arr_0": x.transpose(0, 3, 1, 2), "labels": y}, "channels-first"),
    "name": (lambda x, y: {"x": x, "labels": y}, "has no arr_0"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_samples_that_the_classifier_cannot_measure_are_refused(chain, tmp_path, kind):
    samples, reference = chain
    change, sentence = WRONG[kind]
    with np.load(samples) as arrays:
        np.savez(tmp_path / "x.npz", **change(arrays["arr_0"], arrays["labels"]))
    result = measured(tmp_path / "x.npz", reference, "--out", tmp_path / "out.csv")
    assert result.exit_code == 2 and sentence in result.output, result.output
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("content", [b"", b"PK\3\4 not whole", b"\x80\x04N."])
def test_a_file_that_is_no_npz_is_refused(chain, tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    result = measured(tmp_path / "x.npz", chain[1])
    assert result.exit_code == 2 and "not a readable npz file" in result.output, result.output


def test_the_classifier_takes_grey_images_of_any_declared_form(chain, tmp_path):
    samples, reference = chain
    with np.load(samples) as arrays:
        floats = arrays["arr_0"][..., 0] / np.float32(127.5) - 1
        np.savez(tmp_path / "x.npz", x=floats, labels=arrays["labels"])
    tables = [
        measured(file, reference, *more, "--name", "a").output.split("\nnote: ")[0].strip()
        for file, *more in ((samples,), (tmp_path / "x.npz", "--array", "x:-1..1"))
    ]
    assert "fd_test_64" in tables[0] and tables[0] == tables[1]
