"""How long every way to sample of a suite takes, side by side on one machine.

Rounds go through all samplers, so that what else the machine does meets them alike; a sampler's
latency is the median over rounds, after one call that is not counted.  The time does not depend on
the weights, so networks are fresh ones and nothing need have been trained.  The network's own time:
latents are not decoded.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from hdbench.core.errors import UserError
from hdbench.core.files import write_together
from hdbench.core.progress import Progress
from hdbench.core.provenance import environment
from hdbench.core.seeds import sample_noise, seeded
from hdbench.report.latency import FULL, SINGLE, is_student, latency_file, sampler_key
from hdbench.stages.sample import sampler_for
from hdbench.suite.plan import Plan, Row


def measure(plan: Plan, results: Path, device: torch.device, rounds: int) -> Path:
    """results/<suite>/latency.json: milliseconds an image, by sampler, at batch 1 and the suite's.

    UserError for a suite with text, whose networks need encoded prompts.
    """
    if plan.suite.text:
        raise UserError(f"{plan.stem}: text: latencies are of suites without prompts")
    if rounds < 1:
        raise UserError(f"--rounds = {rounds}: must be at least 1")
    full = plan.suite.evaluation.batch
    rows = {sampler_key(plan, row): row for row in plan.rows if "teacher" in row.stages}
    samplers = {key: sampler(plan, row, device) for key, row in rows.items()}
    times = {key: {SINGLE: [], FULL: []} for key in rows}
    progress = Progress("latency", (rounds + 1) * len(rows))
    for number in range(rounds + 1):
        for place, (key, sample) in enumerate(samplers.items()):
            progress(number * len(rows) + place)
            for name, batch in ((SINGLE, 1), (FULL, full)):
                spent = 1000 * seconds(sample(batch), device) / batch
                if number:
                    times[key][name].append(spent)
    progress((rounds + 1) * len(rows))
    provenance = environment(str(device)) | {
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "full_batch": full,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }
    medians = {
        key: {name: round(median(values), 4) for name, values in of_sampler.items()}
        for key, of_sampler in times.items()
    }
    path = latency_file(plan, results)
    text = json.dumps({"provenance": provenance, "milliseconds": medians}, indent=1) + "\n"
    write_together({path: text.encode()})
    return path


def sampler(plan: Plan, row: Row, device: torch.device) -> Callable[[int], Callable[[], Tensor]]:
    """Draws noise for so many images, and gives what samples them as the row does.

    The network is a fresh one.
    """
    config = plan.stage(row.stages["sample"]).config
    shape = config.shape
    with seeded("latency"):
        network = config.network.build(
            image_size=shape.image_size,
            channels=shape.channels,
            classes=shape.classes,
            mean_velocity=is_student(plan, row),
            conditions=None,
        )
    noises, sample = sampler_for(config, network.to(device).requires_grad_(False))

    def images(batch: int) -> Callable[[], Tensor]:
        eps = sample_noise(("latency",), range(batch), (noises, *shape.dimensions)).to(device)
        labels = (torch.arange(batch) % shape.classes).to(device)
        return lambda: sample(eps.transpose(0, 1), labels)

    return images


def seconds(sample: Callable[[], Tensor], device: torch.device) -> float:
    """Of one call, until the device has done it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begun = time.perf_counter()
    with torch.no_grad():
        sample()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun
