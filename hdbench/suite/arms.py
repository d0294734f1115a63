"""What an arm is, and which arm it is compared with: read from its configuration, never from its name."""

from __future__ import annotations

from hdbench.methods.discriminators import HEADS
from hdbench.suite.overrides import leaves
from hdbench.suite.plan import Plan
from hdbench.suite.schema import Arm, EqualTotal


def equal_total(plan: Plan, name: str) -> bool:
    """Whether the arm's stage 2 has as many steps as the total compute of another arm pays for."""
    refine = plan.declared[name].refine
    return bool(refine) and isinstance(refine.steps, EqualTotal)


def head_of(arm: Arm) -> str | None:
    return (arm.refine.objective.head() or (None,))[0] if arm.refine else None


def head_name(arm: Arm) -> str:
    head = head_of(arm)
    return HEADS[head].title if head in HEADS else head or "-"


def initialisation(arm: Arm) -> str:
    if arm.baseline:
        return "-"
    return arm.trajectory.objective.title if arm.trajectory else "Teacher"


def is_teacher(arm: Arm) -> bool:
    return not (arm.real or arm.trajectory or arm.refine or arm.baseline)


def describe(plan: Plan, name: str) -> str:
    """The arm for people: `MeanFlow → DMD + patch`, and whatever else its entry changes."""
    arm = plan.arms[name]
    if arm.real:
        return f"Real images ({arm.real})"
    if arm.baseline:
        return arm.baseline.title
    recipe = plan.recipes.get(name)
    text = recipe.title if recipe else initialisation(arm)
    if arm.refine and not recipe:
        text += f" → {arm.refine.objective.title}"
        text += "" if head_of(arm) in (None, "none") else f" + {head_name(arm)}"
    return ", ".join(
        [
            text,
            *(["equal total"] if equal_total(plan, name) and not recipe else []),
            *settings(plan, name),
        ]
    )


def settings(plan: Plan, name: str, under: tuple[str, ...] = ()) -> list[str]:
    """What an arm's entry changes (under these keys) beside its stages, head and rule for its steps: `relative weight 4.0`."""
    recipe = plan.recipes.get(name)
    said = (
        {("recipe",), ("steps",)}
        if recipe
        else {
            ("trajectory",),
            ("refine",),
            ("real",),
            ("steps",),
            ("trajectory", "objective", "name"),
            ("refine", "objective", "name"),
            ("refine", "objective", "discriminator"),
            ("refine", "steps", "equal_total"),
            ("trajectory", "steps", "equal_total"),
        }
    )
    return [
        f"{path[-1].replace('_', ' ')} {value}"
        for path, value in leaves(plan.suite.arms[name] or {}).items()
        if path not in said
        and path[: len(under)] == under
        and (recipe or getattr(plan.suite.base, path[0]))
    ]


def base_arm(plan: Plan) -> str | None:
    """The arm whose entry overrides nothing."""
    return next((name for name, override in plan.suite.arms.items() if not override), None)


def _stage_two(arm: Arm, *without: str) -> dict:
    config = arm.refine.model_dump(exclude={"steps"})
    return config | {
        "objective": {k: v for k, v in config["objective"].items() if k not in without}
    }


def same_without_head(plan: Plan, name: str) -> str | None:
    """The arm with no head, and the same initialisation, stage 2 and rule for its steps."""

    def key(other: str):
        arm = plan.arms[other]
        rule = "equal total" if equal_total(plan, other) else arm.refine.steps
        return arm.trajectory, rule, _stage_two(arm, "discriminator", "gan")

    refined = [other for other, arm in plan.arms.items() if arm.refine]
    return next(
        (
            o
            for o in refined
            if name in refined and head_of(plan.arms[o]) == "none" and key(o) == key(name)
        ),
        None,
    )


def same_from_trajectory(plan: Plan, name: str) -> str | None:
    """The arm with the same stage 2 and head from a trajectory stage, of several the suite's base one."""
    arm = plan.arms[name]
    if not arm.refine:
        return None
    same = [
        other
        for other, candidate in plan.arms.items()
        if candidate.trajectory
        and candidate.refine
        and not equal_total(plan, other)
        and _stage_two(candidate) == _stage_two(arm)
        and (equal_total(plan, name) or candidate.refine.steps == arm.refine.steps)
    ]
    return min(
        same,
        key=lambda other: plan.arms[other].trajectory != plan.suite.base.trajectory,
        default=None,
    )
