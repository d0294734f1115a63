"""A suite of seconds (tiny.yaml), with the changes that a test wants."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
import yaml

from hdbench.stages.run import run_stage
from hdbench.suite.load import load_plan
from hdbench.suite.plan import Plan

REPOSITORY = Path(__file__).parents[2]
TINY = yaml.safe_load((REPOSITORY / "tests/support/tiny.yaml").read_text(encoding="utf-8"))
REMOVED = object()


def changed(changes: dict[str, Any], base: dict[str, Any] = TINY) -> dict[str, Any]:
    """A copy of the suite with these values at dotted keys, without the keys of value REMOVED."""
    data = copy.deepcopy(base)
    for key, value in changes.items():
        *path, last = key.split(".")
        node = data
        for part in path:
            node = node.setdefault(part, {})
        if value is REMOVED:
            del node[last]
        else:
            node[last] = value
    return data


def write_suite(folder: Path, changes: dict[str, Any] | None = None, name: str = "tiny") -> Path:
    """The changed suite as a file in `folder`."""
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(changed(changes or {}), sort_keys=False), encoding="utf-8")
    return path


def tiny_plan(folder: Path, changes: dict[str, Any] | None = None) -> Plan:
    return load_plan(str(write_suite(folder, changes)))


def run_until(plan: Plan, results: Path, stage_id: str) -> None:
    """Run a stage and everything before it, in this process."""
    for parent in plan.stages[stage_id].parents.values():
        run_until(plan, results, parent)
    run_stage(plan.stages[stage_id], results, torch.device("cpu"), 1000.0)


def stage_of(plan: Plan, kind: str, arm: str, seed: int = 0) -> str:
    """Id of an arm's stage; of its first number of sampling steps."""
    return next(
        row.stages[kind] for row in plan.rows if row.arm == arm and row.seed in (seed, None)
    )
