"""Planted factors are read back, their laws are met or missed by known amounts, gain is undone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from hdbench.core.pixels import to_float
from hdbench.datasets import Canvas, Captions, Digits, TexturedDigits, texture
from hdbench.datasets.captions import NAMES, attributes_of
from hdbench.datasets.textured_digits import SECTORS, SHIFTS
from hdbench.metrics import (
    METRICS,
    MetricInput,
    calibration,
    factors,
    frechet,
    measure_metrics,
    metrics_named,
)
from hdbench.metrics.calibration import calibrated, with_gain

N = 400
DATA = {"textured": TexturedDigits(train=N, test=N), "canvas": Canvas(train=100, test=100)}


def planted(data: TexturedDigits, split: str) -> dict[str, np.ndarray]:
    """What the generator drew, as `read_factors` says it: (N, K) by factor, phases in radians."""
    drawn, labels = data.drawn(split)
    k = len(drawn.ink) // len(labels)
    return {
        "digit": labels[:, None].repeat(k, 1),
        "orientation": (drawn.direction < 0).reshape(-1, k),
        "phase": drawn.phase.reshape(-1, k),
    }


# reading


@pytest.mark.parametrize("name", DATA)
def test_what_the_generator_draws_is_read_back(name):
    """Digits of unseen shapes in 97%, every orientation, phases within a sixth of a radian."""
    data = DATA[name]
    for split, (images, _) in data.build().items():
        truth, read = planted(data, split), data.read_factors(images)
        assert (read["digit"] == truth["digit"]).mean() >= (1 if split == "train" else 0.97)
        assert np.array_equal(read["orientation"], truth["orientation"])
        reading = texture.read(data.taken_apart(images)[:, 0].numpy(), data.wavelength)
        error = np.angle(np.exp(1j * (reading.phase - truth["phase"].ravel())))
        assert np.sqrt(np.mean(error**2)) < 0.16 and abs(error.mean()) < 0.02
        assert read["contrast"].mean() == pytest.approx(data.contrast, rel=0.02)
        assert read["contrast"].std() < 0.06 and read["coherence"].mean() > 0.93


def test_with_the_ink_known_the_fit_is_exact():
    """The low-pass that stands for ink is the filters' only error beside the rounding of pixels."""
    data = DATA["textured"]
    images, (drawn, _) = data.build()["test"][0][:, 0].double().numpy(), data.drawn("test")
    k_r = texture.angle((16, 16), drawn.direction, data.wavelength)
    weights, residual = texture._fit(images, 255 * drawn.ink, k_r)
    a, p, q = weights.T
    amplitude = np.hypot(p, q)
    np.testing.assert_allclose(2 * amplitude / (a + amplitude), data.contrast, atol=2e-3)
    error = np.angle(np.exp(1j * (np.arctan2(p, q) - drawn.phase.ravel())))
    assert abs(error).max() < 5e-3
    assert residual.max() < 256 / 4  # roundings of half a level


def test_shifts_of_training_shapes_are_read_back():
    data = TexturedDigits(train=N, test=2)
    drawn, _ = data.drawn("train")
    read = data.read_factors(data.build()["train"][0])["shift"][:, 0]
    rows, columns = (np.array(SHIFTS)[read].T[axis] for axis in (0, 1))
    empty_top = [np.argmax(image.any(1)) for image in drawn.ink]  # all digits fill the 14 rows
    tall = np.array([image.any(1).sum() == 14 for image in drawn.ink])
    assert tall.mean() > 0.9
    assert ((rows + 1)[tall] == np.array(empty_top)[tall]).mean() > 0.97
    assert np.bincount(columns + 1).min() > N / 4


def test_readings_do_not_change_with_the_gain():
    data = DATA["textured"]
    images = data.build()["test"][0]
    shown = texture.read(images[:, 0].numpy(), 4.0)
    dimmed = texture.read(0.7 * images[:, 0].double().numpy(), 4.0)
    for a, b in zip(shown[:4], dimmed[:4], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)


def test_nothing_is_read_off_a_black_image_and_no_wave_off_plain_ink():
    data = TexturedDigits(train=N, test=N, contrast=0.0)
    assert [factor.name for factor in data.factors()] == ["digit", "shift"]
    plain = texture.read(data.build()["test"][0][:, 0].numpy(), 4.0)
    assert plain.contrast.mean() < 0.25 and plain.coherence.mean() < 0.6
    black = texture.read(np.zeros((2, 16, 16), dtype=np.uint8), 4.0)
    assert not black.contrast.any() and not black.coherence.any()


def test_a_canvas_is_taken_apart_as_it_was_assembled():
    digits = torch.arange(8 * 256).reshape(8, 1, 16, 16)
    canvas = DATA["canvas"]
    assert canvas.assembled(digits).shape == (2, 1, 32, 32)
    assert torch.equal(canvas.taken_apart(canvas.assembled(digits)), digits)


# laws


def test_coverage_in_closed_form():
    """1 under the law, half of the values 1/2, one missing of V (V - 1) / V, else exp(-KL)."""
    law = (0.25,) * 4
    for values, expected in (
        ([[0, 1], [2, 3]], 1.0),
        ([[0, 1], [1, 0]], 0.5),
        ([[0], [1], [3]], 0.75),
        ([[2], [2]], 0.25),
        ([[0], [0], [0], [1]], math.exp(-(0.75 * math.log(3) + 0.25 * math.log(1)))),
    ):
        assert factors.coverage(np.array(values), law).value == pytest.approx(expected)
    uneven = factors.coverage(np.array([[0], [0], [1]]), (2 / 3, 1 / 3))
    assert uneven.value == pytest.approx(1) and abs(uneven.influence).max() < 1e-12


@pytest.mark.parametrize("places", [1, 4])
@pytest.mark.parametrize("measure", ["coverage", "distance", "accuracy"])
def test_influences_are_derivatives_in_a_samples_weight(measure, places):
    """IF_i = d/dh T((1 - h) P + h delta_i), by one sample repeated in a large multiple of all."""
    rng = np.random.default_rng(0)
    copies = 2000
    if measure == "distance":
        values, function = rng.uniform(0.2, 1, (30, places)), lambda v: factors.distance(v, 0.7)
    else:
        values = rng.choice(4, p=[0.6, 0.2, 0.1, 0.1], size=(30, places))
        values[:4] = np.arange(4)[:, None]
        function = lambda v: factors.coverage(v, (0.4, 0.3, 0.2, 0.1))
        if measure == "accuracy":
            function = lambda v: factors.accuracy(v, np.ones(len(v)))
    base = function(values)
    large = np.tile(values, (copies, 1))
    weight = 1 / (len(large) + 1)
    for row in (0, 7, 29):
        heavier = function(np.concatenate([large, values[row : row + 1]]))
        derivative = (heavier.value - base.value) / weight
        assert derivative == pytest.approx(base.influence[row], rel=0.01, abs=1e-3)


@pytest.mark.parametrize(
    ("truth", "low", "high"), [((0.5, 0.3, 0.2), 0.9, 1.1), ((1 / 3,) * 3, 1.2, 1.6)]
)
def test_standard_error_of_coverage(truth, low, high):
    """That of simulation away from the law; under the law itself sqrt(2) times it."""
    rng = np.random.default_rng(1)
    draws = [
        factors.coverage(rng.choice(3, p=truth, size=(N, 1)), (1 / 3,) * 3) for _ in range(1500)
    ]
    error = np.sqrt(np.mean([draw.standard_error**2 for draw in draws]))
    assert low < error / np.std([draw.value for draw in draws]) < high
    if len(set(truth)) == 1:
        bias = 1 - np.mean([draw.value for draw in draws])
        assert bias == pytest.approx((3 - 1) / (2 * N), rel=0.1)


def test_variants_change_their_factor_and_no_other():
    data = DATA["textured"]
    rows = slice(0, N)
    real = data.read_factors(data.build()["test"][0])
    law = {factor.name: factor.law for factor in data.factors()}
    read = {name: data.read_factors(x) for name, x in data.variants("test", rows).items()}
    turned, half, scattered, flat = read.values()
    of_turned = factors.coverage(turned["orientation"], law["orientation"])
    expected = math.exp(-(0.75 * math.log(1.5) + 0.25 * math.log(0.5)))
    assert of_turned.value == pytest.approx(expected, abs=0.03)
    # a half, and what errors of the phase add at its two ends
    assert 0.5 < factors.coverage(half["phase"], law["phase"]).value < 0.6
    assert factors.coverage(real["phase"], law["phase"]).value > 0.97
    assert scattered["coherence"].mean() < 0.5 < 0.93 < half["coherence"].mean()
    assert flat["contrast"].mean() == pytest.approx(0.9 * data.contrast, rel=0.02)
    for other in (turned, half):
        assert other["contrast"].mean() == pytest.approx(real["contrast"].mean(), rel=0.02)
        assert (other["digit"] == real["digit"]).mean() > 0.97


def test_colour_place_and_background_of_captions_are_read_without_an_error():
    """Whatever the shape: of splits whose digits no template is of; digits of these in 97%."""
    data = Captions(train=N, test=N, score=N)
    for split, (images, rows) in data.build().items():
        truth, read = attributes_of(rows.numpy()), data.read_factors(images)
        for k, name in enumerate(NAMES):
            right = (read[name][:, 0] == truth[:, k]).mean()
            assert right >= (0.95 if name == "digit" and split != "train" else 1), (split, name)
        dimmed = ((images - 20.0).clamp(0, 255) * 0.9).byte()  # neither light nor gain is a colour
        assert (data.read_factors(dimmed)["colour"] == read["colour"]).mean() > 0.95


def test_half_of_an_attribute_changed_moves_its_coverage_and_accuracy_by_what_was_planted():
    data = Captions(train=4 * N, test=2, score=2)
    images, rows = data.build()["train"]
    wanted = attributes_of(rows.numpy())
    shares = dict(zip(NAMES, wanted.T, strict=True))
    for name, changed in data.variants("train", slice(None)).items():
        factor = name.partition(":")[0].lower()
        estimates = measure_metrics(
            ["factor_accuracy_{factor}", "factor_coverage_{factor}"],
            MetricInput(images=changed, wanted=wanted, data=data),
        )
        moved = (shares[factor] == 0).sum() // 2 / len(rows)
        for other in NAMES[1:]:
            right = 1 - moved * (other == factor)
            assert estimates[f"factor_accuracy_{other}"].value == pytest.approx(right, abs=1e-9)
        values = len(next(f.law for f in data.factors() if f.name == factor))
        p = np.bincount(shares[factor], minlength=values) / len(rows) + moved * np.eye(values)[1]
        p[0] -= moved
        assert estimates[f"factor_coverage_{factor}"].value == pytest.approx(
            np.exp(-(p * np.log(p)).sum()) / values
        )


def test_metrics_are_of_the_factors_that_a_data_set_says():
    for data, names in (
        (Digits(), {"factor_accuracy_digit", "factor_coverage_digit"}),
        (Captions(train=N, test=N, score=N),
         {f"factor_{kind}_{name}" for kind in ("accuracy", "coverage") for name in NAMES}),
        (DATA["textured"], {"factor_accuracy_digit", "factor_coverage_orientation",
                            "factor_mean_coherence", "factor_distance_contrast"}),
    ):  # fmt: skip
        images, labels = data.build()["test"]
        sample = MetricInput(images=images, wanted=data.targets(labels).numpy(), data=data)
        families = [f"factor_{kind}_{{factor}}" for kind in
                    ("accuracy", "coverage", "mean", "distance")]  # fmt: skip
        estimates = measure_metrics(families, sample)
        assert names <= estimates.keys()
        assert all(len(estimate.influence) == len(images) for estimate in estimates.values())
        assert 0.97 < estimates["factor_accuracy_digit"].value < 1
    assert measure_metrics(families, MetricInput(images=images)) == {}


# gain


def seen(x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, 6) of a smooth fixed network, and no probabilities."""
    weights = torch.randn(x[0].numel(), 6, generator=torch.Generator().manual_seed(0))
    y = (x.double().flatten(1) + 1) @ weights.double() / 16
    return (y + 0.3 * torch.tanh(y)).numpy(), np.empty(0)


def with_reference(images: Tensor, real: Tensor, test: Tensor, **more) -> MetricInput:
    arrays = {f"{name}_features": seen(to_float(x))[0] for name, x in
              (("train", real), ("test", test))}  # fmt: skip
    features = seen(to_float(images))[0]
    return MetricInput(
        images=images, features=features, real=arrays, data=Digits(), network=seen, **more
    )


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor, Tensor]:
    splits = DATA["textured"].build()
    train, test = splits["train"][0], splits["test"][0]
    return (0.8 * train[: N // 2].double()).round().byte(), train[N // 2 :], test[: N // 2]


@pytest.mark.parametrize("scale", [0.75, 0.9, 1.0])
def test_the_gain_of_scaled_images_is_undone(images, scale):
    """Of images of train themselves, up to the rounding of pixels; the distance is then 0."""
    _, real, test = images
    dimmed = (scale * real.double()).round().byte()
    result = calibrated(with_reference(dimmed, real, test))
    assert result.gain.value == pytest.approx(1 / scale, rel=2e-3)
    raw = frechet.estimate(seen(to_float(dimmed))[0], reference_of(real)).value
    assert abs(result.distances["train"].value) < 1e-3 + 1e-3 * raw


def reference_of(real: Tensor) -> frechet.GaussianReference:
    return frechet.GaussianReference.of_statistics(*frechet.moments(seen(to_float(real))[0]))


def test_the_gain_is_the_minimum_and_the_distances_are_those_there(images):
    sample = with_reference(*images)
    result = calibrated(sample)
    references = [reference_of(x) for x in images[1:]]

    def at(gain: float, reference: frechet.GaussianReference) -> float:
        return frechet.distance(seen(with_gain(images[0], 0, gain))[0], reference)

    gain = result.gain.value
    for split, reference in zip(("train", "test"), references, strict=True):
        assert result.distances[split].value == pytest.approx(at(gain, reference), rel=1e-4)
    grid = [at(g, references[0]) for g in np.linspace(2 / 3, 3 / 2, 101)]
    assert at(gain, references[0]) <= min(grid)


OF = {
    "gain": lambda result: result.gain,
    "train": lambda result: result.distances["train"],
    "test": lambda result: result.distances["test"],
}


def test_influences_at_the_calibrated_gain_are_derivatives_in_a_samples_weight(images):
    """One sample more among a dozen copies of each, which moves the gain too."""
    few, copies = images[0][:60], 12
    large = few.repeat(copies, 1, 1, 1)
    base = calibrated(with_reference(large, *images[1:]))
    for row in (0, 17, 59):
        heavier = torch.cat([large, few[row : row + 1]])
        result = calibrated(with_reference(heavier, *images[1:]))
        for name, of in OF.items():
            derivative = (of(result).value - of(base).value) * len(heavier)
            influence = of(base).influence
            near = pytest.approx(influence[row], rel=0.05, abs=0.05 * influence.std())
            assert derivative == near, name


def test_standard_errors_at_the_calibrated_gain_by_the_jackknife(images):
    """Delete one: (N - 1)(mean - value without i), of the gain and of both distances."""
    few = images[0][:100]
    whole = calibrated(with_reference(few, *images[1:]))
    keep = ~torch.eye(len(few), dtype=torch.bool)
    without = [calibrated(with_reference(few[rows], *images[1:])) for rows in keep]
    for name, of in OF.items():
        values = np.array([of(result).value for result in without])
        error = (len(few) - 1) * values.std(ddof=1) / len(few) ** 0.5
        assert of(whole).standard_error == pytest.approx(error, rel=0.1), name


def test_a_gain_beyond_the_bounds_has_no_error_and_black_levels_are_needed(images):
    result = calibrated(with_reference((0.3 * images[1].double()).byte(), *images[1:]))
    assert result.gain.value == pytest.approx(1.5, rel=0.02)
    assert np.isnan(result.gain.influence).all()
    assert np.isfinite(result.distances["test"].influence).all()
    assert calibrated(MetricInput(images=images[0], network=seen)) is None


def test_mean_and_covariance_term_add_up_to_the_distance(images):
    sample = with_reference(*images)
    names = ["fd_mean_{split}", "fd_covariance_{split}"]
    estimates = measure_metrics([*names, "fd_train", "fd_test"], sample)
    for split in ("train", "test"):
        whole = estimates[f"fd_{split}"]
        parts = [estimates[name.format(split=split)] for name in names]
        assert sum(part.value for part in parts) == pytest.approx(whole.value, rel=1e-12)
        np.testing.assert_allclose(sum(part.influence for part in parts), whole.influence)
        shift = sample.features.mean(0) - sample.real[f"{split}_features"].mean(0)
        assert parts[0].value == pytest.approx((shift**2).sum())
    of_test = MetricInput(features=sample.features, real=sample.real, real_split="test")
    assert calibration.splits(of_test) == ("train",)


def test_a_shift_of_features_is_all_mean_and_a_turn_all_covariance():
    x = np.random.default_rng(0).normal(size=(N, 4)) * [1, 2, 3, 4]
    arrays = {f"{split}_features": x for split in ("train", "test")}
    mean, rest = calibration.terms(MetricInput(features=x + 1, real=arrays))["train"]
    assert mean.value == pytest.approx(4) and abs(rest.value) < 1e-6
    turned = (x - x.mean(0))[:, [1, 0, 3, 2]] + x.mean(0)
    mean, rest = calibration.terms(MetricInput(features=turned, real=arrays))["train"]
    assert mean.value < 1e-20 and rest.value > 1


def test_a_group_stands_for_its_metrics_and_a_family_is_titled_by_its_member():
    of_group = metrics_named(["factors"])
    assert {"gain", "fd_calibrated_{split}", "factor_coverage_{factor}"} <= set(of_group)
    assert all(METRICS[name].group == "factors" for name in of_group)
    assert metrics_named(["gain", "factors", "nonsense"]) == (
        "gain",
        *(name for name in of_group if name != "gain"),
        "nonsense",
    )
    assert metrics_named(["protocol"]) == ("protocol",)  # whose metrics are the protocol's
    family = METRICS["factor_coverage_{factor}"]
    assert family.title_of("factor_coverage_shift") == "Coverage of shift"
    assert METRICS["gain"].title_of("gain") == "Gain needed"


def test_phases_are_counted_in_equal_sectors():
    law = {factor.name: factor.law for factor in TexturedDigits().factors()}
    assert len(law["phase"]) == SECTORS and sum(law["phase"]) == pytest.approx(1)
