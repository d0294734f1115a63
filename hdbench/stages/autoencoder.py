"""An autoencoder that is trained in the DAG: its training, and latents of the data."""

from __future__ import annotations

from safetensors.torch import load_file, save_file

from hdbench.core import distributed
from hdbench.core.seeds import seeded
from hdbench.methods.base import Problem
from hdbench.stages.context import LATENTS, WEIGHTS, Context, Payload
from hdbench.stages.networks import autoencoder_of, load_autoencoder
from hdbench.stages.train import train


def autoencoder(context: Context) -> Payload:
    """Train it, then bring its latents to unit variance over train; its error is that on test."""
    names, facts = train(context, autoencoding_problem(context))
    if distributed.rank():
        return names, facts
    file = context.work.path / WEIGHTS
    network = autoencoder_of(context.config).to(context.device)
    network.load_state_dict(load_file(file))
    network.calibrate(context.rows("train")[0])
    save_file(network.state_dict(), file)
    images, _ = context.rows("test")
    error = (network.decode(network.encode(images)).cpu() - images).abs().mean()
    return names, facts | {"test_error": float(error)}


def autoencoding_problem(context: Context) -> Problem:
    config = context.config
    with seeded(config.seed, "autoencoder"):
        network = autoencoder_of(config).to(context.device)
    return Problem(student=network, learning_rate=config.training.learning_rate)


def latents(context: Context) -> Payload:
    """Latents (N, C, h, w) float32 and labels (N,) of train."""
    network = load_autoencoder(context)
    images, labels = context.rows("train")
    encoded = network.encode(images).cpu().contiguous()
    save_file({"latents": encoded, "labels": labels}, context.work.path / LATENTS)
    return [LATENTS], {}
