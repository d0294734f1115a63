"""What an arm is and what it is compared with: read from its configuration, not its name."""

from __future__ import annotations

from collections.abc import Collection

from hdbench.methods.base import Objective
from hdbench.methods.discriminators import HEADS
from hdbench.suite.overrides import leaves
from hdbench.suite.plan import Plan
from hdbench.suite.schema import Arm
from hdbench.suite.training import EqualTotal


def title_of(objective: Objective) -> str:
    """The method for people: `MeanFlow`."""
    return objective.title


def title_of_head(head: str | None) -> str:
    """The discriminator head for people: `AWD-logit`; "-" without stage 2."""
    return HEADS[head].title if head in HEADS else head or "-"


def is_adaptive(head: str | None) -> bool:
    """Whether a discriminator head weighs tokens by what they hold."""
    return head in HEADS and HEADS[head].adaptive


def is_reconstruction(head: str | None) -> bool:
    """Whether a discriminator head's formula is ours, since its paper gives none."""
    return head in HEADS and HEADS[head].reconstruction


def equal_total(plan: Plan, name: str) -> bool:
    """Whether the arm's stage 2 has as many steps as the total compute of another arm pays for."""
    refine = plan.declared[name].refine
    return bool(refine) and isinstance(refine.steps, EqualTotal)


def head_of(arm: Arm) -> str | None:
    """Name of the discriminator head; "none" where stage 2 has none, None without stage 2."""
    return (arm.refine.objective.head() or (None,))[0] if arm.refine else None


def head_name(arm: Arm) -> str:
    return title_of_head(head_of(arm))


def initialisation(arm: Arm) -> str:
    if arm.baseline:
        return "-"
    return title_of(arm.trajectory.objective) if arm.trajectory else "Teacher"


def is_teacher(arm: Arm) -> bool:
    return not (arm.real or arm.trajectory or arm.refine or arm.baseline or arm.sampling)


def describe(plan: Plan, name: str) -> str:
    """The arm for people: its title, or `MeanFlow → DMD + patch` and what else it changes.

    What was chosen for a tuned arm is no part of it; "tuned" is.
    """
    if name in plan.suite.tuned:
        chosen = {tuple(key.split(".")) for key in plan.suite.tuned[name].choice.settings}
        return f"{described(plan, name, chosen)}, tuned"
    return described(plan, name, set())


def described(plan: Plan, name: str, but: set[tuple[str, ...]]) -> str:
    """`describe` without settings at these keys."""
    arm = plan.arms[name]
    if arm.title:
        return arm.title
    if arm.real:
        return f"Real images ({arm.real}{', autoencoded' if arm.autoencoded else ''})"
    if arm.baseline:
        return arm.baseline.title
    recipe = plan.recipes.get(name)
    text = recipe.title if recipe else initialisation(arm)
    if arm.refine and not recipe:
        text += f" → {title_of(arm.refine.objective)}"
        text += "" if head_of(arm) in (None, "none") else f" + {head_name(arm)}"
    rule = ["equal total"] if equal_total(plan, name) and not recipe else []
    return ", ".join([text, *rule, *settings(plan, name, but=but)])


def settings(
    plan: Plan, name: str, under: tuple[str, ...] = (), but: Collection[tuple[str, ...]] = ()
) -> list[str]:
    """What an arm's entry changes (under these keys) beside stages, head and rule for its steps.

    Each as `relative weight 4.0`.
    """
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
        and path not in but
        and path[: len(under)] == under
        and (recipe or getattr(plan.suite.base, path[0]))
    ]


def base_arm(plan: Plan) -> str | None:
    """The arm whose entry overrides nothing, or that is tuned and overrides nothing more."""
    tuned = {name: tuned.entry for name, tuned in plan.suite.tuned.items()}
    entries = (plan.suite.arms | tuned).items()
    bare = (name for name, entry in entries if not (entry or {}).keys() - {"title"})
    return next((name for name in bare if name in plan.arms), None)


def is_base_trajectory(plan: Plan, name: str) -> bool:
    """Whether the arm has the base's trajectory stage."""
    trajectory = plan.untuned[name].trajectory
    return trajectory is not None and trajectory == plan.suite.base.trajectory


def trajectory_alone(plan: Plan, name: str) -> str | None:
    """The arm that stops after this arm's trajectory stage."""
    trajectory = plan.arms[name].trajectory
    arms = plan.arms.items()
    stops = (other for other, arm in arms if arm.trajectory == trajectory and not arm.refine)
    return next(stops, None) if trajectory else None


def is_tuned_as_base(plan: Plan, name: str) -> bool:
    """Whether the arm and the base arm both have settings that were chosen, or neither."""
    return (name in plan.suite.tuned) == (base_arm(plan) in plan.suite.tuned)


def has_base_refine(plan: Plan, name: str) -> bool:
    """Whether an arm with stage 2 has the base's, head included, whatever its steps."""
    same = _stage_two(plan.untuned[name]) == _stage_two(plan.suite.base)
    return same and is_tuned_as_base(plan, name)


def has_base_refine_but_head(plan: Plan, name: str) -> bool:
    """Whether an arm with stage 2 has the base's but for the head and its training."""
    same = _without_head(plan.untuned[name]) == _without_head(plan.suite.base)
    return same and is_tuned_as_base(plan, name)


def _stage_two(arm: Arm, *without: str) -> dict:
    config = arm.refine.model_dump(exclude={"steps"})
    return config | {
        "objective": {k: v for k, v in config["objective"].items() if k not in without}
    }


def _without_head(arm: Arm) -> dict:
    return _stage_two(arm, "discriminator", "gan")


def alike_but_head(plan: Plan, name: str) -> list[str]:
    """The arms with this arm's start, stage 2 but for the head, and rule for its steps.

    What was chosen for tuned arms is left out; these are alike among themselves.
    """

    def key(other: str) -> tuple:
        arm = plan.untuned[other]
        rule = "equal total" if equal_total(plan, other) else plan.arms[other].refine.steps
        return plan.arms[other].trajectory, rule, _without_head(arm), other in plan.suite.tuned

    wanted = key(name)
    return [other for other, arm in plan.arms.items() if arm.refine and key(other) == wanted]


def same_without_head(plan: Plan, name: str) -> str | None:
    """The arm with no head, and the same initialisation, stage 2 and rule for its steps."""
    alike = alike_but_head(plan, name) if plan.arms[name].refine else []
    return next((other for other in alike if head_of(plan.arms[other]) == "none"), None)


def same_from_trajectory(plan: Plan, name: str) -> str | None:
    """The arm with the same stage 2 and head from a trajectory stage, preferably the base's."""
    arm = plan.arms[name]
    if not arm.refine:
        return None
    same = [
        other
        for other, candidate in plan.arms.items()
        if candidate.trajectory
        and candidate.refine
        and not equal_total(plan, other)
        and _stage_two(plan.untuned[other]) == _stage_two(plan.untuned[name])
        and (other in plan.suite.tuned) == (name in plan.suite.tuned)
        and (equal_total(plan, name) or candidate.refine.steps == arm.refine.steps)
    ]
    return min(
        same,
        key=lambda other: plan.arms[other].trajectory != plan.suite.base.trajectory,
        default=None,
    )
