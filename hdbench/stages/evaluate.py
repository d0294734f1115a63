"""The stages that build references and measure samples."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hdbench.core.files import from_json, write_atomic
from hdbench.core.pixels import load_images, to_float
from hdbench.evaluation import classifier as classifier_protocol
from hdbench.evaluation.evaluate import build_references
from hdbench.evaluation.evaluate import evaluate as evaluate_request
from hdbench.evaluation.features import Settings
from hdbench.evaluation.protocols import protocol_named
from hdbench.evaluation.request import Extractors, Request
from hdbench.metrics import Design, Estimate, MetricInput, error_of, measure_metrics
from hdbench.metrics.spectrum import powers
from hdbench.networks.classifier import Classifier, classify, perceive
from hdbench.stages.context import PROMPTS, Context, Payload, categories_of, targets_of
from hdbench.stages.networks import load_classifier, load_clip
from hdbench.stages.pictures import PICTURES, check_pictures
from hdbench.stages.sample import rows_of
from hdbench.suite.stage import MetricsStage, ProtocolReferenceStage, ProtocolStage, RealStage


def reference(context: Context) -> Payload:
    """Features and spectra of three real sets of equal N (two disjoint parts of train, and test),
    or a protocol's reference.
    """
    config = context.config
    if isinstance(config, ProtocolReferenceStage):
        request = evaluation_request(
            context, samples=None, references={config.protocol: Path(config.reference)}
        )
        (extractors := Extractors(request)).load()
        built = build_references(request, extractors)[request.protocols[0].name]
        place = {
            name: {"key": reference.key, "folder": reference.folder.name}
            for name, reference in built.items()
        }
        write_atomic(context.work.path / "reference.json", json.dumps(place) + "\n")
        return ["reference.json"], {}
    n = config.samples
    path = context.parent("data").folder
    network = load_classifier(context)
    rows = {"train": slice(0, n), "held_out": slice(n, 2 * n), "test": slice(0, n)}
    sets = {
        name: load_images(path / ("test.npz" if name == "test" else "train.npz"))[0][chosen]
        for name, chosen in rows.items()
    }
    seen = {
        name: (images, classify(network, images, context.device)[0])
        for name, images in sets.items()
    }
    arrays = classifier_protocol.reference_arrays(seen, config.bands)
    np.savez(context.work.path / "reference.npz", **arrays)
    return ["reference.npz"], {}


def evaluation_request(context: Context, **more):
    """What `hdbench evaluate` would be asked for: the stage's protocol and weights, and `more`."""
    config = context.config
    return Request(
        **more,
        protocols=(protocol_named(config.protocol),),
        weights=config.weights,
        device=context.device,
        settings=Settings(
            cache=context.results / "evaluation",
            threads=torch.get_num_threads(),
            label=context.label,
        ),
        allow=frozenset(["other-weights"] if config.weights else []),
    )


def evaluate(context: Context) -> Payload:
    """Metrics, their standard errors, and the samples' influences for paired differences."""
    config = context.config
    if isinstance(config, ProtocolStage):
        return evaluate_pictures(context)
    sample = metric_input(context)
    if isinstance(config, MetricsStage):
        return write_metrics(context, measure_metrics(config.metrics, sample)), {}
    names = write_metrics(context, classifier_protocol.estimates(sample))
    rings = sample.once(powers).mean(0)
    np.savez(context.work.path / "rings.npz", rings=rings, real=sample.real["train_rings"])
    return [*names, "rings.npz"], {}


def metric_input(context: Context) -> MetricInput:
    """The samples as the suite's classifier, and its CLIP if any, see them; and the reference."""
    images, labels = load_images(context.parent("sample").folder / "samples.npz")
    real = read_reference(context)
    network = load_classifier(context)
    sampled = context.parent("sample").config
    further: dict[str, Any] = {}
    if "teacher" in context.stage.parents:
        targets, _ = load_images(context.parent("teacher").folder / "samples.npz")
        further["teacher"] = targets, classify(network, targets, context.device)[0]
    if "clip" in context.stage.parents:
        prompts = context.dataset().prompts()
        test_labels = load_images(context.parent("data").folder / "test.npz")[1]
        real_labels = test_labels[: len(real["test_features"])]
        clip = load_clip(context).features(to_float(images), labels)
        further |= {
            "captions": [prompts[row] for row in labels.tolist()],
            "real_captions": [prompts[row] for row in real_labels.tolist()],
            "clip": tuple(tower.numpy() for tower in clip),
        }
    further["design"] = design_of(context, labels)
    through = context.parent("sample").manifest["parents"]
    if isinstance(sampled, RealStage) and "autoencoder" not in through:
        further["real_split"] = sampled.split
    return sample_of(context, network, real, images, labels, **further)


def read_reference(context: Context) -> dict[str, np.ndarray]:
    """The arrays of the suite's own `reference`."""
    with np.load(context.parent("reference").folder / "reference.npz", allow_pickle=False) as file:
        return dict(file)


def sample_of(
    context: Context,
    network: Classifier,
    real: dict[str, np.ndarray],
    images: Tensor,
    labels: Tensor,
    **further: Any,
) -> MetricInput:
    """Images (N, C, H, W) uint8 with labels (N,) as the classifier sees them, and the reference."""
    features, probabilities = classify(network, images, context.device)
    return classifier_protocol.metric_input(
        images,
        targets_of(context, labels).numpy(),
        features,
        probabilities,
        real,
        neighbours=context.config.neighbours,
        attributes=network.attributes,
        data=context.dataset(),
        network=lambda x: perceive(network, x, context.device),
        **further,
    )


def design_of(context: Context, labels: Tensor) -> Design:
    """Of samples with fixed labels (N,), or of real images, drawn with their labels."""
    sampled = context.parent("sample").config
    dataset = context.dataset()
    if not isinstance(sampled, RealStage):
        return Design.of_labels(labels.numpy(), categories_of(dataset, labels))
    made_from = dataset.originals_of(sampled.split)
    return Design(clusters=None if made_from is None else made_from[rows_of(sampled)])


def evaluate_pictures(context: Context) -> Payload:
    """A named protocol on the samples, against what its parents hold."""
    config = context.config
    folder = context.parent("sample").folder
    check_pictures(folder)
    has_prompts = "text" in context.stage.parents
    (measured,) = evaluate_request(
        evaluation_request(
            context,
            samples=folder / PICTURES,
            references=references_of(context),
            prompts=context.parent("text").folder / PROMPTS if has_prompts else None,
            n=None if config.samples == protocol_named(config.protocol).n else config.samples,
        )
    )
    estimates = {metric: estimate for metric, (estimate, _) in measured.results.items()}
    counts = {metric: len(ids) for metric, (_, ids) in measured.results.items()}
    facts = {"protocol": measured.protocol, "notes": measured.facts["notes"]}
    return write_metrics(context, estimates, counts), facts


def references_of(context: Context) -> dict[str, Path | dict[str, Path]]:
    """The teacher's samples, or the reference that its stage has built, by protocol, if any."""
    protocol = protocol_named(context.config.protocol)
    if "teacher" in context.stage.parents:
        folder = context.parent("teacher").folder
        check_pictures(folder)
        return {protocol.name: folder / PICTURES}
    if "reference" not in context.stage.parents:
        return {}
    built = context.parent("reference").folder / "reference.json"
    places = from_json(built.read_text(encoding="utf-8"))
    if "folder" in places:  # of a protocol with one extractor, as it was written before
        places = {protocol.extractors[0]: places}
    folder_of = context.results / "evaluation/references"
    return {protocol.name: {name: folder_of / place["folder"] for name, place in places.items()}}


def write_metrics(
    context: Context, estimates: dict[str, Estimate], counts: Mapping[str, int] | None = None
) -> list[str]:
    """Write metrics.csv, influence.npz and, for their errors, design.npz; their names.

    `counts` are the numbers of samples by metric, by default those of influences.
    """
    if counts is None:
        counts = {name: len(estimate.influence) for name, estimate in estimates.items()}
    with (context.work.path / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["metric", "value", "se", "n"])
        writer.writerows(
            [name, repr(e.value), repr(error_of(name, e)), counts[name]]
            for name, e in estimates.items()
        )
    influences = {name: e.influence.astype(np.float32) for name, e in estimates.items()}
    np.savez(context.work.path / "influence.npz", **influences)
    designs = {
        f"{kind}.{name}": array
        for name, e in estimates.items()
        for kind, array in e.design._asdict().items()
        if array is not None
    }
    np.savez_compressed(context.work.path / "design.npz", **designs)
    return ["metrics.csv", "influence.npz", "design.npz"]
