"""Latencies of a suite's samplers, measured side by side on one machine: the file, and its rows.

`hdbench latency` writes results/<suite>/latency.json; `hdbench collect` adds what it says to the
metrics and its provenance to environments.json.  A sampler is known by what decides its time alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hdbench.core.errors import UserError
from hdbench.core.files import digest_of, from_json, read_text
from hdbench.suite.plan import Plan, Row

FILE = "latency.json"
SINGLE = "latency_batch_1_ms"
FULL = "latency_full_batch_ms"
METRICS = (SINGLE, FULL)


def latency_file(plan: Plan, results: Path) -> Path:
    return results / plan.name / FILE


def sampler_key(plan: Plan, row: Row) -> str:
    """A digest of what decides how long a row's sampling takes: network, sampler and batch."""
    stage = plan.stage(row.stages["sample"])
    config = stage.config.model_dump(
        mode="json", exclude={"seed", "chain", "samples", "autoencoder"}
    )
    return digest_of({"config": config, "student": is_student(plan, row)})[:16]


def is_student(plan: Plan, row: Row) -> bool:
    """Whether the network that a row samples has an embedding of t - r."""
    source = plan.stage(row.stages["sample"]).parents["source"]
    return plan.stage(source).kind != "teacher"


def read_latencies(path: Path) -> dict[str, Any] | None:
    """What `hdbench latency` wrote, or None; UserError for a file that it did not write."""
    try:
        measured = from_json(read_text(path))
        numbers = [ms for times in measured["milliseconds"].values() for ms in times.values()]
        if not all(ms > 0 for ms in numbers) or not dict(measured["provenance"]):
            raise ValueError("a time that cannot be")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: not a file of `hdbench latency` ({error!r}); remove it, or measure again"
        ) from None
    return measured


def latencies(measured: dict[str, Any] | None, plan: Plan, row: Row) -> Iterator[dict[str, Any]]:
    """The row's latencies as metrics; none where its sampler was not measured."""
    times = (measured or {"milliseconds": {}})["milliseconds"].get(sampler_key(plan, row), {})
    for metric in METRICS:
        if metric in times:
            yield {"metric": metric, "value": times[metric], "protocol": "cost"}
