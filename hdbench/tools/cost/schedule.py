"""Wall time of stages on several GPUs: each on one of them, as soon as it can begin."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import NamedTuple

from hdbench.suite.plan import Plan


class Schedule(NamedTuple):
    """Seconds, and the stages whose sum is the least that any number of GPUs takes."""

    wall: float
    chain: tuple[str, ...]
    """Ids in the order of their work: the critical path."""
    longest: float
    """Of that chain."""


def schedule(plan: Plan, seconds: Mapping[str, float], gpus: int) -> Schedule:
    """Of these stages, by id; all others are done.

    List scheduling: of the stages whose parents are done, the one with the longest chain after it
    goes first (Graham 1969: at most 2 - 1 / gpus times the best wall time).
    """
    parents = {
        stage: [parent for parent in plan.stage(stage).parents.values() if parent in seconds]
        for stage in seconds
    }
    children: dict[str, list[str]] = {stage: [] for stage in seconds}
    for stage, before in parents.items():
        for parent in set(before):
            children[parent].append(stage)
    waiting = {stage: len(set(before)) for stage, before in parents.items()}
    order = [stage for stage, count in waiting.items() if not count]
    left = dict(waiting)
    for stage in order:  # grows: parents before children
        for child in children[stage]:
            left[child] -= 1
            if not left[child]:
                order.append(child)
    tails: dict[str, float] = {}
    for stage in reversed(order):
        tails[stage] = seconds[stage] + max((tails[x] for x in children[stage]), default=0.0)
    wall = simulated(seconds, children, waiting, tails, gpus)
    chain: list[str] = []
    following = [stage for stage in order if not parents[stage]]
    while following:
        chain.append(max(following, key=tails.__getitem__))
        following = children[chain[-1]]
    return Schedule(wall, tuple(chain), max(tails.values(), default=0.0))


def simulated(
    seconds: Mapping[str, float],
    children: Mapping[str, list[str]],
    waiting: Mapping[str, int],
    tails: Mapping[str, float],
    gpus: int,
) -> float:
    """When the last stage is done; `waiting`: of how many parents."""
    left = dict(waiting)
    ready = [(-tails[stage], stage) for stage, count in left.items() if not count]
    heapq.heapify(ready)
    running: list[tuple[float, str]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < gpus:
            _, stage = heapq.heappop(ready)
            heapq.heappush(running, (now + seconds[stage], stage))
        now, stage = heapq.heappop(running)
        for child in children[stage]:
            left[child] -= 1
            if not left[child]:
                heapq.heappush(ready, (-tails[child], child))
    return now
