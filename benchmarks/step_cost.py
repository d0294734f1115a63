"""Cost of one training step of each objective, in bare forwards of the same network and batch.

Each objective runs in a process of its own, where steps (optimiser and EMA included) alternate with
bare forwards, so that a ratio is paired and a drifting machine cancels.  Beside it: the evaluations
that the objective counts, and the peak of memory above the start.  Run it with `make bench`; it is
a benchmark, not a test.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from hdbench.core.runtime import set_up
from hdbench.flow.path import guided
from hdbench.methods.base import Problem, total
from hdbench.methods.discriminators import build_head
from hdbench.networks.config import TransformerConfig
from hdbench.networks.transformer import Transformer
from hdbench.stages.trainer import Trainer
from hdbench.suite.training import Training

OBJECTIVES = {  # settings and guidance
    "flow_matching": ({"name": "flow_matching"}, 1.0),
    "meanflow, no teacher": ({"name": "meanflow"}, None),  # the velocity is given, as from data
    "meanflow": ({"name": "meanflow"}, 1.0),
    "meanflow, guided": ({"name": "meanflow"}, 1.5),
    "consistency, guided": ({"name": "consistency"}, 1.5),
    "dmd, guided": ({"name": "dmd", "fake_steps_per_generator_step": 4}, 1.5),
    "dmd + patch on teacher": (
        {
            "name": "dmd",
            "discriminator": "patch",
            "fake_steps_per_generator_step": 4,
            "gan": {"blocks": [3, 4]},
        },
        1.5,
    ),
    "the same, shared pass": (
        {
            "name": "dmd",
            "discriminator": "patch",
            "fake_steps_per_generator_step": 4,
            "gan": {"blocks": [3, 4], "times": "shared"},
        },
        1.5,
    ),
    "dmd2, shared pass": ({"name": "dmd2", "gan": {"times": "shared"}}, 1.5),
    "progressive, first round": ({"name": "progressive", "start_steps": 1}, 1.5),
    "dmd2, four steps": ({"name": "dmd2", "generator_steps": 4}, 1.5),
    "dmd + regression": (
        {"name": "dmd", "regulariser": {"name": "knowledge"}, "regulariser_weight": 0.25},
        1.5,
    ),
} | {
    f"{name}, guided": ({"name": name}, 1.5)
    for name in (
        "improved_meanflow",
        "scm",
        "shortcut",
        "knowledge",
        "reflow",
        "dmd2",
        "decoupled_dmd",
        "f_distill",
        "vsd",
        "sid",
        "adversarial",
        "ladd",
        "adm",
        "adversarial_pretraining",
        "embedding_loss",
        "flash_dmd",
        "gndm",
        "asd",
    )
}


def training_of(objective: dict, batch: int) -> Training:
    settings = {"objective": objective, "steps": 10**6, "batch": batch}
    settings |= {"learning_rate": 1e-4, "ema": 0.99}
    return Training.model_validate_json(json.dumps(settings))


def new_network(width: int, depth: int, device: torch.device, mean_velocity: bool) -> Transformer:
    """For latents of 4x16x16 in ten classes."""
    config = TransformerConfig(width=width, depth=depth, heads=4, patch=2)
    network = Transformer(
        config, image_size=16, channels=4, classes=10, mean_velocity=mean_velocity
    )
    for parameter in network.parameters():  # as after training: no layer at zero
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    return network.to(device)


def new_trainer(
    training: Training, guidance: float | None, width: int, depth: int, device: torch.device
) -> Trainer:
    """Of random networks and images; guidance None: the velocity is given."""

    def network(mean_velocity: bool) -> Transformer:
        return new_network(width, depth, device, mean_velocity)

    def head(name: str, gan, *axes: int) -> torch.nn.Module:
        layers = len(gan.blocks)
        return build_head(name, layers=layers, width=width, grid=8, parameters=60000).to(device)

    teacher = network(False).requires_grad_(False)
    student = network(training.objective.role == "student")
    problem = Problem(
        student=student,
        learning_rate=1e-4,
        teacher=teacher,
        teacher_velocity=guided(teacher, guidance) if guidance else lambda z, t, c: z,
        guide=lambda network: guided(network, guidance or 1.0),
        copy_teacher=lambda: network(False),
        pairs=(*torch.randn(2, 512, 4, 16, 16), torch.randint(10, (512,))),
        head=head,
    )
    images = torch.randn(512, 4, 16, 16)
    labels = torch.randint(10, (512,))
    updates = training.objective.updates(problem)
    return Trainer(updates, training, student, ("bench",), images, labels)


def measure(
    name: str, width: int, depth: int, batch: int, repeats: int, threads: int, device: str
) -> dict[str, float]:
    """Paired ratios step / forward (median, quartiles), a forward in ms, evaluations, peak MB."""
    place = set_up(threads, device)
    torch.manual_seed(0)
    objective, guidance = OBJECTIVES[name]
    training = training_of(objective, batch)
    trainer = new_trainer(training, guidance, width, depth, place)
    z = torch.randn(batch, 4, 16, 16).to(place)
    t = torch.rand(batch).to(place)
    c = torch.randint(10, (batch,)).to(place)

    def forward() -> None:
        with torch.no_grad():
            trainer.student(z, t, t, c)

    def seconds(function: Callable[[], object]) -> float:
        begun = time.perf_counter()
        function()
        if place.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    base = peak_memory(place)
    for function in (forward, trainer.train_step) * 2:
        function()
    times = [
        (seconds(forward), seconds(trainer.train_step), seconds(forward)) for _ in range(repeats)
    ]
    ratios = sorted(2 * step / (before + after) for before, step, after in times)
    quartiles = statistics.quantiles(ratios, n=4)
    passes = training.objective.passes(depth, guidance not in (None, 1.0))
    if guidance is None:
        passes.pop("teacher")
    return {
        "ratio": statistics.median(ratios),
        "low": quartiles[0],
        "high": quartiles[2],
        "counted": total(passes),
        "forward_ms": 1000 * statistics.median(before for before, _, _ in times),
        "peak_mb": peak_memory(place) - base,
    }


def peak_memory(device: torch.device) -> float:
    """In MB: of the process on a CPU, of the allocator on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--only", choices=OBJECTIVES, help="one objective, in this process, as JSON"
    )
    options = vars(parser.parse_args())
    if only := options.pop("only"):
        print(json.dumps(measure(only, **options)))
        return
    print(
        f"width {options['width']}, depth {options['depth']}, 4x16x16, batch {options['batch']}, "
        f"{options['repeats']} pairs, {options['threads']} thread(s), {options['device']}"
    )
    print(
        f"{'objective':24} {'step / forward':>15} {'quartiles':>14} {'counted':>8} "
        f"{'forward ms':>11} {'peak MB':>8}"
    )
    for name in OBJECTIVES:
        command = [
            sys.executable,
            __file__,
            "--only",
            name,
            *(str(x) for k, v in options.items() for x in (f"--{k}", v)),
        ]
        process = subprocess.run(command, check=True, capture_output=True, text=True)
        cost = json.loads(process.stdout)
        print(
            f"{name:24} {cost['ratio']:15.2f} {cost['low']:6.2f} -{cost['high']:6.2f} "
            f"{cost['counted']:8.2f} {cost['forward_ms']:11.1f} {cost['peak_mb']:8.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
