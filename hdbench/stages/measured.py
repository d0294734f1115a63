"""The protocol `classifier` on any npz of images, against a suite's own reference stage."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.torch import load_file
from torch import Tensor

from hdbench.core import files
from hdbench.core.errors import UserError
from hdbench.core.pixels import load_images
from hdbench.datasets.base import Dataset
from hdbench.evaluation.classifier import estimates, metric_input
from hdbench.evaluation.features import digest_of
from hdbench.evaluation.request import Request
from hdbench.evaluation.results import Evaluation, Result
from hdbench.metrics import Design
from hdbench.networks.classifier import Classifier, classify
from hdbench.stages import artifact
from hdbench.stages.context import WEIGHTS, categories_of, of_classifier
from hdbench.suite.stage import config_of

REFERENCE = "results/stages/reference/<id>"


class Against(NamedTuple):
    """What samples are compared with, read from a reference stage and its parents."""

    digest: str
    samples: int
    arrays: dict[str, np.ndarray]  # of reference.npz
    data: Dataset
    network: Classifier


def evaluate_by_classifier(request: Request) -> list[Evaluation]:
    """The protocol on an npz of images and labels, against the request's reference stage.

    Raises UserError for a folder that is no such stage, and for images of another number or shape
    than the reference's.
    """
    if len(request.protocols) != 1:
        raise UserError("classifier: goes alone; give one --protocol")
    if "classifier" not in request.references:
        raise UserError(
            f"classifier: needs a reference; give --reference {REFERENCE} of the suite whose "
            "samples these are, as `hdbench plan` lists it"
        )
    samples = request.samples
    if samples.is_dir():
        raise UserError(
            f"{samples}: a folder; classifier takes one npz file with arr_0 (N, H, W, C) uint8 and "
            "labels (N,), such as results/stages/sample/<id>/samples.npz"
        )
    against = read_reference(request.references["classifier"])
    images, labels = load_images(samples)
    n = len(images)
    if request.n not in (None, n) or (request.n is None and n != against.samples):
        raise UserError(
            f"{samples}: holds {n} images, the reference has {against.samples}; give --n {n} to "
            "compare unequal numbers all the same"
        )
    data = against.data
    expected = (data.channels, data.image_size, data.image_size)
    if images.shape[1:] != expected:
        raise UserError(
            f"{samples}: images of shape {tuple(images.shape[1:])}, the reference's are {expected}"
        )
    design = design_of(samples, data, labels)
    network = against.network.to(request.device).eval()
    features, probabilities = classify(network, images, request.device)
    sample = metric_input(
        images,
        data.targets(labels).numpy(),
        features,
        probabilities,
        against.arrays,
        neighbours=request.protocols[0].neighbours,
        attributes=data.attributes,
        design=design,
    )
    ids = tuple(f"{row:06}" for row in range(n))
    keyed = f"classifier:{against.digest}"
    return [
        Evaluation(
            name=request.name or samples.stem,
            protocol=keyed,
            reference=against.digest,
            digest=digest_of([files.sha256(samples), keyed])[:16],
            results={name: Result(e, ids) for name, e in estimates(sample).items()},
            facts={"samples": str(samples), "n": n},
        )
    ]


def design_of(samples: Path, data: Dataset, labels: Tensor) -> Design:
    """What labels (N,) tell of how the samples were drawn; UserError for a class without any."""
    is_class = data.label_kind == "class" and data.classes is not None
    if is_class and (absent := set(range(data.classes)) - set(labels.tolist())):
        raise UserError(
            f"{samples}: has no image of class {min(absent)}, and the reference has all "
            f"{data.classes}; give samples of every class"
        )
    return Design.told_by(labels.numpy(), categories_of(data, labels))


def read_reference(stage: Path) -> Against:
    """The reference stage in this folder, with the classifier and data that it was made from."""
    place = stage.resolve()
    if place.parent.name != "reference" or not (place / files.MANIFEST).is_file():
        raise UserError(
            f"{stage}: not the folder of a reference stage; give {REFERENCE}, as `hdbench plan` "
            "lists it"
        )
    results = place.parents[2]
    path, manifest = artifact.load(results, f"reference/{place.name}")
    weights, trained = artifact.load(results, manifest["parents"]["classifier"])
    of_data = artifact.load(results, trained["parents"]["data"])[1]["config"]
    data = config_of("data", of_data).dataset
    network = Classifier(config_of("classifier", trained["config"]).network, **of_classifier(data))
    network.load_state_dict(load_file(weights / WEIGHTS))
    with np.load(path / "reference.npz", allow_pickle=False) as arrays:
        samples = manifest["config"]["samples"]
        return Against(manifest["digest"], samples, dict(arrays), data, network)
