"""Training compute in forward-equivalents, and steps that make budgets equal."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from typing import cast

from hdbench.core.config import nearest
from hdbench.core.errors import UserError
from hdbench.methods.base import Pairs, total
from hdbench.suite.plan import Plan
from hdbench.suite.reading import RECIPES
from hdbench.suite.schema import Arm
from hdbench.suite.stage import DistillStage, PairsStage
from hdbench.suite.training import LARGEST_COUNT, EqualTotal, Training


def cost_per_step(plan: Plan, training: Training) -> float:
    """Forward-equivalents of one training step: the objective's count a sample, times the batch."""
    guided = plan.suite.teacher.guidance.active
    return training.batch * total(training.objective.passes(plan.suite.network.depth, guided))


def pairs_cost(pairs: Pairs, guided: bool) -> int:
    """Forward-equivalents of making them: each Euler step is one forward, two with guidance."""
    return pairs.count * pairs.steps * (2 if guided else 1)


def trained_cost(plan: Plan, arms: Container[str]) -> float:
    """Forward-equivalents of all that was trained for these arms, over chains, each stage once."""
    guided = plan.suite.teacher.guidance.active
    trained = {
        stage for row in plan.all_rows if row.arm in arms for stage in row.stages.values()
    }  # one stage may serve several arms
    total = 0.0
    for config in (plan.stage(stage).config for stage in sorted(trained)):
        if isinstance(config, DistillStage):
            total += len(config.training.span) * cost_per_step(plan, config.training)
        elif isinstance(config, PairsStage):
            total += pairs_cost(Pairs(count=config.count, steps=config.steps), guided)
    return total


def refused_cost(plan: Plan, name: str) -> float:
    """Forward-equivalents, on all chains, of the stage in which a trial diverged, had it ended."""
    with_it = replace(plan, arms=plan.arms | {name: plan.declared[name]})
    arm = resolve_steps(with_it, name, plan.stem)
    training = cast(Training, arm.refine or arm.trajectory)
    return len(plan.suite.seeds) * len(training.span) * cost_per_step(plan, training)


def total_cost(plan: Plan, arm: Arm) -> float:
    """Forward-equivalents of the arm's own training: pairs, trajectory and refine, no teacher."""
    trained = [training for training in (arm.trajectory, arm.refine) if training]
    updates = sum(training.span.stop * cost_per_step(plan, training) for training in trained)
    pairs = {pairs for training in trained if (pairs := training.objective.pairs_needed())}
    guided = plan.suite.teacher.guidance.active
    return updates + sum(pairs_cost(needed, guided) for needed in pairs)


def resolve_steps(plan: Plan, name: str, source: str) -> Arm:
    """The arm with `equal_total` replaced by the number of steps nearest to that budget."""
    arm = plan.arms[name]
    kinds = [
        kind
        for kind in ("trajectory", "refine")
        if (training := getattr(arm, kind)) and isinstance(training.steps, EqualTotal)
    ]
    if not kinds:
        return arm
    kind = kinds[0]
    training = getattr(arm, kind)
    other = training.steps.equal_total
    where = f"{source}: arms.{name}.{kind}.steps.equal_total = {other!r}"
    if len(kinds) > 1:
        raise UserError(f"{where}: and that of refine too; one of them must be a number")
    if other not in plan.arms:
        recipe = plan.suite.arms[name]["recipe"] if name in plan.recipes else None
        whose = f" (it is in {RECIPES}/{recipe}.yaml)" if recipe else ""
        raise UserError(f"{where}: unknown arm{whose}" + nearest(other, plan.arms))
    target = plan.arms[other]
    if any(t and isinstance(t.steps, EqualTotal) for t in (target.trajectory, target.refine)):
        raise UserError(f"{where}: that arm's steps are not a number")

    def with_steps(steps: int) -> Arm:
        return arm.model_copy(update={kind: training.model_copy(update={"steps": steps})})

    left = total_cost(plan, target) - total_cost(plan, with_steps(0))
    steps = round(left / cost_per_step(plan, training))
    if steps > LARGEST_COUNT:
        raise UserError(f"{where}: these are {steps:.3g} steps, which no stage takes; lower it")
    if steps < 1:
        raise UserError(
            f"{source}: arms.{name}: the compute of {other!r} leaves no step for {kind}"
        )
    return with_steps(steps)
