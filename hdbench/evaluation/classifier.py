"""The `classifier` protocol, that of the small suites: every metric on the features of the suite's own classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from hdbench.core.pixels import to_float
from hdbench.metrics import Estimate, classification, frechet, manifold, spectrum


def reference_arrays(
    parts: Mapping[str, tuple[Tensor, np.ndarray]], bands: int
) -> dict[str, np.ndarray]:
    """Arrays of reference.npz from images (N, C, H, W) uint8 and features (N, d) of each real set."""
    arrays = {}
    for name, (images, features) in parts.items():
        rings = spectrum.radial_power(to_float(images))
        arrays |= {
            f"{name}_features": features,
            f"{name}_bands": spectrum.band_power(rings, bands),
            f"{name}_rings": rings.mean(0),
        }
    return arrays


def estimates(
    images: Tensor,
    wanted: np.ndarray,
    features: np.ndarray,
    probabilities: np.ndarray,
    real: Mapping[str, np.ndarray],
    *,
    neighbours: int,
    itself: str | None = None,
    attributes: tuple[int, ...] | None = None,
) -> tuple[dict[str, Estimate], np.ndarray]:
    """Every metric by name, and the mean radial power (H/2,) of the images.

    images (N, C, H, W) uint8, wanted classes (N,) or (N, A), features (N, d), probabilities (N, classes), see
    `classification.accuracy`; `real` is what `reference_arrays` made.  `itself` names the real set that the
    images are, which is not compared with itself where that is test.
    """
    rings = spectrum.radial_power(to_float(images))
    bands = spectrum.band_power(rings, real["train_bands"].shape[1])
    precision, recall = manifold.precision_recall(
        torch.from_numpy(features), torch.from_numpy(real["train_features"]), neighbours
    )
    found = {
        f"fd_{to}": frechet.frechet_distance(
            features, frechet.GaussianReference.of(real[f"{to}_features"])
        )
        for to in ("train", "test")
        if to == "train" or itself != "test"
    }  # test against itself measures nothing
    found |= {
        "precision": precision,
        "recall": recall,
        "accuracy": classification.accuracy(probabilities, wanted, attributes),
        "classifier_score": classification.classifier_score(
            probabilities[:, : (attributes or [None])[0]]
        ),
    }
    found |= {
        f"power_band{band + 1}": spectrum.relative_power(
            bands[:, band], real["train_bands"][:, band]
        )
        for band in range(bands.shape[1])
    }
    return found, rings.mean(0)


def by_caption(
    features: np.ndarray,
    probabilities: np.ndarray,
    wanted: np.ndarray,
    captions: Sequence[Mapping],
    real: Mapping[str, np.ndarray],
    real_captions: Sequence[Mapping] | None,
    attributes: tuple[int, ...],
) -> dict[str, tuple[Estimate, int]]:
    """Frechet distance to test images of each category, and accuracy on captions that training had and had not; with N.

    Without `real_captions`, of images that are the test images, there is no distance.
    """

    def rows(table: Sequence[Mapping], key: str, value) -> np.ndarray:
        return np.flatnonzero([row[key] == value for row in table])

    found = {}
    for category in sorted({row["category"] for row in captions}) if real_captions else ():
        ours, theirs = (
            rows(captions, "category", category),
            rows(real_captions, "category", category),
        )
        if min(len(ours), len(theirs)) > 1:
            reference = frechet.GaussianReference.of(real["test_features"][theirs])
            found[f"fd_test_{category}"] = (
                frechet.frechet_distance(features[ours], reference),
                len(ours),
            )
    for name, hidden in (("accuracy_seen", False), ("accuracy_held_out", True)):
        if len(ours := rows(captions, "held_out", hidden)) > 1:
            found[name] = (
                classification.accuracy(probabilities[ours], wanted[ours], attributes),
                len(ours),
            )
    return found
