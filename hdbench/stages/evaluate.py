"""The stages that build references and measure samples."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import torch

from hdbench.core.files import write_atomic
from hdbench.core.pixels import load_images, to_float
from hdbench.datasets import DATASETS
from hdbench.evaluation import classifier as classifier_protocol
from hdbench.metrics import Estimate
from hdbench.metrics.clip_score import clip_score
from hdbench.networks.classifier import classify
from hdbench.stages.context import PROMPTS, Context, Payload, targets_of
from hdbench.stages.networks import load_classifier, load_clip
from hdbench.stages.pictures import PICTURES, check_pictures
from hdbench.suite.stage import ProtocolReferenceStage, ProtocolStage, RealStage


def reference(context: Context) -> Payload:
    """Features and spectra of three real sets of equal N: two disjoint parts of train, and test; or a protocol's reference."""
    config = context.config
    if isinstance(config, ProtocolReferenceStage):
        from hdbench.evaluation.evaluate import build_references
        from hdbench.evaluation.request import Extractors

        request = evaluation_request(
            context, samples=None, references={config.protocol: Path(config.reference)}
        )
        (extractors := Extractors(request)).load()
        built = build_references(request, extractors)[request.protocols[0].name]
        write_atomic(
            context.work.path / "reference.json",
            json.dumps({"key": built.key, "folder": built.folder.name}) + "\n",
        )
        return ["reference.json"], {}
    n = config.samples
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
        config.bands,
    )
    np.savez(context.work.path / "reference.npz", **arrays)
    return ["reference.npz"], {}


def evaluation_request(context: Context, **more):
    """What `hdbench evaluate` would be asked for: the stage's protocol and weights, and `more`."""
    from hdbench.evaluation.features import Settings
    from hdbench.evaluation.protocols import protocol_named
    from hdbench.evaluation.request import Request

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
    """Every metric of the tier with its standard error; the influences of the samples are kept for paired differences."""
    if isinstance(context.config, ProtocolStage):
        return evaluate_pictures(context)
    images, labels = load_images(context.parent("sample")[0] / "samples.npz")
    real = np.load(context.parent("reference")[0] / "reference.npz", allow_pickle=False)
    network = load_classifier(context)
    features, probabilities = classify(network, images, context.device)
    wanted = targets_of(context, labels).numpy()
    sampled = context.parent("sample").config
    itself = sampled.split if isinstance(sampled, RealStage) else None
    estimates, rings = classifier_protocol.estimates(
        images,
        wanted,
        features,
        probabilities,
        real,
        neighbours=context.config.neighbours,
        itself=itself,
        attributes=network.attributes,
    )
    counts = dict.fromkeys(estimates, len(images))
    if "clip" in context.stage.parents:
        from hdbench.networks.clip import features as towers

        estimates["clip_score"] = clip_score(
            *(part.numpy() for part in towers(load_clip(context), to_float(images), labels))
        )
        table = DATASETS[context.dataset().name].prompts(context.dataset())
        of_test = load_images(context.parent("data")[0] / "test.npz")[1][
            : len(real["test_features"])
        ]
        captions, test_captions = (
            [table[row] for row in rows.tolist()] for rows in (labels, of_test)
        )
        found = classifier_protocol.by_caption(
            features,
            probabilities,
            wanted,
            captions,
            real,
            None if itself == "test" else test_captions,
            network.attributes,
        )
        estimates |= {name: estimate for name, (estimate, _) in found.items()}
        counts |= {"clip_score": len(images)} | {name: count for name, (_, count) in found.items()}
    np.savez(context.work.path / "rings.npz", rings=rings, real=real["train_rings"])
    return [*written(context, estimates, counts), "rings.npz"], {}


def evaluate_pictures(context: Context) -> Payload:
    """The suite's named protocol on the samples, against the reference that its stage has built."""
    from hdbench.evaluation.evaluate import evaluate
    from hdbench.evaluation.protocols import protocol_named

    config, folder = context.config, context.parent("sample").folder
    check_pictures(folder)
    built = json.loads(
        (context.parent("reference")[0] / "reference.json").read_text(encoding="utf-8")
    )["folder"]
    references = {config.protocol: context.results / "evaluation/references" / built}
    has_prompts = "text" in context.stage.parents
    (found,) = evaluate(
        evaluation_request(
            context,
            samples=folder / PICTURES,
            references=references,
            prompts=context.parent("text").folder / PROMPTS if has_prompts else None,
            n=None if config.samples == protocol_named(config.protocol).n else config.samples,
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
