"""What a suite needs from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from hdbench.datasets.latents.config import ImageCollection
from hdbench.evaluation.protocols import BESIDE, Protocol, protocol_named
from hdbench.evaluation.weights import places
from hdbench.networks.text import TextConfig
from hdbench.suite.plan import Plan
from hdbench.suite.schema import Evaluation
from hdbench.suite.stage import CheckpointStage
from hdbench.tools.doctor import checks

HEADERS = "names, shapes and types fit, values not read"


class Need(NamedTuple):
    """A thing from outside; `check` is None where `path` names a package or a device."""

    what: str
    """For people."""
    kind: str
    """Which sources serve it."""
    path: str
    check: Callable[[Path], None] | None
    """Raises UserError where what is at the path is not of the right kind."""
    checked: str = ""
    """What the check looks at, where that is not all."""


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
    stages = {
        stage.config.checkpoint: stage.config
        for stage in plan.stages.values()
        if isinstance(stage.config, CheckpointStage)
    }
    for what, public in checkpoints.items():
        if public in stages:
            check = partial(checks.check_checkpoint, stages[public])
            yield Need(what, public.format, public.path, check, HEADERS)


def of_data(plan: Plan) -> Iterator[Need]:
    """What latents and encoded prompts are made from."""
    data = plan.suite.data
    text = plan.suite.text
    if data.stored == "latents" and (autoencoder := data.autoencoder):
        check = partial(checks.check_autoencoder, autoencoder)
        yield Need("autoencoder", autoencoder.name, autoencoder.path, check, HEADERS)
    if isinstance(text, TextConfig):
        yield Need("text encoder", "text", text.path, checks.check_text, "files are whole")
        yield Need("package", "package", "transformers", None)
    if isinstance(data, ImageCollection):
        yield Need("data", "images", data.source, checks.check_images)


def of_evaluation(evaluation: Evaluation, results: Path) -> Iterator[Need]:
    """References, networks and prompts of a named protocol."""
    if evaluation.reference:
        yield Need("reference", evaluation.protocol, evaluation.reference, checks.check_reference)
        for role in networks_of(evaluation):
            path = evaluation.weights.get(role) or place_of(role, results)
            check = partial(checks.check_network, role, protocols_of(evaluation))
            yield Need(role, role, path, check, HEADERS)
    if evaluation.prompts:
        yield Need("prompts", "prompts", evaluation.prompts, checks.check_prompts)


def protocols_of(evaluation: Evaluation) -> list[Protocol]:
    """A suite's protocol, then those beside it."""
    names = [evaluation.protocol, *(BESIDE[metric] for metric in evaluation.metrics)]
    return [protocol_named(name) for name in names]


def networks_of(evaluation: Evaluation) -> list[str]:
    """Roles of the networks of a suite's protocols, each once."""
    roles = (role for protocol in protocols_of(evaluation) for role in protocol.networks)
    return list(dict.fromkeys(roles))


def place_of(role: str, results: Path) -> str:
    """Where the public file is, or should be put."""
    paths = places(role, results / "evaluation")
    return str(next((path for path in paths if path.is_file()), paths[0]))
