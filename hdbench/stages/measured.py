"""The protocol `classifier` on any npz of images, against a suite's own reference stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from hdbench.core import files
from hdbench.core.errors import UserError
from hdbench.core.pixels import load_images
from hdbench.evaluation.classifier import estimates, metric_input
from hdbench.evaluation.features import digest_of
from hdbench.evaluation.results import Evaluation, Result
from hdbench.networks.classifier import Classifier, classify
from hdbench.stages import artifact, context
from hdbench.suite.stage import config_of


def evaluate_file(
    samples: Path, stage: Path, n: int | None, name: str | None, device: torch.device
) -> Evaluation:
    """The protocol on an npz of images and labels against a suite's reference stage, whose folder
    `stage` is.

    Raises UserError for a folder that is no such stage, and for images that are not as many as the
    reference's.
    """
    place = stage.resolve()
    if place.parent.name != "reference" or not (place / files.MANIFEST).is_file():
        raise UserError(
            f"{stage}: not the folder of a reference stage; give results/stages/reference/<id>, "
            "as `hdbench "
            "plan` lists it"
        )
    results = place.parents[2]
    path, manifest = artifact.load(results, f"reference/{place.name}")
    weights, trained = artifact.load(results, manifest["parents"]["classifier"])
    of_data = artifact.load(results, trained["parents"]["data"])[1]["config"]
    data = config_of("data", of_data).dataset
    images, labels = load_images(samples)
    wanted, found = manifest["config"]["samples"], len(images)
    if n not in (None, found) or (n is None and found != wanted):
        raise UserError(
            f"{samples}: holds {found} images, the reference has {wanted}; give --n {found} to "
            "compare unequal "
            "numbers all the same"
        )
    expected = (data.channels, data.image_size, data.image_size)
    if images.shape[1:] != expected:
        raise UserError(
            f"{samples}: images of shape {tuple(images.shape[1:])}, the reference's are {expected}"
        )
    network = Classifier(
        config_of("classifier", trained["config"]).network, **context.of_classifier(data)
    )
    network.load_state_dict(load_file(weights / context.WEIGHTS))
    features, probabilities = classify(network.to(device).eval(), images, device)
    targets = data.targets(labels).numpy()
    with np.load(path / "reference.npz", allow_pickle=False) as real:
        measured = estimates(
            metric_input(
                images,
                targets,
                features,
                probabilities,
                real,
                neighbours=3,
                attributes=data.attributes,
            )
        )
    ids = tuple(f"{row:06}" for row in range(found))
    protocol = f"classifier:{manifest['digest']}"
    return Evaluation(
        name=name or samples.stem,
        protocol=protocol,
        reference=manifest["digest"],
        digest=digest_of([files.sha256(samples), protocol])[:16],
        results={metric: Result(estimate, ids) for metric, estimate in measured.items()},
        facts={"samples": str(samples), "n": found},
    )
