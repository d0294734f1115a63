"""What each kind of stage does: its configuration and its parents' artifacts in, the files of its payload out."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hdbench import artifact, distributed, networks
from hdbench.artifact import write_atomic
from hdbench.errors import Divergence, UserError
from hdbench.datasets import DATASETS, attributes
from hdbench.discriminators import build_head, parameter_count
from hdbench.evaluation import classifier as classifier_protocol
from hdbench.flow import guided, sample_consistency, sample_flow_map, sample_ode
from hdbench.images import PICTURES, Pictures, check_pictures, load_images, save_images, to_float, to_uint8
from hdbench.metrics import Estimate, classification
from hdbench.metrics.clip_score import clip_score
from hdbench.networks import SanaConfig, TransformerConfig
from hdbench.networks.classifier import Classifier, ClassifierConfig
from hdbench.objectives import OBJECTIVES
from hdbench.objectives.base import Setting
from hdbench.seeds import sample_noise, seed_of
from hdbench.suite import Checkpoint, Plan, Stage, Training
from hdbench.text import Conditions, TextConfig, encode
from hdbench.train import Progress, Trainer, run

if TYPE_CHECKING:
    from hdbench.clip import Captioned
    from hdbench.networks.transformer import Transformer

WEIGHTS, PAIRS = "weights.safetensors", "pairs.safetensors"
PROMPTS = "sampled.json"  # of a `text` stage: the prompts of the samples, by the names of their images
DECODED = 8  # latents that the autoencoder takes at once


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
    loaded: dict[str, tuple[Path, dict[str, Any]]] = field(default_factory=dict)

    def parent(self, role: str) -> tuple[Path, dict[str, Any]]:
        """Folder and manifest, checked once: a cache of latents takes minutes to hash."""
        stage = self.stage.parents[role]
        if stage not in self.loaded:
            self.loaded[stage] = artifact.load(self.results, stage)
        return self.loaded[stage]

    def dataset(self):
        return self.plan.suite.data


Payload = tuple[list[str], dict[str, Any]]  # names of the files in the work folder, and facts for the manifest


def data(context: Context) -> Payload:
    configuration, module = context.dataset(), DATASETS[context.dataset().name]
    if hasattr(module, "encode"):
        return module.encode(configuration, context.work.path, context.device, progress_of(context))
    splits = []
    for split, (images, labels) in module.build(configuration).items():
        save_images(context.work.path / f"{split}.npz", images, labels)
        splits.append(f"{split}.npz")
    return splits, {}


def clip(context: Context) -> Payload:
    """A CLIP on the images and captions of one split of the data."""
    config = context.stage.config
    training = Training.of(config)
    with seeded(config["seed"], "clip", config["split"]):
        network = new_clip(context)
    return train(context, Setting(student=network.to(context.device), learning_rate=training.learning_rate), training,
                 config["split"])


def text(context: Context) -> Payload:
    """Prompts encoded once: those of the data, then those of the samples if they are others, then the empty one."""
    folder, (path, _) = context.work.path, context.parent("data")
    if "clip" in context.stage.parents:
        from hdbench.clip import write_table

        prompts = prompts_of(context)
        sampled = [0, len(prompts), context.dataset().stride]
        return write_table(load_clip(context).network, prompts, folder), {"sampled": sampled}
    captions = [row["prompt"] for row in json.loads((path / "prompts.json").read_text(encoding="utf-8"))]
    config = {key: value for key, value in context.stage.config.items() if key != "prompts"}
    sampled = sampled_prompts(context)
    wanted = [row["prompt"] for row in sampled.values()]
    names = encode([*captions, *wanted], TextConfig(**config), folder, context.device, progress_of(context))
    if distributed.rank() == 0:
        write_atomic(folder / PROMPTS, json.dumps(sampled) + "\n")
    return [*names, PROMPTS], {"sampled": [len(captions), len(wanted), 1]}


def classifier(context: Context) -> Payload:
    config = context.stage.config
    training = Training.of(config)
    network_config = ClassifierConfig(**config["network"])
    with seeded(config["seed"], "classifier"):
        network = Classifier(network_config, **of_classifier(context.dataset())).to(context.device)
    names, facts = train(context, Setting(student=network, learning_rate=training.learning_rate), training)
    if distributed.rank():
        return names, facts
    network = Classifier(network_config, **of_classifier(context.dataset())).to(context.device)
    network.load_state_dict(load_file(context.work.path / WEIGHTS))
    images, labels = load_images(context.parent("data")[0] / "test.npz")
    _, probabilities = classify(network, images, context.device)
    right = classification.accuracy(probabilities, targets_of(context, labels).numpy(), network.attributes)
    return names, facts | {"test_accuracy": right.value}


def reference(context: Context) -> Payload:
    """Features and spectra of three real sets of equal N: two disjoint parts of train, and test; or a protocol's reference."""
    if "protocol" in context.stage.config:
        from hdbench.evaluation.evaluate import Extractors, build_references

        request = evaluation_request(context)
        (extractors := Extractors(request)).load()
        built = build_references(request, extractors)[request.protocols[0].name]
        write_atomic(context.work.path / "reference.json", json.dumps({"key": built.key, "folder": built.folder.name}) + "\n")
        return ["reference.json"], {}
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
    if "checkpoint" in config:
        weights = read_checkpoint(context, Checkpoint(**config["checkpoint"]))
        save_file({name: value.contiguous() for name, value in weights.items()}, context.work.path / WEIGHTS)
        return [WEIGHTS], {"parameters": sum(value.numel() for value in weights.values()), "forward_equivalents": 0,
                           "source_sha256": digests_of(Path(config["checkpoint"]["path"]))}
    network = new_network(context, mean_velocity=False, axes=(config["seed"], "teacher"))
    training = Training.of(config)
    return train(context, Setting(student=made_for(training, network), learning_rate=training.learning_rate), training)


def distill(context: Context) -> Payload:
    """Trajectory and refine: a student from its parent's weights, under the stage's objective."""
    config, seed = context.stage.config, context.stage.config["seed"]
    training = Training.of(config)
    frozen = made_for(training, load_network(context, "teacher", mean_velocity=False).requires_grad_(False))
    axes = (seed, context.stage.kind)

    def head(name: str, settings) -> nn.Module:
        with seeded(*axes, "head"):
            module = build_head(name, layers=len(settings.blocks), width=frozen.width, grid=frozen.grid,
                                parameters=settings.parameters)
        facts["head_parameters"] = parameter_count(module)
        return module.to(context.device)

    facts: dict[str, Any] = {}
    ode_pairs = None
    if "pairs" in context.stage.parents:
        found = load_file(context.parent("pairs")[0] / PAIRS)
        ode_pairs = found["eps"], found["x"], found["labels"]
    student = load_network(context, "student", mean_velocity=True)
    student.gradient_checkpointing = training.gradient_checkpointing
    setting = Setting(
        student=student, learning_rate=training.learning_rate, teacher=frozen,
        teacher_velocity=guided(frozen, config["guidance"], tuple(config["guidance_interval"])),
        copy_teacher=lambda: made_for(training, load_network(context, "teacher", mean_velocity=False)), head=head,
        pairs=ode_pairs)
    names, counted = train(context, setting, training)
    return names, counted | facts


def train(context: Context, setting: Setting, training: Training, split: str = "train") -> Payload:
    """Run the objective's updates to the end; the payload, which rank 0 writes, is the student's EMA weights and history."""
    x, labels = training_data(context, split)
    updates = OBJECTIVES[training.objective.name].updates(training.objective, setting)
    axes = (context.stage.config["seed"], context.stage.kind)
    parameters = parameter_count(setting.student)
    trainer = Trainer(updates, training, setting.student, axes, x, labels, context.sharding)
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


def training_data(context: Context, split: str) -> tuple[Any, Tensor]:
    """Images (N, C, H, W) float32 in [-1, 1], or a latent cache that draws like them, and their labels (N,).

    Of a classifier the labels are the wanted classes, (N, A) where an image has several attributes.
    """
    path, module = context.parent("data")[0], DATASETS[context.dataset().name]
    if hasattr(module, "open_latents"):
        return module.open_latents(path)
    images, labels = load_images(path / f"{split}.npz")
    return to_float(images), targets_of(context, labels) if context.stage.kind == "classifier" else labels


def generated(context: Context, sampler: Callable[[Tensor, Tensor], Tensor], axes: tuple[str | int, ...], noises: int,
              labels: Tensor, keep: Callable[[Tensor, range], Tensor],
              done: Callable[[range], bool] = lambda indices: False) -> tuple[Tensor, float | None]:
    """Samples of these labels (N,), and the seconds that one took (None: all were there); on rank 0.

    `sampler` takes noises (noises, B, C, H, W) and labels (B,); `keep` gets what it made and which samples these are, and
    returns the rows to hold in memory; batches that are `done` are left out.  Sample i has its own seed, so neither batch
    size nor number of processes changes it.  Ranks share the batches, whole ones in contiguous runs: kernels may round
    otherwise for another number of rows.
    """
    shape, n = dimensions(context.dataset()), len(labels)
    world_size, size = distributed.world_size(), context.plan.suite.evaluation.batch
    whole = math.ceil(n / size)
    bounds = [min(size * math.ceil(whole * part / world_size), n) for part in range(world_size + 1)]
    batches, seconds, made, finite = [keep(torch.empty(0, *shape), range(0))], 0.0, 0, True
    first, last = bounds[distributed.rank()], bounds[distributed.rank() + 1]
    progress = Progress(context.label, last - first)
    for start in range(first, last, size):
        progress(start - first)
        indices = range(start, min(start + size, last))
        if done(indices):
            continue
        c = labels[indices.start:indices.stop].to(context.device)
        eps = sample_noise(axes, indices, (noises, *shape)).to(context.device)
        begun = time.perf_counter()
        with torch.no_grad():
            x = sampler(eps.transpose(0, 1), c)
        if not (finite := bool(x.isfinite().all())):
            break
        seconds, made = seconds + time.perf_counter() - begun, made + len(indices)
        batches.append(keep(x, indices).cpu())
    if any(distributed.any_of(not finite)):
        raise Divergence(f"{context.label}: an image is not finite; its network has diverged")
    progress(last - first)
    kept = torch.cat(batches)
    seconds, made = (sum(distributed.gather(number)) for number in (seconds, made))
    return distributed.concatenate(kept, distributed.gather(len(kept))), seconds / made if made else None


def pairs(context: Context) -> Payload:
    """The guided teacher's ODE as pairs: standard normal eps, the x (N, C, H, W) float32 that it leads to, and labels (N,)."""
    config, n, steps = context.stage.config, context.stage.config["count"], context.stage.config["steps"]
    network = load_network(context, "teacher", mean_velocity=False).requires_grad_(False)
    v = guided(network, config["guidance"], tuple(config["guidance_interval"]))
    axes, own = (config["seed"], "pairs"), torch.arange(context.dataset().classes or 0)
    if "text" in context.stage.parents:  # the prompts of the data, never those of the samples
        own = training_data(context, "train")[1].unique()
    labels = own[torch.arange(n) % len(own)]
    x, _ = generated(context, lambda eps, c: sample_ode(v, eps[0], c, steps), axes, 1, labels, lambda x, indices: x)
    if distributed.rank() == 0:
        save_file({"eps": sample_noise(axes, range(n), (1, *dimensions(context.dataset())))[:, 0].contiguous(),
                   "x": x.contiguous(), "labels": labels}, context.work.path / PAIRS)
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
    times, decode = config.get("times"), lambda z: z

    def make(eps: Tensor, c: Tensor) -> Tensor:
        return decode(sample_consistency(u, eps, c, times) if noises > 1 else sample_flow_map(u, eps[0], c, steps))

    labels, axes = labels_of(context, range(n)), (config["seed"], "sample")
    if hasattr(context.dataset(), "autoencoder"):
        from hdbench.autoencoders import load

        autoencoder = load(context.dataset().autoencoder, context.device)
        decode = lambda z: torch.cat([autoencoder.decode(part) for part in z.split(DECODED)])  # noqa: E731
        names = [f"{index:06}" for index in range(n)]
        if "text" in context.stage.parents:
            names = list(json.loads((context.parent("text")[0] / PROMPTS).read_text(encoding="utf-8")))[:n]
        pictures = Pictures(context.work.path, names)
        _, seconds = generated(context, make, axes, noises, labels, pictures.write, pictures.written)
        payload = distributed.from_rank_0(pictures.index)
    else:
        images, seconds = generated(context, make, axes, noises, labels, lambda x, indices: to_uint8(x))
        if distributed.rank() == 0:
            save_images(context.work.path / "samples.npz", images, labels)
        payload = ["samples.npz"]
    return payload, {} if seconds is None else {"milliseconds_per_sample": round(1000 * seconds, 4)}


def evaluation_request(context: Context, **more):
    """What `hdbench evaluate` would be asked for: the suite's protocol and weights, and by default its reference's images."""
    from hdbench.evaluation.evaluate import Request
    from hdbench.evaluation.features import Settings
    from hdbench.evaluation.protocols import protocol_named

    wanted = context.plan.suite.evaluation
    return Request(**{"samples": None, "references": {wanted.protocol: Path(wanted.reference)}} | more,
                   protocols=(protocol_named(wanted.protocol),), weights=wanted.weights, device=context.device,
                   settings=Settings(cache=context.results / "evaluation", threads=torch.get_num_threads(), label=context.label),
                   n=None if wanted.samples == protocol_named(wanted.protocol).n else wanted.samples,
                   allow=frozenset(["other-weights"] if wanted.weights else []))


def evaluate(context: Context) -> Payload:
    """Every metric of the tier with its standard error; the influences of the samples are kept for paired differences."""
    if "protocol" in context.stage.config:
        return evaluate_pictures(context)
    images, labels = load_images(context.parent("sample")[0] / "samples.npz")
    real = np.load(context.parent("reference")[0] / "reference.npz", allow_pickle=False)
    network = load_classifier(context)
    features, probabilities = classify(network, images, context.device)
    wanted, itself = targets_of(context, labels).numpy(), context.parent("sample")[1]["config"].get("split")
    estimates, rings = classifier_protocol.estimates(
        images, wanted, features, probabilities, real, neighbours=context.stage.config["neighbours"],
        itself=itself, attributes=network.attributes)
    counts = dict.fromkeys(estimates, len(images))
    if "clip" in context.stage.parents:
        from hdbench.clip import features as towers

        estimates["clip_score"] = clip_score(*(part.numpy() for part in towers(load_clip(context), to_float(images), labels)))
        table = DATASETS[context.dataset().name].prompts(context.dataset())
        of_test = load_images(context.parent("data")[0] / "test.npz")[1][:len(real["test_features"])]
        captions, test_captions = ([table[row] for row in rows.tolist()] for rows in (labels, of_test))
        found = classifier_protocol.by_caption(features, probabilities, wanted, captions, real,
                                               None if itself == "test" else test_captions, network.attributes)
        estimates |= {name: estimate for name, (estimate, _) in found.items()}
        counts |= {"clip_score": len(images)} | {name: count for name, (_, count) in found.items()}
    np.savez(context.work.path / "rings.npz", rings=rings, real=real["train_rings"])
    return [*written(context, estimates, counts), "rings.npz"], {}


def evaluate_pictures(context: Context) -> Payload:
    """The suite's named protocol on the samples, against the reference that its stage has built."""
    from hdbench.evaluation.evaluate import evaluate

    folder, made = context.parent("sample")
    check_pictures(folder)
    built = json.loads((context.parent("reference")[0] / "reference.json").read_text(encoding="utf-8"))["folder"]
    references = {context.stage.config["protocol"]: context.results / "evaluation/references" / built}
    prompts = artifact.load(context.results, made["parents"]["text"])[0] / PROMPTS if "text" in made["parents"] else None
    found, = evaluate(evaluation_request(context, samples=folder / PICTURES, references=references, prompts=prompts))
    estimates = {metric: estimate for metric, (estimate, _) in found.results.items()}
    counts = {metric: len(ids) for metric, (_, ids) in found.results.items()}
    return written(context, estimates, counts), {"protocol": found.protocol}


def written(context: Context, estimates: dict[str, Estimate], counts: dict[str, int]) -> list[str]:
    """The files of metrics, each with its number of samples, and of influences."""
    with (context.work.path / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["metric", "value", "se", "n"])
        writer.writerows([name, repr(e.value), repr(e.standard_error), counts[name]] for name, e in estimates.items())
    np.savez(context.work.path / "influence.npz", **{name: e.influence.astype(np.float32) for name, e in estimates.items()})
    return ["metrics.csv", "influence.npz"]


STAGES: dict[str, Callable[[Context], Payload]] = {
    "data": data, "classifier": classifier, "clip": clip, "text": text, "reference": reference, "teacher": teacher,
    "pairs": pairs,
    "trajectory": distill, "refine": distill, "sample": sample, "evaluate": evaluate}


@contextmanager
def seeded(*axes: str | int):
    """Global random numbers of these axes inside, for the initialisation of networks; as before outside."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(*axes))
        yield


def new_network(context: Context, *, mean_velocity: bool, axes: tuple[str | int, ...]) -> Transformer:
    conditions = Conditions(context.parent("text")[0]) if "text" in context.stage.parents else None
    with seeded(*axes):
        network = networks.build(networks.typed(context.stage.config["network"]), **shape(context.dataset()),
                                 mean_velocity=mean_velocity, conditions=conditions)
    return network.to(context.device)


def load_network(context: Context, role: str, *, mean_velocity: bool) -> Transformer:
    """The parent's weights; a student that starts from a velocity network keeps its zero embedding of t - r."""
    path, _ = context.parent(role)
    network = new_network(context, mean_velocity=mean_velocity, axes=("interval embedding",))
    missing, unexpected = network.load_state_dict(load_file(path / WEIGHTS), strict=False)
    if unexpected or any(not key.startswith("interval_embed.") for key in missing):
        raise UserError(f"{path / WEIGHTS}: not the weights of this network (missing {missing}, unexpected {unexpected})")
    return network


def made_for(training: Training, network: nn.Module) -> nn.Module:
    """A network that no forward-mode pass goes through, with the training's options."""
    network.gradient_checkpointing = training.gradient_checkpointing
    if training.compile:
        torch.use_deterministic_algorithms(True)  # the compiler too, whose import others are spared
        for block in network.blocks:
            block.compile()
    return network


def read_checkpoint(context: Context, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """A public network's weights in the names of ours; UserError where they are not of this family and size."""
    path, config, data = Path(checkpoint.path), context.stage.config["network"], context.dataset()
    if checkpoint.format == "sana":
        from hdbench.networks.sana import read

        return read(path, SanaConfig(**config), image_size=data.image_size, channels=data.channels)
    from hdbench.networks.checkpoints import read

    return read(path, checkpoint.format, TransformerConfig(**config), **shape(data))


def new_clip(context: Context) -> Captioned:
    from hdbench.clip import Captioned, build

    return Captioned(build(context.plan.suite.text.model), prompts_of(context))


def load_clip(context: Context) -> Captioned:
    network = new_clip(context)
    network.load_state_dict(load_file(context.parent("clip")[0] / WEIGHTS))
    return network.to(context.device).eval().requires_grad_(False)


def prompts_of(context: Context) -> list[str]:
    """The prompts of the data, by label."""
    return [row["prompt"] for row in DATASETS[context.dataset().name].prompts(context.dataset())]


def sampled_prompts(context: Context) -> dict[str, dict[str, str]]:
    """The rows of `evaluation.prompts` by the name of their image; UserError where it is not such a file, or has too few."""
    from hdbench.evaluation.samples import read_prompts

    wanted, names = context.plan.suite.evaluation, ()
    path = Path(wanted.prompts)
    with suppress(OSError, ValueError):  # `read_prompts` says what is wrong
        names = tuple(json.loads(path.read_text(encoding="utf-8-sig")))
    rows = read_prompts(path, names, wanted.protocol)
    if len(rows) < wanted.samples:
        raise UserError(f"{path}: has {len(rows)} prompts, evaluation.samples = {wanted.samples}; lower it")
    if (nested := next((name for name in names if "/" in name), None)) is not None:
        raise UserError(f"{path}: {nested!r}: an image's name has no '/'; leave the folder out")
    return dict(zip(names, rows))


def digests_of(path: Path) -> dict[str, str]:
    """SHA-256 of a public file, or of every .safetensors of a folder."""
    files = [path] if path.is_file() else sorted(path.rglob("*.safetensors"))
    return {file.name if file == path else file.relative_to(path).as_posix(): artifact.sha256(file) for file in files}


def labels_of(context: Context, indices: range) -> Tensor:
    """Labels (N,) of these samples: classes in turn, or the rows of the prompts to be sampled, in turn as `sampled` says.

    That is [first row, number of rows, stride]: where prompts are ordered, a stride without common factor mixes them.
    """
    first, count, stride = (context.parent("text")[1]["sampled"] if "text" in context.stage.parents
                            else (0, context.dataset().classes, 1))
    return first + torch.tensor(indices, dtype=torch.int64) * stride % count


def targets_of(context: Context, labels: Tensor) -> Tensor:
    """What a classifier should find: labels (N,), or of data with several attributes their classes (N, A)."""
    module = DATASETS[context.dataset().name]
    return torch.from_numpy(module.attributes_of(labels.numpy())) if hasattr(module, "attributes_of") else labels


def of_classifier(dataset) -> dict[str, Any]:
    """The classifier's sizes: one group of classes, or one for each attribute."""
    return {"image_size": dataset.image_size, "channels": dataset.channels,
            "attributes": attributes(dataset.name, dataset.classes)}


def progress_of(context: Context) -> Callable[[int, int], None]:
    """Progress for work that says itself how much it is."""
    progress = Progress(context.label, 0)

    def said(done: int, total: int) -> None:
        progress.total = total
        progress(done)

    return said


def load_classifier(context: Context) -> Classifier:
    path, manifest = context.parent("classifier")
    network = Classifier(ClassifierConfig(**manifest["config"]["network"]), **of_classifier(context.dataset()))
    network.load_state_dict(load_file(path / WEIGHTS))
    return network.to(context.device).eval()


@torch.no_grad()
def classify(network: Classifier, images: Tensor, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, C, H, W) uint8 -> features (N, d) and probabilities (N, classes), float32."""
    features = torch.cat([network.penultimate(to_float(part).to(device)) for part in images.split(500)])
    groups = network.out(features).split(network.attributes, dim=1)
    return features.cpu().numpy(), torch.cat([torch.softmax(group, dim=1) for group in groups], dim=1).cpu().numpy()


def dimensions(dataset) -> tuple[int, int, int]:
    return dataset.channels, dataset.image_size, dataset.image_size


def shape(dataset) -> dict[str, int]:
    return {"image_size": dataset.image_size, "channels": dataset.channels, "classes": dataset.classes}
