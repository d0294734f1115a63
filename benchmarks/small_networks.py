"""What makes a training step of the small suites' networks cheaper: ratios of CPU seconds.

In one process, steps of each variant alternate with steps of the first, so that a ratio is paired
and a drifting machine cancels.  Steps are whole: draws, both passes, clipping, AdamW, average.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hdbench.core.runtime import set_up
from hdbench.flow.path import guided
from hdbench.methods.base import Problem
from hdbench.networks.config import TransformerConfig
from hdbench.networks.transformer import Transformer
from hdbench.stages.compiling import compiled
from hdbench.stages.trainer import Trainer
from hdbench.suite.training import Training

attention = F.scaled_dot_product_attention


def attention_in_full(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same by two batched products, q, k and v (B, heads, N, d) made contiguous."""
    q, k, v = (x.contiguous() for x in (q, k, v))
    return torch.softmax((q * q.shape[-1] ** -0.5) @ k.mT, dim=-1) @ v


# settings of the network and of the training, and the function that attends
VARIANTS: dict[str, tuple[dict, dict, Callable]] = {
    "tanh GELU": ({}, {}, attention),
    "exact GELU": ({"gelu": "erf"}, {}, attention),
    "tanh GELU, attention in full": ({}, {}, attention_in_full),
    "exact GELU, attention in full": ({"gelu": "erf"}, {}, attention_in_full),
    "exact GELU, bfloat16": ({"gelu": "erf"}, {"precision": "bfloat16"}, attention),
    "exact GELU, compiled": ({"gelu": "erf"}, {"compile": True}, attention),
}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "flow_matching": {"name": "flow_matching"},
    "meanflow": {"name": "meanflow"},
    "dmd": {"name": "dmd", "fake_steps_per_generator_step": 3},
}


def new_trainer(objective: dict, network: dict, options: dict, width: int, batch: int) -> Trainer:
    """Of random networks and images as `textured_digits` has them, guided by 1.5."""
    settings = {"objective": objective, "steps": 10**6, "batch": batch, "learning_rate": 1e-4}
    training = Training.model_validate_json(json.dumps(settings | {"ema": 0.99} | options))
    config = TransformerConfig(width=width, **network)

    def build(mean_velocity: bool) -> Transformer:
        made = config.build(image_size=16, channels=1, classes=10, mean_velocity=mean_velocity)
        for parameter in made.parameters():  # as after training: no layer at zero
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
        return made

    teacher = build(False).requires_grad_(False)
    student = build(training.objective.role == "student")
    problem = Problem(
        student=student,
        learning_rate=1e-4,
        teacher=teacher,
        teacher_velocity=guided(teacher, 1.5),
        copy_teacher=lambda: build(False),
    )
    images = torch.randn(512, 1, 16, 16)
    labels = torch.randint(10, (512,))
    updates = training.objective.updates(problem)
    if training.compile:
        updates = [replace(update, loss=compiled(update.loss)) for update in updates]
    return Trainer(updates, training, student, ("bench",), images, labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objective", choices=OBJECTIVES, default="flow_matching")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--compile", action="store_true", help="torch.compile too: slow to start")
    options = parser.parse_args()
    set_up(1, "cpu")
    torch.manual_seed(0)
    objective = OBJECTIVES[options.objective]
    trainers = {
        name: (new_trainer(objective, network, how, options.width, options.batch), attend)
        for name, (network, how, attend) in VARIANTS.items()
        if options.compile or "compile" not in how
    }

    def seconds(name: str) -> float:
        trainer, F.scaled_dot_product_attention = trainers[name]
        begun = time.process_time()
        trainer.train_step()
        return time.process_time() - begun

    for name in trainers:
        seconds(name)
    rounds = [{name: seconds(name) for name in trainers} for _ in range(options.repeats)]
    first = next(iter(trainers))
    sizes = f"width {options.width}, batch {options.batch}"
    print(f"{options.objective}, {sizes}, one thread; ratios to the first, quartiles")
    for name in trainers:
        low, ratio, high = statistics.quantiles((r[name] / r[first] for r in rounds), n=4)
        milliseconds = 1000 * statistics.median(r[name] for r in rounds)
        print(f"{name:30} {milliseconds:7.1f} ms  {ratio:.3f} ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
