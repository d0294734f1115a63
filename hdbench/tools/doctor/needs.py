"""What a suite needs from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from hdbench.datasets.latents.config import ImageCollection
from hdbench.evaluation.protocols import BESIDE, protocol_named
from hdbench.evaluation.weights import places
from hdbench.networks import autoencoders
from hdbench.networks.text import TextConfig
from hdbench.suite.plan import Plan
from hdbench.suite.schema import Evaluation
from hdbench.tools.doctor import checks


class Need(NamedTuple):
    """A thing from outside; `check` is None where `path` names a package or a device."""

    what: str
    """For people."""
    kind: str
    """Which sources serve it."""
    path: str
    check: Callable[[Path], None] | None
    """Raises UserError where what is at the path is not of the right kind."""


def needs(plan: Plan, results: Path, device: str = "cpu") -> list[Need]:
    """Everything, in the order of the stages that need it."""
    return [
        *of_checkpoints(plan),
        *of_data(plan),
        *of_evaluation(plan.suite.evaluation, results),
        *([Need("device", "device", device, None)] if device != "cpu" else []),
    ]


def of_checkpoints(plan: Plan) -> Iterator[Need]:
    """Public networks that are sampled or distilled."""
    checkpoints = {"teacher": plan.suite.teacher.checkpoint}
    for name, arm in plan.arms.items():
        if arm.baseline:
            checkpoints[f"baseline {name}"] = arm.baseline.checkpoint
    for what, public in checkpoints.items():
        if public:
            check = partial(checks.check_checkpoint, public)
            yield Need(what, public.format, public.path, check)


def of_data(plan: Plan) -> Iterator[Need]:
    """What latents and encoded prompts are made from."""
    data = plan.suite.data
    text = plan.suite.text
    if data.stored == "latents":
        autoencoder = data.autoencoder
        check = partial(checks.check_model, "vae", autoencoders.PUBLIC[autoencoder.name][0])
        yield Need("autoencoder", autoencoder.name, autoencoder.path, check)
    if isinstance(text, TextConfig):
        yield Need("text encoder", "text", text.path, checks.check_text)
        yield Need("package", "package", "transformers", None)
    if isinstance(data, ImageCollection):
        yield Need("data", "images", data.source, checks.check_images)


def of_evaluation(evaluation: Evaluation, results: Path) -> Iterator[Need]:
    """References, networks and prompts of a named protocol."""
    if evaluation.reference:
        yield Need("reference", evaluation.protocol, evaluation.reference, checks.check_reference)
        for role in networks_of(evaluation):
            path = evaluation.weights.get(role) or place_of(role, results)
            yield Need(role, role, path, checks.check_weights)
    if evaluation.prompts:
        yield Need("prompts", "prompts", evaluation.prompts, checks.check_prompts)


def networks_of(evaluation: Evaluation) -> list[str]:
    """Roles of the networks of a suite's protocol, then of those beside it."""
    names = [evaluation.protocol, *(BESIDE[metric] for metric in evaluation.metrics)]
    return list(dict.fromkeys(role for name in names for role in protocol_named(name).networks))


def place_of(role: str, results: Path) -> str:
    """Where the public file is, or should be put."""
    paths = places(role, results / "evaluation")
    return str(next((path for path in paths if path.is_file()), paths[0]))
