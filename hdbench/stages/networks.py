"""Networks of a stage: new ones, and those of its parents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hdbench.core.errors import UserError
from hdbench.core.seeds import seeded
from hdbench.networks.classifier import Classifier
from hdbench.networks.convolutional import ConvolutionalAutoencoder
from hdbench.stages.context import WEIGHTS, Context, of_classifier, prompts_of, shape
from hdbench.suite.stage import AutoencoderStage

if TYPE_CHECKING:
    from hdbench.networks.clip import Captioned
    from hdbench.networks.transformer import Transformer


def new_network(
    context: Context, *, mean_velocity: bool, axes: tuple[str | int, ...]
) -> Transformer:
    conditions = context.conditions()
    with seeded(*axes):
        network = context.config.network.build(
            **shape(context.config.shape), mean_velocity=mean_velocity, conditions=conditions
        )
    return network.to(context.device)


def load_network(context: Context, role: str, *, mean_velocity: bool) -> Transformer:
    """A network with the parent's weights.

    A mean velocity network that starts from a velocity network keeps its zero embedding of t - r.
    """
    network = new_network(context, mean_velocity=mean_velocity, axes=("interval embedding",))
    missing, unexpected = network.load_state_dict(context.weights(role), strict=False)
    if unexpected or any(not key.startswith("interval_embed.") for key in missing):
        raise UserError(
            f"{context.parent(role).folder / WEIGHTS}: not the weights of this network (missing "
            f"{missing}, unexpected {unexpected})"
        )
    return network


def new_clip(context: Context, model: dict[str, Any]) -> Captioned:
    from hdbench.networks.clip import Captioned, build  # optional: open_clip

    return Captioned(build(model), prompts_of(context))


def load_clip(context: Context) -> Captioned:
    clip = context.parent("clip")
    network = new_clip(context, clip.config.model)
    network.load_state_dict(context.weights("clip"))
    return network.to(context.device).eval().requires_grad_(False)


def autoencoder_of(config: AutoencoderStage) -> ConvolutionalAutoencoder:
    """A new autoencoder of a stage's sizes."""
    shape = config.shape
    return ConvolutionalAutoencoder(
        config.network, image_size=shape.image_size, channels=shape.channels
    )


def load_autoencoder(context: Context) -> ConvolutionalAutoencoder:
    network = autoencoder_of(context.parent("autoencoder").config)
    network.load_state_dict(context.weights("autoencoder"))
    return network.to(context.device).eval().requires_grad_(False)


def load_classifier(context: Context) -> Classifier:
    trained = context.parent("classifier")
    network = Classifier(trained.config.network, **of_classifier(context.dataset()))
    network.load_state_dict(context.weights("classifier"))
    return network.to(context.device).eval()
