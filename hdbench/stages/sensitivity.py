"""The stage that measures planted changes of real images."""

from __future__ import annotations

import csv

from hdbench.core.pixels import load_images
from hdbench.evaluation.changes import Images, changes
from hdbench.metrics import measure_metrics
from hdbench.stages.context import Context, Payload, targets_of
from hdbench.stages.evaluate import read_reference, sample_of
from hdbench.stages.networks import load_classifier

SENSITIVITY = "sensitivity.csv"
UNCHANGED = "unchanged"


def sensitivity(context: Context) -> Payload:
    """Every metric of held-out images of train, as they are and with each change.

    Standard errors are those of as many independent images.
    """
    config = context.config
    network = load_classifier(context)
    reference = read_reference(context)
    dataset = context.dataset()
    start = len(reference["train_features"])
    rows = slice(start, start + config.samples)
    folder = context.parent("data").folder
    sets = {name: Images(*load_images(folder / f"{name}.npz")) for name in ("train", "test")}
    real = Images(*(array[rows] for array in sets["train"]))
    targets = targets_of(context, real.labels)
    classes = targets if targets.ndim == 1 else targets[:, 0]
    variants = {UNCHANGED: real} | changes(real, classes, dataset.background)
    for name, images in dataset.variants("train", rows).items():
        variants[name] = real._replace(images=images)
    first = slice(0, config.samples)
    variants["Copies of training images"] = Images(*(array[first] for array in sets["train"]))
    variants["Images of test"] = Images(*(array[first] for array in sets["test"]))
    with (context.work.path / SENSITIVITY).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["change", "metric", "value", "se", "n"])
        for change, (images, labels) in variants.items():
            sample = sample_of(context, network, reference, images, labels)
            for name, estimate in measure_metrics(config.metrics, sample).items():
                size = len(estimate.influence)
                value, error = repr(estimate.value), repr(estimate.standard_error)
                writer.writerow([change, name, value, error, size])
    return [SENSITIVITY], {}
