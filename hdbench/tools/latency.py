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
from hdbench.core.outputs import write_outputs
from hdbench.core.progress import Progress
from hdbench.core.provenance import environment
from hdbench.core.seeds import sample_noise, seeded
from hdbench.report.latency import FULL, SINGLE, is_student, latency_file, sampler_key
from hdbench.stages.context import shape
from hdbench.stages.sample import sampler_for
from hdbench.suite.plan import Plan, Row


def measure(plan: Plan, results: Path, device: torch.device, rounds: int) -> Path:
    """Write results/<suite>/latency.json: milliseconds an image of each sampler; its path.

    At batch 1 and at the suite's.  UserError for a suite with text, whose networks need encoded
    prompts.
    """
    if plan.suite.text:
        raise UserError(f"{plan.stem}: text: latencies are of suites without prompts")
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
    write_outputs({path: text.encode()})
    return path


def sampler(plan: Plan, row: Row, device: torch.device) -> Callable[[int], Callable[[], Tensor]]:
    """A function of a batch's size: it draws noises, and returns the call that samples them.

    The call is the row's sampler, with a fresh network.
    """
    config = plan.stage(row.stages["sample"]).config
    with seeded("latency"):
        network = config.network.build(
            **shape(config.shape), mean_velocity=is_student(plan, row), conditions=None
        )
    noises, sample = sampler_for(config, network.to(device).requires_grad_(False))

    def images(batch: int) -> Callable[[], Tensor]:
        dimensions = (noises, *config.shape.dimensions)
        eps = sample_noise(("latency",), range(batch), dimensions).to(device)
        labels = (torch.arange(batch) % config.shape.classes).to(device)
        return lambda: sample(eps.transpose(0, 1), labels)

    return images


def seconds(sample: Callable[[], Tensor], device: torch.device) -> float:
    """Wall seconds of one call, until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begun = time.perf_counter()
    with torch.no_grad():
        sample()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun
