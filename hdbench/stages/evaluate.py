"""The stages that build references and measure samples."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import torch

from hdbench.core.files import write_atomic
from hdbench.core.pixels import load_images, to_float
from hdbench.evaluation import classifier as classifier_protocol
from hdbench.metrics import Estimate
from hdbench.metrics.spectrum import powers
from hdbench.networks.classifier import classify
from hdbench.stages import artifact
from hdbench.stages.context import PROMPTS, Context, Payload, targets_of
from hdbench.stages.networks import load_classifier, load_clip
from hdbench.stages.pictures import PICTURES, check_pictures


def reference(context: Context) -> Payload:
    """Features and spectra of three real sets of equal N: two disjoint parts of train, and test; or a protocol's reference."""
    if "protocol" in context.stage.config:
        from hdbench.evaluation.evaluate import build_references
        from hdbench.evaluation.request import Extractors

        request = evaluation_request(context)
        (extractors := Extractors(request)).load()
        built = build_references(request, extractors)[request.protocols[0].name]
        write_atomic(
            context.work.path / "reference.json",
            json.dumps({"key": built.key, "folder": built.folder.name}) + "\n",
        )
        return ["reference.json"], {}
    n = context.stage.config["samples"]
    path, network = context.parent("data")[0], load_classifier(context)
    rows = {"train": slice(0, n), "held_out": slice(n, 2 * n), "test": slice(0, n)}
    sets = {
        name: load_images(path / ("test.npz" if name == "test" else "train.npz"))[0][part]
        for name, part in rows.items()
    }
    arrays = classifier_protocol.reference_arrays(
        {
            name: (images, classify(network, images, context.device)[0])
            for name, images in sets.items()
        },
        context.stage.config["bands"],
    )
    np.savez(context.work.path / "reference.npz", **arrays)
    return ["reference.npz"], {}


def evaluation_request(context: Context, **more):
    """What `hdbench evaluate` would be asked for: the suite's protocol and weights, and by default its reference's images."""
    from hdbench.evaluation.features import Settings
    from hdbench.evaluation.protocols import protocol_named
    from hdbench.evaluation.request import Request

    wanted = context.plan.suite.evaluation
    return Request(
        **{"samples": None, "references": {wanted.protocol: Path(wanted.reference)}} | more,
        protocols=(protocol_named(wanted.protocol),),
        weights=wanted.weights,
        device=context.device,
        settings=Settings(
            cache=context.results / "evaluation",
            threads=torch.get_num_threads(),
            label=context.label,
        ),
        n=None if wanted.samples == protocol_named(wanted.protocol).n else wanted.samples,
        allow=frozenset(["other-weights"] if wanted.weights else []),
    )


def evaluate(context: Context) -> Payload:
    """Every metric of the tier with its standard error; the influences of the samples are kept for paired differences."""
    if "protocol" in context.stage.config:
        return evaluate_pictures(context)
    images, labels = load_images(context.parent("sample")[0] / "samples.npz")
    real = np.load(context.parent("reference")[0] / "reference.npz", allow_pickle=False)
    network = load_classifier(context)
    features, probabilities = classify(network, images, context.device)
    captioned = {}
    if "clip" in context.stage.parents:
        from hdbench.networks.clip import features as towers

        prompts = context.dataset().prompts()
        test_labels = load_images(context.parent("data")[0] / "test.npz")[1]
        captioned = {
            "captions": [prompts[row] for row in labels.tolist()],
            "real_captions": [
                prompts[row] for row in test_labels[: len(real["test_features"])].tolist()
            ],
            "clip": tuple(
                tower.numpy() for tower in towers(load_clip(context), to_float(images), labels)
            ),
        }
    sample = classifier_protocol.metric_input(
        images,
        targets_of(context, labels).numpy(),
        features,
        probabilities,
        real,
        neighbours=context.stage.config["neighbours"],
        real_split=context.parent("sample")[1]["config"].get("split"),
        attributes=network.attributes,
        **captioned,
    )
    estimates = classifier_protocol.estimates(sample)
    counts = {name: len(estimate.influence) for name, estimate in estimates.items()}
    rings = sample.once(powers).mean(0)
    np.savez(context.work.path / "rings.npz", rings=rings, real=real["train_rings"])
    return [*written(context, estimates, counts), "rings.npz"], {}


def evaluate_pictures(context: Context) -> Payload:
    """The suite's named protocol on the samples, against the reference that its stage has built."""
    from hdbench.evaluation.evaluate import evaluate

    folder, made = context.parent("sample")
    check_pictures(folder)
    built = json.loads(
        (context.parent("reference")[0] / "reference.json").read_text(encoding="utf-8")
    )["folder"]
    references = {
        context.stage.config["protocol"]: context.results / "evaluation/references" / built
    }
    prompts = (
        artifact.load(context.results, made["parents"]["text"])[0] / PROMPTS
        if "text" in made["parents"]
        else None
    )
    (found,) = evaluate(
        evaluation_request(
            context, samples=folder / PICTURES, references=references, prompts=prompts
        )
    )
    estimates = {metric: estimate for metric, (estimate, _) in found.results.items()}
    counts = {metric: len(ids) for metric, (_, ids) in found.results.items()}
    return written(context, estimates, counts), {"protocol": found.protocol}


def written(context: Context, estimates: dict[str, Estimate], counts: dict[str, int]) -> list[str]:
    """The files of metrics, each with its number of samples, and of influences."""
    with (context.work.path / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["metric", "value", "se", "n"])
        writer.writerows(
            [name, repr(e.value), repr(e.standard_error), counts[name]]
            for name, e in estimates.items()
        )
    np.savez(
        context.work.path / "influence.npz",
        **{name: e.influence.astype(np.float32) for name, e in estimates.items()},
    )
    return ["metrics.csv", "influence.npz"]
