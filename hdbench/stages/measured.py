"""The protocol `classifier` on any npz of images, against a suite's own reference stage."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from hdbench.core import files
from hdbench.core.errors import UserError
from hdbench.datasets.base import Dataset
from hdbench.evaluation.classifier import estimates, metric_input
from hdbench.evaluation.evaluate import chosen
from hdbench.evaluation.features import digest_of
from hdbench.evaluation.images import Images, open_images
from hdbench.evaluation.protocols import label
from hdbench.evaluation.request import Request
from hdbench.evaluation.results import Evaluation, results_of
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
    data = against.data
    protocol = request.protocols[0].model_copy(update={"n": against.samples})
    opened = open_images(
        samples, allow=request.allow, form=request.form, channels=data.channels, mixed_sizes=True
    )
    sets = chosen(request, opened, [protocol])
    if set(sets.sizes) != {(data.image_size,) * 2}:
        height, width = next(iter(sets.sizes))
        raise UserError(
            f"{samples}: images of {width}x{height}, the reference's are "
            f"{data.image_size}x{data.image_size}"
        )
    labels = labels_of(samples, sets, data)
    pixels = np.stack([sets.load(row) for row in range(len(sets))])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
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
    keyed = label(protocol, {}, against.digest, converted=sets.converted > 0)
    return [
        Evaluation(
            name=request.name or samples.stem,
            protocol=keyed,
            reference=against.digest,
            digest=digest_of([sets.digest, keyed])[:16],
            results=results_of(estimates(sample), sets.ids),
            facts={"samples": str(samples), "n": len(sets), "notes": list(sets.notes)},
        )
    ]


def labels_of(samples: Path, images: Images, data: Dataset) -> Tensor:
    """The labels (N,) int64 that the samples should have; UserError for none, or those of no image.

    That each is the label of its image cannot be known.
    """
    if images.labels is None:
        raise UserError(f"{samples}: has no labels; put them there as (N,) whole numbers")
    known = data.classes if data.prompts() is None else len(data.prompts())
    low, high = int(images.labels.min()), int(images.labels.max())
    if known is not None and not 0 <= low <= high < known:
        raise UserError(
            f"{samples}: has labels from {low} to {high}, and the reference's are 0 to {known - 1};"
            " count them from 0"
        )
    return torch.from_numpy(images.labels)


def design_of(samples: Path, data: Dataset, labels: Tensor) -> Design:
    """What labels (N,) tell of how the samples were drawn; UserError for a class without any."""
    is_class = data.label_kind == "class" and data.classes is not None
    if is_class and (absent := set(range(data.classes)) - set(labels.tolist())):
        raise UserError(
            f"{samples}: has no image of class {min(absent)}, and the reference has all "
            f"{data.classes}; give samples of every class"
        )
    return Design.inferred(labels.numpy(), categories_of(data, labels))


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
