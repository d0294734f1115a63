"""The protocol of the small suites: its metrics, their order, and the samples that each is of."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hdbench.core.pixels import to_float
from hdbench.evaluation import classifier
from hdbench.metrics import classification, frechet, manifold, spectrum

N = 40
CLASSES = 3
PLAIN = [
    *("fd_train", "fd_test", "precision", "recall", "density", "coverage", "accuracy"),
    *("classifier_score", "power_band1", "power_band2"),
]


def drawn(seed: int) -> tuple[torch.Tensor, np.ndarray, np.ndarray, np.ndarray]:
    """Images, wanted classes, features and probabilities of N samples."""
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.integers(0, 256, (N, 1, 8, 8), dtype=np.uint8))
    features = rng.normal(size=(N, 4)).astype(np.float32)
    probabilities = rng.dirichlet(np.ones(CLASSES), size=N).astype(np.float32)
    return images, rng.integers(CLASSES, size=N), features, probabilities


@pytest.fixture(scope="module")
def real() -> dict[str, np.ndarray]:
    sets = {name: drawn(seed) for name, seed in (("train", 1), ("held_out", 2), ("test", 3))}
    return classifier.reference_arrays({name: (x[0], x[2]) for name, x in sets.items()}, bands=2)


def test_each_metric_is_that_of_its_own_function(real):
    images, wanted, features, probabilities = drawn(0)
    sample = classifier.metric_input(images, wanted, features, probabilities, real, neighbours=3)
    estimates = classifier.estimates(sample)
    assert list(estimates) == PLAIN
    assert all(
        len(estimate.influence) == N and estimate.rows is None for estimate in estimates.values()
    )
    for part in ("train", "test"):
        statistics = frechet.moments(real[f"{part}_features"])
        reference = frechet.GaussianReference.of_statistics(*statistics)
        expected = frechet.estimate(features, reference)
        assert estimates[f"fd_{part}"].value == expected.value
    precision, recall, density, coverage = manifold.manifold_metrics(
        torch.from_numpy(features).double(), torch.from_numpy(real["train_features"]).double(), 3
    )
    assert estimates["precision"].value == precision.value
    assert estimates["recall"].value == recall.value
    assert estimates["density"].value == density.value
    assert estimates["coverage"].value == coverage.value
    assert estimates["recall"].standard_error == recall.standard_error > 0
    accuracy = classification.accuracy(probabilities, wanted)
    assert estimates["accuracy"].value == accuracy.value
    rings = spectrum.band_power(spectrum.radial_power(to_float(images)), 2)
    band = spectrum.relative_power(rings[:, 1], real["train_bands"][:, 1])
    assert estimates["power_band2"].value == band.value


def test_the_real_test_images_have_no_distance_to_themselves(real):
    images, wanted, features, probabilities = drawn(3)
    for split, lacking in (("test", {"fd_test"}), ("train", set()), (None, set())):
        sample = classifier.metric_input(
            images, wanted, features, probabilities, real, neighbours=3, real_split=split
        )
        assert set(PLAIN) - set(classifier.estimates(sample)) == lacking


def test_metrics_of_captions_are_of_their_own_samples(real):
    """Categories of one image on a side have no distance, and accuracy is of all attributes."""
    images, first, features, _ = drawn(0)
    rng = np.random.default_rng(9)
    attributes = (CLASSES, 2)
    probabilities = np.concatenate(
        [rng.dirichlet(np.ones(n), size=N) for n in attributes], axis=1
    ).astype(np.float32)
    wanted = np.stack([first, rng.integers(2, size=N)], axis=1)
    captions = [
        {"category": "cat" if row < 15 else "dog" if row < 39 else "eel", "held_out": row % 4 == 0}
        for row in range(N)
    ]
    real_captions = [{"category": "dog" if row < 30 else "cat"} for row in range(N)]
    towers = tuple(rng.normal(size=(2, N, 5)))
    sample = classifier.metric_input(
        images,
        wanted,
        features,
        probabilities,
        real,
        neighbours=3,
        attributes=attributes,
        captions=captions,
        real_captions=real_captions,
        clip=towers,
    )
    estimates = classifier.estimates(sample)
    own = ["clip_score", "fd_test_cat", "fd_test_dog", "accuracy_seen", "accuracy_held_out"]
    assert list(estimates) == [*PLAIN, *own]
    assert [len(estimates[name].influence) for name in own] == [N, 15, 24, 30, 10]
    assert estimates["fd_test_dog"].rows.tolist() == list(range(15, 39))
    dogs = real["test_features"][:30]
    reference = frechet.GaussianReference.of_statistics(*frechet.moments(dogs))
    expected = frechet.estimate(features[15:39], reference)
    assert estimates["fd_test_dog"].value == expected.value
    right = (probabilities[:, :CLASSES].argmax(1) == wanted[:, 0]) & (
        probabilities[:, CLASSES:].argmax(1) == wanted[:, 1]
    )
    assert estimates["accuracy"].value == right.mean()
    assert estimates["accuracy_held_out"].value == right[::4].mean()
    alone = classification.classifier_score(probabilities[:, :CLASSES])
    assert estimates["classifier_score"].value == alone.value
