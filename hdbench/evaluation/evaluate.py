"""Evaluate images under named protocols: inputs checked first, one pass, all metrics."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from hdbench.core.errors import UserError
from hdbench.datasets.prompts import read_prompts
from hdbench.evaluation import references
from hdbench.evaluation.archives import STANDARD
from hdbench.evaluation.extractors import Extractor
from hdbench.evaluation.features import Features, digest_of, extract
from hdbench.evaluation.images import Images, open_images, paired
from hdbench.evaluation.measure import design_of, measure, notes
from hdbench.evaluation.protocols import Protocol, label
from hdbench.evaluation.references import Reference
from hdbench.evaluation.request import Extractors, Request
from hdbench.evaluation.results import Evaluation, results_of


def evaluate(request: Request) -> list[Evaluation] | None:
    """One evaluation a protocol; None on a rank other than 0, whose features are then written.

    Raises UserError, before any network runs, for weights, samples, prompts or references that do
    not serve.
    """
    extractors = Extractors(request)
    images, prompts = _samples(request)
    if any(protocol.paired for protocol in request.protocols):
        images = _pairs(request, images)
    for protocol in request.protocols:
        if protocol.needs_reference and protocol.name not in request.references:
            adm = ", or ADM's VIRTUAL_imagenet256_labeled.npz" * ("sfid" in protocol.metrics)
            raise UserError(
                f"{protocol.name} needs a reference; give --reference with a folder or npz of real "
                f"images{adm}, or what `hdbench reference` built"
            )
    extractors.load()
    built = build_references(request, extractors)
    texts = None if prompts is None else [row["prompt"] for row in prompts]
    features = extract(images, extractors.all(), texts, replace(request.settings, label="samples"))
    if features is None or built is None:
        return None
    by_extractor = dict(zip(extractors.all(), features, strict=True))
    return [
        _evaluation(
            request, protocol, images, prompts, built[protocol.name], extractors, by_extractor
        )
        for protocol in request.protocols
    ]


def build_references(
    request: Request, extractors: Extractors
) -> dict[str, dict[str, Reference]] | None:
    """References by protocol and extractor, from the cache if there; rank 0 only."""
    built: dict[str, dict[str, Reference]] = {protocol.name: {} for protocol in request.protocols}
    plans = []
    for protocol in request.protocols:
        for name in protocol.compared:
            extractor = extractors.by_protocol[protocol.name][name]
            source = references.source_for(request.references[protocol.name], extractor)
            if references.is_built(source):
                reference = references.checked(references.load(source), protocol, extractor)
                if changed := references.source_changed(reference):
                    raise UserError(
                        f"{source}: stale: the images in {changed} have changed since; build it "
                        "again with `hdbench reference`"
                    )
                _check_reference(request, protocol, name, reference.ids)
                built[protocol.name][name] = reference
            else:
                plan = references.plan(
                    source,
                    protocol,
                    extractor,
                    request.settings.cache,
                    request.allow,
                    STANDARD if request.samples else request.form,
                )
                ids = () if plan.images is None else plan.images.ids
                _check_reference(request, protocol, name, ids)
                plans.append((protocol, name, plan))
    opened = (plan.images for _, _, plan in plans if plan.images is not None)
    for note in dict.fromkeys(note for images in opened for note in images.notes):
        print(f"reference: {note}", file=sys.stderr, flush=True)
    if not references.build([plan for _, _, plan in plans], request.settings):
        return None
    for protocol, name, plan in plans:
        reference = references.load(plan.folder, plan.key)
        built[protocol.name][name] = references.checked(reference, protocol, plan.extractor)
    return built


def _check_reference(
    request: Request, protocol: Protocol, extractor: str, ids: tuple[str, ...]
) -> None:
    """UserError where the reference has too few images, or lacks prompts with categories."""
    if request.samples is None or extractor != protocol.extractors[0]:
        return
    if "kid" in protocol.metrics and len(ids) < protocol.kid_subset_size:
        raise UserError(
            f"{request.references[protocol.name]}: too few reference images, {len(ids)}; KID's "
            f"subsets have {protocol.kid_subset_size}; give --kid-subset-size"
        )
    if protocol.categories:
        read_prompts(request.prompts, ids, protocol.name)


def _samples(request: Request) -> tuple[Images, list[dict[str, str]] | None]:
    """The images and their prompts, or UserError where they are not what the protocols ask for."""
    mixed = all(protocol.any_sizes for protocol in request.protocols)
    images = open_images(request.samples, allow=request.allow, mixed_sizes=mixed, form=request.form)
    images = chosen(request, images, request.protocols)
    prompts = [protocol.name for protocol in request.protocols if protocol.prompts]
    return images, read_prompts(request.prompts, images.ids, prompts[0]) if prompts else None


def chosen(request: Request, images: Images, protocols: Sequence[Protocol]) -> Images:
    """So many of the images as are asked for; UserError where the protocols want another number."""
    count = len(images)
    for protocol in protocols:
        if request.n is None and protocol.n not in (None, count):
            raise UserError(
                f"{request.samples}: holds {count} images, {protocol.name} wants {protocol.n}; "
                f"give --n {count} to evaluate them under that count, which is then in every "
                "metric's name"
            )
    if request.n is not None:
        if not 2 <= request.n <= count:
            raise UserError(
                f"--n = {request.n}: {request.samples} holds {count} images; give 2 to {count}"
            )
        images = images.subset(request.n)
    for protocol in protocols:
        settings = protocol.settings(request.device)
        least, why = max(
            (metric.least(settings) for metric in protocol.classes()), key=lambda need: need[0]
        )
        if len(images) < least:
            raise UserError(
                f"{request.samples}: too few images, {len(images)}; {protocol.name} needs at least "
                f"{least} for {why}"
            )
    return images


def _pairs(request: Request, images: Images) -> Images:
    """The samples, each with the reference's image of its name."""
    name = next(protocol.name for protocol in request.protocols if protocol.paired)
    if len(request.protocols) > 1:
        raise UserError(f"{name}: goes alone; give one --protocol")
    if not isinstance(source := request.references.get(name), Path):
        raise UserError(
            f"{name} needs a reference; give --reference with the teacher's samples of the same "
            "noises and conditions, under the same names"
        )
    return paired(images, open_images(source, allow=request.allow))


def _evaluation(
    request: Request,
    protocol: Protocol,
    images: Images,
    prompts: list[dict[str, str]] | None,
    real: Mapping[str, Reference],
    extractors: Extractors,
    features: Mapping[Extractor, Features],
) -> Evaluation:
    of_protocol = extractors.by_protocol[protocol.name]
    captions = prompts if prompts and protocol.categories else ()
    estimates = measure(
        protocol,
        {name: features[extractor] for name, extractor in of_protocol.items()},
        real,
        _classifier(of_protocol),
        request.device,
        request.intervals,
        captions=captions,
        design=design_of(images, captions),
        real_captions=read_prompts(request.prompts, real[protocol.extractors[0]].ids, protocol.name)
        if protocol.categories
        else (),
    )
    weights = {role: extractors.weights[role] for role in protocol.networks}
    other = {role: used.sha256 for role, used in weights.items() if not used.public}
    sources = list(dict.fromkeys(reference.key["source"] for reference in real.values()))
    sources += [images.paired] if images.paired else []
    reference = digest_of(sources) if len(sources) > 1 else "".join(sources)
    column = label(protocol, other, reference, request.layout, images.converted > 0)
    facts = {
        "about": protocol.about,
        "samples": images.source,
        "samples_digest": images.digest,
        "n": len(images),
        "labels": images.label_kind(),
        "sizes": {f"{w}x{h}": n for (h, w), n in images.sizes.items()},
        "weights": {role: used.sha256 for role, used in weights.items()},
        "extractors": [extractor.description() for extractor in of_protocol.values()],
        "notes": notes(
            protocol, images, of_protocol.values(), [row["prompt"] for row in prompts or ()]
        ),
    }
    return Evaluation(
        name=request.name or Path(images.source).stem,
        protocol=column,
        reference=reference,
        results=results_of(estimates, images.ids),
        digest=digest_of([images.digest, column, request.n])[:16],
        facts=facts,
    )


def _classifier(extractors: Mapping[str, Extractor]) -> np.ndarray | None:
    inceptions = (x.loaded for x in extractors.values() if x.network == "inception")
    return next((network.classifier for network in inceptions), None)
