"""Networks of a stage: new ones, and those of its parents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safetensors.torch import load_file

from hdbench.core.errors import UserError
from hdbench.core.seeds import seeded
from hdbench.networks.classifier import Classifier
from hdbench.networks.config import NETWORK, ClassifierConfig
from hdbench.networks.text import Conditions
from hdbench.stages.context import WEIGHTS, Context, of_classifier, prompts_of, shape

if TYPE_CHECKING:
    from hdbench.networks.clip import Captioned
    from hdbench.networks.transformer import Transformer


def new_network(
    context: Context, *, mean_velocity: bool, axes: tuple[str | int, ...]
) -> Transformer:
    conditions = Conditions(context.parent("text")[0]) if "text" in context.stage.parents else None
    with seeded(*axes):
        network = NETWORK.validate_python(context.stage.config["network"]).build(
            **shape(context.dataset()), mean_velocity=mean_velocity, conditions=conditions
        )
    return network.to(context.device)


def load_network(context: Context, role: str, *, mean_velocity: bool) -> Transformer:
    """The parent's weights; a student that starts from a velocity network keeps its zero embedding of t - r."""
    path, _ = context.parent(role)
    network = new_network(context, mean_velocity=mean_velocity, axes=("interval embedding",))
    missing, unexpected = network.load_state_dict(load_file(path / WEIGHTS), strict=False)
    if unexpected or any(not key.startswith("interval_embed.") for key in missing):
        raise UserError(
            f"{path / WEIGHTS}: not the weights of this network (missing {missing}, unexpected {unexpected})"
        )
    return network


def new_clip(context: Context) -> Captioned:
    from hdbench.networks.clip import Captioned, build

    return Captioned(build(context.plan.suite.text.model), prompts_of(context))


def load_clip(context: Context) -> Captioned:
    network = new_clip(context)
    network.load_state_dict(load_file(context.parent("clip")[0] / WEIGHTS))
    return network.to(context.device).eval().requires_grad_(False)


def load_classifier(context: Context) -> Classifier:
    path, manifest = context.parent("classifier")
    network = Classifier(
        ClassifierConfig(**manifest["config"]["network"]), **of_classifier(context.dataset())
    )
    network.load_state_dict(load_file(path / WEIGHTS))
    return network.to(context.device).eval()
