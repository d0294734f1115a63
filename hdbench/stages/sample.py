"""The stages that sample: images, and the teacher's ODE pairs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from safetensors.torch import save_file
from torch import Tensor

from hdbench.core import distributed
from hdbench.core.errors import Divergence, UserError
from hdbench.core.files import from_json
from hdbench.core.pixels import load_images, save_images, to_float, to_uint8
from hdbench.core.progress import Progress
from hdbench.core.seeds import sample_noise
from hdbench.flow.guidance import Guidance
from hdbench.flow.samplers import sample_consistency, sample_flow_map, sample_mix, sample_ode
from hdbench.networks.autoencoders import Autoencoder
from hdbench.networks.base import TokenNetwork
from hdbench.stages.compiling import compile_blocks, compiler_is_there, with_rows
from hdbench.stages.context import PAIRS, PROMPTS, Context, Payload, labels_of
from hdbench.stages.networks import load_autoencoder, load_network
from hdbench.stages.pictures import Pictures
from hdbench.stages.train import training_data
from hdbench.suite.stage import PairsStage, RealStage, SampleStage

DECODE_BATCH = 8  # latents that the autoencoder takes at once


def generated(
    context: Context,
    sampler: Callable[[Tensor, Tensor], Tensor],
    axes: tuple[str | int, ...],
    noises: int,
    labels: Tensor,
    keep: Callable[[Tensor, range], Tensor],
    done: Callable[[range], bool] = lambda indices: False,
    made_of: tuple[int, int, int] | None = None,
) -> tuple[Tensor, float | None]:
    """On rank 0, samples of these labels (N,) and the seconds that one took (None: all were there).

    `sampler` takes noises (noises, B, C, H, W) and labels (B,) and makes (B, *made_of), by default
    of the noises' shape; `keep` gets that and which samples these are, and returns the rows to
    hold in memory; batches that are `done` are left out.  Sample i has its own seed, so neither
    batch size nor number of processes changes it.
    Ranks share the batches, whole ones in contiguous runs: kernels may round otherwise for another
    number of rows.
    """
    shape = context.config.shape.dimensions
    n = len(labels)
    world_size = distributed.world_size()
    size = context.config.batch
    count = math.ceil(n / size)  # of batches
    bounds = [min(size * math.ceil(count * rank / world_size), n) for rank in range(world_size + 1)]
    batches = [keep(torch.empty(0, *(made_of or shape)), range(0))]
    seconds = 0.0
    made = 0
    finite = True
    first = bounds[distributed.rank()]
    last = bounds[distributed.rank() + 1]
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
        seconds += time.perf_counter() - begun
        made += len(indices)
        batches.append(keep(x, indices).cpu())
    if any(distributed.any_of(not finite)):
        raise Divergence(f"{context.label}: an image is not finite; its network has diverged")
    progress(last - first)
    kept = torch.cat(batches)
    seconds, made = (sum(distributed.gather(number)) for number in (seconds, made))
    images = distributed.concatenate(kept, distributed.gather(len(kept)))
    return images, seconds / made if made else None


def pairs(context: Context) -> Payload:
    """The guided teacher's ODE from standard normal eps to x (N, C, H, W), with labels (N,)."""
    config = context.config
    n = config.count
    steps = config.steps
    axes = (config.seed, "pairs")
    if "text" in context.stage.parents:  # the prompts of the data, never those of the samples
        rows = training_data(context, "train")[1].unique()
    else:
        rows = torch.arange(config.shape.classes)
    labels = rows[torch.arange(n) % len(rows)]
    solver = solver_of(config, load_network(context, "teacher", mean_velocity=False))
    x, _ = generated(context, solver, axes, 1, labels, lambda x, indices: x)
    if distributed.rank() == 0:
        eps = sample_noise(axes, range(n), (1, *config.shape.dimensions))[:, 0]
        arrays = {"eps": eps.contiguous(), "x": x.contiguous(), "labels": labels}
        save_file(arrays, context.work.path / PAIRS)
    count = n * steps * config.guidance.evaluations
    facts = {"network_evaluations": {"teacher forward": count}, "forward_equivalents": count}
    return [PAIRS], facts


def solver_of(config: PairsStage, network: TokenNetwork) -> Callable[[Tensor, Tensor], Tensor]:
    """The guided teacher's ODE, from one noise (1, B, C, H, W) and labels (B,) to x."""
    v = config.guidance.of(network.requires_grad_(False))
    return lambda eps, c: sample_ode(v, eps[0], c, config.steps)


def sample(context: Context) -> Payload:
    """N images, class-balanced: of the parent's network, or real ones of a split."""
    config = context.config
    if isinstance(config, RealStage):
        return real_images(context)
    labels = labels_of(context, range(config.samples))
    noises, sampler = fast_sampler(config, sampling_network(context), context.device)
    axes = (config.seed, config.chain, "sample")
    if config.autoencoder is None and not config.pictures:
        make, made_of = sampler, None
        if "autoencoder" in context.stage.parents:
            trained = load_autoencoder(context)
            make, made_of = lambda eps, c: trained.decode(sampler(eps, c)), trained.image_shape
        images, seconds = generated(
            context, make, axes, noises, labels, lambda x, indices: to_uint8(x), made_of=made_of
        )
        if distributed.rank() == 0:
            save_images(context.work.path / "samples.npz", images, labels)
        payload = ["samples.npz"]
    else:
        pictures = Pictures(context.work.path, names_of(context, config.samples))
        decode = decoder_of(config.autoencoder and context.autoencoder(config.autoencoder))
        _, seconds = generated(
            context,
            lambda eps, c: decode(sampler(eps, c)),
            axes,
            noises,
            labels,
            pictures.write,
            pictures.written,
        )
        payload = distributed.from_rank_0(pictures.index)
    return payload, {} if seconds is None else {"milliseconds_per_sample": round(1000 * seconds, 4)}


def decoder_of(autoencoder: Autoencoder | None) -> Callable[[Tensor], Tensor]:
    """Latents (B, C, H, W) to images; without an autoencoder they are images."""
    if autoencoder is None:
        return lambda x: x
    return lambda x: torch.cat([autoencoder.decode(z) for z in x.split(DECODE_BATCH)])


def real_images(context: Context) -> Payload:
    """Images of a split that no reference holds, or of test, as if they were samples.

    After encoding and decoding where the stage has an autoencoder.
    """
    config = context.config
    rows = rows_of(config)
    images, labels = load_images(context.parent("source").folder / f"{config.split}.npz")
    images = images[rows]
    if "autoencoder" in context.stage.parents:
        trained = load_autoencoder(context)
        images = to_uint8(trained.decode(trained.encode(to_float(images)))).cpu()
    if distributed.rank() == 0:
        save_images(context.work.path / "samples.npz", images, labels[rows])
    return ["samples.npz"], {}


def rows_of(config: RealStage) -> slice:
    """The rows of the split that are the samples."""
    n = config.samples
    return slice(n, 2 * n) if config.split == "train" else slice(0, n)


def sampling_network(context: Context) -> TokenNetwork:
    """The parent's network, frozen."""
    is_student = context.parent("source").manifest["kind"] != "teacher"
    return load_network(context, "source", mean_velocity=is_student).requires_grad_(False)


def fast_sampler(
    config: SampleStage, network: TokenNetwork, device: torch.device
) -> tuple[int, Callable[[Tensor, Tensor], Tensor]]:
    """As `sampler_for`, of a compiled network where the stage says so."""
    if not (config.compile and compiler_is_there(device.type)):
        return sampler_for(config, network)
    compile_blocks(network)
    noises, sampler = sampler_for(config, network)
    return noises, with_rows(config.batch, sampler)


def sampler_for(
    config: SampleStage, network: TokenNetwork
) -> tuple[int, Callable[[Tensor, Tensor], Tensor]]:
    """How many noises a sample takes, and the sampler by a network, which reuse changes.

    That takes noises (noises, B, C, H, W) and labels (B,) to x (B, C, H, W).
    """
    if config.sampler == "consistency" and config.steps > 1:
        return config.steps, lambda eps, c: sample_consistency(network, eps, c, config.times)
    if config.sampler == "mix" and config.steps > 1:
        return config.steps - 1, lambda eps, c: sample_mix(network, eps, c)
    u = network
    guidance = config.guidance or Guidance()
    if config.sampling:
        solved = config.sampling.sampler(network, guidance, config.steps)
        return 1, lambda eps, c: solved(eps[0], c)
    if config.sampler == "ode":
        v = guidance.of(network)
        u = lambda z, r, t, c: v(z, t, c)  # noqa: E731
    return 1, lambda eps, c: sample_flow_map(u, eps[0], c, config.steps)


def names_of(context: Context, n: int) -> list[str]:
    """Names of n samples' files: their prompts', or numbers; UserError for fewer prompts."""
    if "text" not in context.stage.parents:
        return [f"{index:06}" for index in range(n)]
    path = context.parent("text").folder / PROMPTS
    names = list(from_json(path.read_text(encoding="utf-8")))
    if len(names) < n:
        raise UserError(
            f"{path}: has {len(names)} prompts, evaluation.samples = {n}; lower it, or name "
            "more prompts"
        )
    return names[:n]
