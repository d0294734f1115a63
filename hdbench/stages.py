"""What each kind of stage does: its configuration and its parents' artifacts in, the files of its payload out."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hdbench import artifact, distributed
from hdbench.errors import Divergence, UserError
from hdbench.datasets import DATASETS
from hdbench.discriminators import build_head, parameter_count
from hdbench.evaluation import classifier as classifier_protocol
from hdbench.flow import guided, sample_consistency, sample_flow_map, sample_ode
from hdbench.images import load_images, save_images, to_float, to_uint8
from hdbench.metrics import classification
from hdbench.networks import TransformerConfig
from hdbench.networks.classifier import Classifier, ClassifierConfig
from hdbench.objectives import OBJECTIVES
from hdbench.objectives.base import Setting
from hdbench.seeds import sample_noise, seed_of
from hdbench.suite import Plan, Stage, Training
from hdbench.train import Progress, Trainer, run

if TYPE_CHECKING:
    from hdbench.networks.transformer import Transformer

WEIGHTS, PAIRS = "weights.safetensors", "pairs.safetensors"
SAMPLE_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Context:
    """Where a stage runs: plan, results folder, work folder, device, and what to call it in messages."""

    plan: Plan
    results: Path
    work: artifact.Work
    stage: Stage
    label: str
    device: torch.device
    checkpoint_seconds: float
    sharding: str = "none"  # of what is trained, over several ranks; see hdbench.train

    def parent(self, role: str) -> tuple[Path, dict[str, Any]]:
        return artifact.load(self.results, self.stage.parents[role])

    def dataset(self):
        return self.plan.suite.data


Payload = tuple[list[str], dict[str, Any]]  # names of the files in the work folder, and facts for the manifest


def data(context: Context) -> Payload:
    configuration = context.dataset()
    for split, (images, labels) in DATASETS[configuration.name].build(configuration).items():
        save_images(context.work.path / f"{split}.npz", images, labels)
    return ["train.npz", "test.npz"], {}


def classifier(context: Context) -> Payload:
    config = context.stage.config
    training = training_of(config)
    network_config = ClassifierConfig(**config["network"])
    with seeded(config["seed"], "classifier"):
        network = Classifier(network_config, **shape(context.dataset())).to(context.device)
    names, facts = train(context, Setting(student=network, learning_rate=training.learning_rate), training)
    if distributed.rank():
        return names, facts
    network = Classifier(network_config, **shape(context.dataset())).to(context.device)
    network.load_state_dict(load_file(context.work.path / WEIGHTS))
    images, labels = load_images(context.parent("data")[0] / "test.npz")
    _, probabilities = classify(network, images, context.device)
    return names, facts | {"test_accuracy": classification.accuracy(probabilities, labels.numpy()).value}


def reference(context: Context) -> Payload:
    """Features and spectra of three real sets of equal N: two disjoint parts of train, and test."""
    n = context.stage.config["samples"]
    path, network = context.parent("data")[0], load_classifier(context)
    rows = {"train": slice(0, n), "held_out": slice(n, 2 * n), "test": slice(0, n)}
    sets = {name: load_images(path / ("test.npz" if name == "test" else "train.npz"))[0][part]
            for name, part in rows.items()}
    arrays = classifier_protocol.reference_arrays(
        {name: (images, classify(network, images, context.device)[0]) for name, images in sets.items()},
        context.stage.config["bands"])
    np.savez(context.work.path / "reference.npz", **arrays)
    return ["reference.npz"], {}


def teacher(context: Context) -> Payload:
    config = context.stage.config
    network = new_network(context, mean_velocity=False, axes=(config["seed"], "teacher"))
    setting = Setting(student=network, learning_rate=config["learning_rate"])
    return train(context, setting, training_of(config))


def distill(context: Context) -> Payload:
    """Trajectory and refine: a student from its parent's weights, under the stage's objective."""
    config, seed = context.stage.config, context.stage.config["seed"]
    training = training_of(config)
    frozen = load_network(context, "teacher", mean_velocity=False).requires_grad_(False)
    axes = (seed, context.stage.kind)

    def head(name: str, settings) -> nn.Module:
        with seeded(*axes, "head"):
            module = build_head(name, layers=len(settings.blocks), width=frozen.config.width, grid=frozen.grid,
                                parameters=settings.parameters)
        facts["head_parameters"] = parameter_count(module)
        return module.to(context.device)

    facts: dict[str, Any] = {}
    ode_pairs = None
    if "pairs" in context.stage.parents:
        found = load_file(context.parent("pairs")[0] / PAIRS)
        ode_pairs = found["eps"], found["x"], found["labels"]
    setting = Setting(
        student=load_network(context, "student", mean_velocity=True), learning_rate=training.learning_rate, teacher=frozen,
        teacher_velocity=guided(frozen, config["guidance"], tuple(config["guidance_interval"])),
        copy_teacher=lambda: load_network(context, "teacher", mean_velocity=False), head=head, pairs=ode_pairs)
    names, counted = train(context, setting, training)
    return names, counted | facts


def train(context: Context, setting: Setting, training: Training) -> Payload:
    """Run the objective's updates to the end; the payload, which rank 0 writes, is the student's EMA weights and history."""
    images, labels = load_images(context.parent("data")[0] / "train.npz")
    updates = OBJECTIVES[training.objective.name].updates(training.objective, setting)
    axes = (context.stage.config["seed"], context.stage.kind)
    parameters = parameter_count(setting.student)
    trainer = Trainer(updates, training, setting.student, axes, to_float(images), labels, context.sharding)
    run(trainer, context.work, context.label, context.checkpoint_seconds)
    weights = {name: distributed.on_rank_0(value) for name, value in trainer.ema.items()}
    if distributed.rank() == 0:
        save_file(weights, context.work.path / WEIGHTS)
        with (context.work.path / "history.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["step", *trainer.history])
            writer.writerows([step, *values] for step, values in enumerate(zip(*trainer.history.values()), start=1))
    terms = OBJECTIVES[training.objective.name].forward_equivalents(
        training.objective, setting.student.depth, context.stage.config.get("guidance", 1.0) != 1.0)
    samples = training.steps * training.batch
    return [WEIGHTS, "history.csv"], {"network_evaluations": {term: count * samples for term, count in terms.items()},
                                      "forward_equivalents": sum(terms.values()) * samples,
                                      "parameters": parameters}


def generated(context: Context, sampler: Callable[[Tensor, Tensor], Tensor], axes: tuple[str | int, ...], noises: int,
              n: int, keep: Callable[[Tensor], Tensor]) -> tuple[Tensor, float]:
    """n samples, class-balanced, kept as `keep` makes them, and the seconds that they took; on rank 0.

    `sampler` takes noises (noises, B, C, H, W) and labels (B,).  Sample i has its own seed, so neither batch size nor number
    of processes changes it.  Ranks share the batches, whole ones in contiguous runs: kernels may round otherwise for another
    number of rows.
    """
    classes, shape = context.dataset().classes, dimensions(context.dataset())
    world_size = distributed.world_size()
    whole = math.ceil(n / SAMPLE_BATCH)
    bounds = [min(SAMPLE_BATCH * math.ceil(whole * part / world_size), n) for part in range(world_size + 1)]
    batches, seconds, finite = [keep(torch.empty(0, *shape))], 0.0, True
    first, last = bounds[distributed.rank()], bounds[distributed.rank() + 1]
    progress = Progress(context.label, last - first)
    for start in range(first, last, SAMPLE_BATCH):
        progress(start - first)
        indices = range(start, min(start + SAMPLE_BATCH, last))
        c = torch.tensor([index % classes for index in indices]).to(context.device)
        eps = sample_noise(axes, indices, (noises, *shape)).to(context.device)
        begun = time.perf_counter()
        with torch.no_grad():
            x = sampler(eps.transpose(0, 1), c)
        if not (finite := bool(x.isfinite().all())):
            break
        batches.append(keep(x).cpu())
        seconds += time.perf_counter() - begun
    if any(distributed.any_of(not finite)):
        raise Divergence(f"{context.label}: an image is not finite; its network has diverged")
    progress(last - first)
    counts = [stop - start for start, stop in zip(bounds, bounds[1:])]
    return distributed.concatenate(torch.cat(batches), counts), sum(distributed.gather(seconds))


def pairs(context: Context) -> Payload:
    """The guided teacher's ODE as pairs: standard normal eps, the x (N, C, H, W) float32 that it leads to, and labels (N,)."""
    config, n, steps = context.stage.config, context.stage.config["count"], context.stage.config["steps"]
    network = load_network(context, "teacher", mean_velocity=False).requires_grad_(False)
    v = guided(network, config["guidance"], tuple(config["guidance_interval"]))
    axes = (config["seed"], "pairs")
    x, _ = generated(context, lambda eps, c: sample_ode(v, eps[0], c, steps), axes, 1, n, lambda x: x)
    if distributed.rank() == 0:
        save_file({"eps": sample_noise(axes, range(n), (1, *dimensions(context.dataset())))[:, 0].contiguous(),
                   "x": x.contiguous(), "labels": torch.arange(n) % context.dataset().classes}, context.work.path / PAIRS)
    count = n * steps * (2 if config["guidance"] != 1.0 else 1)
    return [PAIRS], {"network_evaluations": {"teacher forward": count}, "forward_equivalents": count}


def sample(context: Context) -> Payload:
    """N images, class-balanced: of the parent's network by the stage's sampler, or real ones of a split."""
    config, n = context.stage.config, context.stage.config["samples"]
    source, manifest = context.parent("source")
    if "split" in config:
        rows = slice(n, 2 * n) if config["split"] == "train" else slice(0, n)
        images, labels = (part[rows] for part in load_images(source / f"{config['split']}.npz"))
        if distributed.rank() == 0:
            save_images(context.work.path / "samples.npz", images, labels)
        return ["samples.npz"], {}
    u = network = load_network(context, "source", mean_velocity=manifest["kind"] != "teacher").requires_grad_(False)
    steps = config["steps"]
    if config["sampler"] == "ode":
        v = guided(network, config.get("guidance", 1.0), tuple(config.get("guidance_interval", (0.0, 1.0))))
        u = lambda z, r, t, c: v(z, t, c)  # noqa: E731
    noises = steps if config["sampler"] == "consistency" else 1
    images, seconds = generated(
        context, lambda eps, c: sample_consistency(u, eps, c) if noises > 1 else sample_flow_map(u, eps[0], c, steps),
        (config["seed"], "sample"), noises, n, to_uint8)
    if distributed.rank() == 0:
        save_images(context.work.path / "samples.npz", images, torch.arange(n) % context.dataset().classes)
    return ["samples.npz"], {"milliseconds_per_sample": round(1000 * seconds / n, 4)}


def evaluate(context: Context) -> Payload:
    """Every metric of the tier with its standard error; the influences of the samples are kept for paired differences."""
    images, labels = load_images(context.parent("sample")[0] / "samples.npz")
    real = np.load(context.parent("reference")[0] / "reference.npz", allow_pickle=False)
    features, probabilities = classify(load_classifier(context), images, context.device)
    estimates, rings = classifier_protocol.estimates(
        images, labels, features, probabilities, real, neighbours=context.stage.config["neighbours"],
        itself=context.parent("sample")[1]["config"].get("split"))
    with (context.work.path / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["metric", "value", "se", "n"])
        writer.writerows([name, repr(e.value), repr(e.standard_error), len(images)] for name, e in estimates.items())
    np.savez(context.work.path / "influence.npz", **{name: e.influence.astype(np.float32) for name, e in estimates.items()})
    np.savez(context.work.path / "rings.npz", rings=rings, real=real["train_rings"])
    return ["metrics.csv", "influence.npz", "rings.npz"], {}


STAGES: dict[str, Callable[[Context], Payload]] = {
    "data": data, "classifier": classifier, "reference": reference, "teacher": teacher, "pairs": pairs,
    "trajectory": distill, "refine": distill, "sample": sample, "evaluate": evaluate}


@contextmanager
def seeded(*axes: str | int):
    """Global random numbers of these axes inside, for the initialisation of networks; as before outside."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(*axes))
        yield


def training_of(config: dict[str, Any]) -> Training:
    """The training part of a stage's configuration, typed again."""
    return Training.model_validate_json(json.dumps({key: config[key] for key in Training.model_fields}))


def new_network(context: Context, *, mean_velocity: bool, axes: tuple[str | int, ...]) -> Transformer:
    from hdbench.networks.transformer import Transformer  # diffusers takes seconds to import; not every stage needs it

    config = TransformerConfig(**context.stage.config["network"])
    with seeded(*axes):
        network = Transformer(config, **shape(context.dataset()), mean_velocity=mean_velocity)
    return network.to(context.device)


def load_network(context: Context, role: str, *, mean_velocity: bool) -> Transformer:
    """The parent's weights; a student that starts from a velocity network keeps its zero embedding of t - r."""
    path, _ = context.parent(role)
    network = new_network(context, mean_velocity=mean_velocity, axes=("interval embedding",))
    missing, unexpected = network.load_state_dict(load_file(path / WEIGHTS), strict=False)
    if unexpected or any(not key.startswith("interval_embed.") for key in missing):
        raise UserError(f"{path / WEIGHTS}: not the weights of this network (missing {missing}, unexpected {unexpected})")
    return network


def load_classifier(context: Context) -> Classifier:
    path, manifest = context.parent("classifier")
    network = Classifier(ClassifierConfig(**manifest["config"]["network"]), **shape(context.dataset()))
    network.load_state_dict(load_file(path / WEIGHTS))
    return network.to(context.device).eval()


@torch.no_grad()
def classify(network: Classifier, images: Tensor, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, C, H, W) uint8 -> features (N, d) and probabilities (N, classes), float32."""
    features = torch.cat([network.penultimate(to_float(part).to(device)) for part in images.split(500)])
    return features.cpu().numpy(), torch.softmax(network.out(features), dim=1).cpu().numpy()


def dimensions(dataset) -> tuple[int, int, int]:
    return dataset.channels, dataset.image_size, dataset.image_size


def shape(dataset) -> dict[str, int]:
    return {"image_size": dataset.image_size, "channels": dataset.channels, "classes": dataset.classes}
