"""The stages that sample: images, and the teacher's ODE pairs."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable

import torch
from safetensors.torch import save_file
from torch import Tensor

from hdbench.core import distributed
from hdbench.core.errors import Divergence
from hdbench.core.pixels import load_images, save_images, to_uint8
from hdbench.core.progress import Progress
from hdbench.core.seeds import sample_noise
from hdbench.flow.path import guided
from hdbench.flow.samplers import sample_consistency, sample_flow_map, sample_ode
from hdbench.stages.context import PAIRS, PROMPTS, Context, Payload, dimensions, labels_of
from hdbench.stages.networks import load_network
from hdbench.stages.pictures import Pictures
from hdbench.stages.train import training_data

DECODED = 8  # latents that the autoencoder takes at once


def generated(
    context: Context,
    sampler: Callable[[Tensor, Tensor], Tensor],
    axes: tuple[str | int, ...],
    noises: int,
    labels: Tensor,
    keep: Callable[[Tensor, range], Tensor],
    done: Callable[[range], bool] = lambda indices: False,
) -> tuple[Tensor, float | None]:
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
        c = labels[indices.start : indices.stop].to(context.device)
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
    return distributed.concatenate(
        kept, distributed.gather(len(kept))
    ), seconds / made if made else None


def pairs(context: Context) -> Payload:
    """The guided teacher's ODE as pairs: standard normal eps, the x (N, C, H, W) float32 that it leads to, and labels (N,)."""
    config, n, steps = (
        context.stage.config,
        context.stage.config["count"],
        context.stage.config["steps"],
    )
    network = load_network(context, "teacher", mean_velocity=False).requires_grad_(False)
    v = guided(network, config["guidance"], tuple(config["guidance_interval"]))
    axes, own = (config["seed"], "pairs"), torch.arange(context.dataset().classes or 0)
    if "text" in context.stage.parents:  # the prompts of the data, never those of the samples
        own = training_data(context, "train")[1].unique()
    labels = own[torch.arange(n) % len(own)]
    x, _ = generated(
        context,
        lambda eps, c: sample_ode(v, eps[0], c, steps),
        axes,
        1,
        labels,
        lambda x, indices: x,
    )
    if distributed.rank() == 0:
        save_file(
            {
                "eps": sample_noise(axes, range(n), (1, *dimensions(context.dataset())))[
                    :, 0
                ].contiguous(),
                "x": x.contiguous(),
                "labels": labels,
            },
            context.work.path / PAIRS,
        )
    count = n * steps * (2 if config["guidance"] != 1.0 else 1)
    return [PAIRS], {
        "network_evaluations": {"teacher forward": count},
        "forward_equivalents": count,
    }


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
    u = network = load_network(
        context, "source", mean_velocity=manifest["kind"] != "teacher"
    ).requires_grad_(False)
    steps = config["steps"]
    if config["sampler"] == "ode":
        v = guided(
            network, config.get("guidance", 1.0), tuple(config.get("guidance_interval", (0.0, 1.0)))
        )
        u = lambda z, r, t, c: v(z, t, c)  # noqa: E731
    noises = steps if config["sampler"] == "consistency" else 1
    times, decode = config.get("times"), lambda z: z

    def make(eps: Tensor, c: Tensor) -> Tensor:
        return decode(
            sample_consistency(u, eps, c, times)
            if noises > 1
            else sample_flow_map(u, eps[0], c, steps)
        )

    labels, axes = labels_of(context, range(n)), (config["seed"], "sample")
    if context.dataset().stored == "latents":
        from hdbench.networks.autoencoders import load

        autoencoder = load(context.dataset().autoencoder, context.device)
        decode = lambda z: torch.cat([autoencoder.decode(part) for part in z.split(DECODED)])  # noqa: E731
        names = [f"{index:06}" for index in range(n)]
        if "text" in context.stage.parents:
            names = list(
                json.loads((context.parent("text")[0] / PROMPTS).read_text(encoding="utf-8"))
            )[:n]
        pictures = Pictures(context.work.path, names)
        _, seconds = generated(
            context, make, axes, noises, labels, pictures.write, pictures.written
        )
        payload = distributed.from_rank_0(pictures.index)
    else:
        images, seconds = generated(
            context, make, axes, noises, labels, lambda x, indices: to_uint8(x)
        )
        if distributed.rank() == 0:
            save_images(context.work.path / "samples.npz", images, labels)
        payload = ["samples.npz"]
    return payload, {} if seconds is None else {"milliseconds_per_sample": round(1000 * seconds, 4)}
