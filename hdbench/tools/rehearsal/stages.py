"""One real step of a stage, at full size, on a device that is not there."""

from __future__ import annotations

import re
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from hdbench.core.errors import first_sentence
from hdbench.datasets.latents import cache
from hdbench.datasets.latents.content import content_of
from hdbench.evaluation.protocols import protocol_named
from hdbench.methods.base import Update
from hdbench.methods.discriminators import parameter_count
from hdbench.stages import PROBLEMS
from hdbench.stages.networks import load_autoencoder, load_network, new_network
from hdbench.stages.sample import decoder_of, sampler_for, sampling_network, solver_of
from hdbench.stages.train import trainer_of
from hdbench.stages.trainer import Trainer, trainable_parameters
from hdbench.suite.plan import Plan
from hdbench.suite.stage import CheckpointStage, PairsStage, ProtocolStage, SampleStage, Stage
from hdbench.suite.training import Training
from hdbench.tools.rehearsal import features
from hdbench.tools.rehearsal.counts import Rehearsal, rehearsed_steps
from hdbench.tools.rehearsal.device import CUDA, fake_cuda, place
from hdbench.tools.rehearsal.parents import Rehearsed
from hdbench.tools.rehearsal.watch import CATEGORIES, Watch


def rehearse(plan: Plan, stage: Stage) -> Rehearsal:
    """One step of a stage."""
    config = stage.config
    if stage.training:
        return of_training(plan, stage)
    if isinstance(config, PairsStage | SampleStage):
        return of_samples(plan, stage)
    if isinstance(config, CheckpointStage):
        return of_teacher(plan, stage)
    if isinstance(config, ProtocolStage):
        return of_features(plan, stage)
    return of_data(plan, stage)


def context_of(plan: Plan, stage: Stage) -> Rehearsed:
    return Rehearsed(
        stage=stage,
        plan=plan,
        results=Path(),
        work=None,  # type: ignore[arg-type]
        label=stage.id,
        device=CUDA,
        checkpoint_seconds=0,
    )


@contextmanager
def noted(result: Rehearsal, watch: Watch) -> Iterator[None]:
    """Watch what is inside and note it; what a GPU would refuse ends it and is a fault."""
    try:
        with watch:
            yield
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        where = place(traceback.extract_tb(error.__traceback__))
        result.faults.append(f"the host reads a value, {error.func}, in {where}")
    except (RuntimeError, NotImplementedError, TypeError) as error:
        where = place(traceback.extract_tb(error.__traceback__))
        reason = re.sub(r"FakeTensor\([^)]*\)", "tensor", first_sentence(error))
        result.faults.append(f"{reason} in {where}")
    result.memory = {category: watch.at_peak.get(category, 0) for category in CATEGORIES}
    result.waits = dict(watch.waits)
    result.faults += [f"float64 in {where}" for where in watch.doubles]


# training


def rows_of(training: Training) -> int:
    """Of a micro-batch on one GPU."""
    return min(training.micro_batch or training.batch, training.batch)


def of_training(plan: Plan, stage: Stage) -> Rehearsal:
    """The last step, of one micro-batch, beside the gradients of those before it, each update once.

    By then guidance has begun in objectives that start without.
    torch.compile is left out, which changes neither shapes nor devices.
    """
    training = stage.training
    rows = rows_of(training)
    shortened = training.model_copy(update={"batch": rows, "compile": False})
    config = stage.config.model_copy(update={"training": shortened})
    result = Rehearsal(stage=stage.id, rows=rows)
    watch = Watch()
    begun: dict[str, Counter[str]] = {}
    with fake_cuda():
        context = context_of(plan, replace(stage, config=config))
        problem = PROBLEMS[stage.kind](context)
        trainer = trainer_of(context, problem)
        trainer.step = training.planned_steps - 1
        networks = [*trainer.modules().values(), problem.student]
        networks += [problem.teacher] if problem.teacher is not None else []
        networks = list({id(network): network for network in networks}.values())
        result.parameters = sum(map(parameter_count, networks))
        repeats = {update.name: update.repeats for update in trainer.updates}
        accumulated = training.batch > rows
        trainer.updates = [once(update, watch, begun, accumulated) for update in trainer.updates]
        allocate(trainer, networks, watch)
        with noted(result, watch):
            trainer.train_step()
    ends = [*list(begun.values())[1:], watch.flops]
    spent: Counter[str] = Counter()
    for (name, start), end in zip(begun.items(), ends, strict=True):
        spent += Counter({kind: repeats[name] * count for kind, count in (end - start).items()})
    result.flops = per_sample(spent, rows)
    result.to_device = watch.to_device / rows
    return result


def per_sample(flops: Counter[str], count: float) -> dict[str, float]:
    """Of so many samples those of one."""
    return {precision: number / count for precision, number in flops.items()}


def once(update: Update, watch: Watch, begun: dict[str, Counter[str]], accumulated: bool) -> Update:
    """The update without repeats, which notes the FLOPs before it; gradients may be there."""

    def draw(draws: Any) -> dict[str, Any]:
        begun[update.name] = watch.flops.copy()
        for module in update.modules.values() if accumulated else ():
            for parameter in trainable_parameters(module):
                parameter.grad = torch.zeros_like(parameter)
                watch.hold(parameter.grad, "gradients")
        return update.draw(draws)

    return replace(update, repeats=1, draw=draw)


def allocate(trainer: Trainer, networks: list[nn.Module], watch: Watch) -> None:
    """Optimisers' states, as after a first step; and what is there before the step, watched."""
    for network in networks:
        watch.hold_all(network.state_dict(keep_vars=True).values(), "parameters")
        watch.hold_all(network.buffers(), "parameters")
    watch.hold_all(trainer.ema.values(), "parameters")
    for update in trainer.updates:
        optimizer = trainer.optimizers[update.name]
        for module in update.modules.values():
            for parameter in trainable_parameters(module):
                parameter.grad = torch.zeros_like(parameter)
                parameter.register_post_accumulate_grad_hook(
                    lambda p: watch.hold(p.grad, "gradients")
                )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        for state in optimizer.state.values():
            watch.hold_all((x for x in state.values() if torch.is_tensor(x)), "optimizer")


# sampling


def of_samples(plan: Plan, stage: Stage) -> Rehearsal:
    """A batch through at most `STEPS` steps of the sampler, and through the decoder."""
    config = stage.config
    steps = rehearsed_steps(config)
    changes: dict[str, Any] = {"steps": steps}
    if stage.kind == "sample" and config.times is not None:
        changes["times"] = config.times[: steps - 1]
    shortened = config.model_copy(update=changes)
    result = Rehearsal(stage=stage.id, rows=config.batch)
    watch = Watch()
    solved: Counter[str] = Counter()
    with fake_cuda(), torch.no_grad():
        context = context_of(plan, replace(stage, config=shortened))
        decode = None
        networks: list[nn.Module] = []
        if isinstance(config, PairsStage):
            networks = [load_network(context, "teacher", mean_velocity=False)]
            noises, sampler = 1, solver_of(shortened, networks[0])
        else:
            networks = [sampling_network(context)]
            noises, sampler = sampler_for(shortened, networks[0])
            if config.autoencoder:
                autoencoder = context.autoencoder(config.autoencoder)
                networks.append(autoencoder.model)
                decode = decoder_of(autoencoder)
            if "autoencoder" in stage.parents:
                trained = load_autoencoder(context)
                networks.append(trained)
                decode = trained.decode
        result.parameters = hold_networks(watch, networks)
        c = torch.zeros(config.batch, dtype=torch.int64).to(CUDA)
        eps = torch.empty(noises, config.batch, *config.shape.dimensions).to(CUDA)
        with noted(result, watch):
            x = sampler(eps, c)
            solved = watch.flops.copy()
            if decode:
                decode(x)
    result.flops = per_sample(solved, calls(shortened) * config.batch)
    result.decoding = per_sample(watch.flops - solved, config.batch)
    result.to_device = watch.to_device / config.batch
    return result


def calls(config: Any) -> int:
    """Evaluations of a sample."""
    if isinstance(config, PairsStage):
        return config.steps * config.guidance.evaluations
    return sum(number for number, _ in config.calls)


# what is not trained


def of_teacher(plan: Plan, stage: Stage) -> Rehearsal:
    """A forward of one image."""
    config = stage.config
    result = Rehearsal(stage=stage.id, rows=1)
    watch = Watch()
    with fake_cuda(), torch.no_grad():
        network = new_network(context_of(plan, stage), mean_velocity=False, axes=("teacher",))
        result.parameters = hold_networks(watch, [network])
        z, t, c = (
            torch.zeros(1, *shape, dtype=dtype).to(CUDA)
            for shape, dtype in (
                (config.shape.dimensions, torch.float32),
                ((), torch.float32),
                ((), torch.int64),
            )
        )
        with noted(result, watch):
            network(z, t, t, c)
    result.flops = per_sample(watch.flops, 1)
    return result


def of_data(plan: Plan, stage: Stage) -> Rehearsal:
    """A batch of images through the encoder."""
    data = stage.config.dataset
    rows = cache.rows_at_once(data.resolution)
    result = Rehearsal(stage=stage.id, rows=rows)
    watch = Watch()
    with fake_cuda(), torch.no_grad():
        autoencoder = data.autoencoder and context_of(plan, stage).autoencoder(data.autoencoder)
        if autoencoder:
            result.parameters = hold_networks(watch, [autoencoder.model])
        content = content_of(data, [], autoencoder, CUDA)
        pixels = np.zeros((data.resolution, data.resolution, 3), np.uint8)
        with noted(result, watch):
            content.kept(dict.fromkeys(range(rows), pixels), "latents")
    result.flops = per_sample(watch.flops, rows)
    return result


def of_features(plan: Plan, stage: Stage) -> Rehearsal:
    """A batch of images through each network of a protocol, one after another."""
    protocol = protocol_named(stage.config.protocol)
    result = Rehearsal(stage=stage.id, rows=features.BATCH)
    watch = Watch()
    side = plan.suite.data.resolution
    with fake_cuda(), torch.no_grad(), features.without_weights():
        for name in protocol.extractors:
            extractor = features.load(name, protocol.resolution)
            result.parameters += hold_networks(watch, features.modules_of(extractor.loaded))
            pixels = np.zeros((side, side, 6 if name == "lpips" else 3), np.uint8)
            with noted(result, watch):
                images = [extractor.prepare(pixels) for _ in range(features.BATCH)]
                extractor(images, ["a picture"] * features.BATCH)
    result.flops = per_sample(watch.flops, features.BATCH)
    return result


def hold_networks(watch: Watch, networks: list[nn.Module]) -> int:
    """Watch what is there before a step; its number of parameters."""
    for network in networks:
        watch.hold_all([*network.parameters(), *network.buffers()], "parameters")
    return sum(map(parameter_count, networks))
