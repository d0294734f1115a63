"""The stage that measures planted changes of real images."""

from __future__ import annotations

import csv

import numpy as np
import torch

from hdbench.core.pixels import load_images
from hdbench.evaluation.changes import Images, changes
from hdbench.metrics import Design, error_of, measure_metrics
from hdbench.stages.context import Context, Payload, targets_of
from hdbench.stages.evaluate import read_reference, sample_of
from hdbench.stages.networks import load_classifier

SENSITIVITY = "sensitivity.csv"
UNCHANGED = "unchanged"


def sensitivity(context: Context) -> Payload:
    """Every metric of held-out images of train, as they are and with each change.

    Standard errors are by design: images of one original are a cluster, and so is an image that a
    change puts twice.
    """
    config = context.config
    network = load_classifier(context)
    reference = read_reference(context)
    dataset = context.dataset()
    start = len(reference["train_features"])
    rows = slice(start, start + config.samples)
    sets = {split: images_of(context, split) for split in ("train", "test")}
    real = sets["train"].take(rows)
    targets = targets_of(context, real.labels)
    classes = targets if targets.ndim == 1 else targets[:, 0]
    variants = {UNCHANGED: real} | changes(real, classes, dataset.background)
    for name, images in dataset.variants("train", rows).items():
        variants[name] = real._replace(images=images)
    first = slice(0, config.samples)
    variants["Copies of training images"] = sets["train"].take(first)
    variants["Images of test"] = sets["test"].take(first)
    with (context.work.path / SENSITIVITY).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["change", "metric", "value", "se", "n"])
        for change, (images, labels, originals) in variants.items():
            design = Design(clusters=originals.numpy())
            sample = sample_of(context, network, reference, images, labels, design=design)
            for name, estimate in measure_metrics(config.metrics, sample).items():
                size = len(estimate.influence)
                error = repr(error_of(name, estimate))
                writer.writerow([change, name, repr(estimate.value), error, size])
    return [SENSITIVITY], {}


def images_of(context: Context, split: str) -> Images:
    """A split of the chain's data, with what its images were made from."""
    images, labels = load_images(context.parent("data").folder / f"{split}.npz")
    originals = context.dataset().originals_of(split)
    numbers = np.arange(len(labels)) if originals is None else originals
    return Images(images, labels, torch.from_numpy(numbers.astype(np.int64)))
