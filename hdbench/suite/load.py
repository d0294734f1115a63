"""A suite by name or path, read, validated and planned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hdbench.core.config import check_identifier, nearest, validate
from hdbench.core.errors import UserError
from hdbench.core.files import digest_of
from hdbench.suite.chain import Chain
from hdbench.suite.checks import check
from hdbench.suite.overrides import differs, leaves
from hdbench.suite.plan import Plan
from hdbench.suite.reading import (
    ARMS_OF_TABLES,
    SUITES,
    arm_in_full,
    find_suite,
    read_suite,
    recipe_files,
    suite_files,
)
from hdbench.suite.schema import Arm, Suite
from hdbench.suite.trials import choices_file, written_out

# folders of results/ beside the suites
TAKEN = ("stages", "logs", "evaluation", "theory", "flops", "probes")


def identity(path: Path, suite: Suite, arms: dict[str, Arm]) -> str:
    """A suite's name and folder: its stem in workflow/suites, elsewhere stem and digest."""
    check_identifier(path.stem, str(path))
    if path.resolve().parent == SUITES.resolve():
        if path.stem in TAKEN:
            raise UserError(f"{path}: results/{path.stem} is for other things; rename the file")
        return path.stem
    content = [config.model_dump(mode="json") for config in (suite, *arms.values())]
    return f"{path.stem}-{digest_of(content)[:6]}"


def untuned(name: str, suite: Suite, base: dict[str, Any], path: Path) -> Arm:
    """A tuned arm without what was chosen for it."""
    whole = arm_in_full(suite.tuned[name].entry, base, path, name).whole
    return validate(Arm, whole, str(path), ("arms", name))


def load_plan(name: str) -> Plan:
    """Read, validate and plan a suite; every mistake in it is a UserError, before any compute."""
    path = find_suite(name)
    data = written_out(read_suite(path), path)
    suite = validate(Suite, data, str(path))
    arms = {}
    recipes = {}
    choices = (choices_file(find_suite(tuned.suite)) for tuned in suite.tuned.values())
    sources = (*suite_files(path), *dict.fromkeys(choices))
    for arm, override in suite.arms.items():
        check_identifier(arm, f"{path}: arms")
        override, _, recipe, file = written = arm_in_full(override, data["base"], path, arm)
        whose = "the base"
        if recipe and file:
            recipes[arm] = recipe
            sources += tuple(shared for shared in recipe_files(file) if shared not in sources)
            whose = str(file)
        arms[arm] = validate(Arm, written.whole, str(path), ("arms", arm))
        overridden = recipe.arm if recipe else suite.base
        for keys, value in leaves(override).items():
            if keys and not differs(overridden, arms[arm], keys):
                raise UserError(
                    f"{path}: arms.{'.'.join((arm, *keys))} = {value!r}: that is {whose}'s "
                    "value; remove it"
                )
    for table, options in suite.tables.items() if isinstance(suite.tables, dict) else ():
        for key in ARMS_OF_TABLES:
            for row in getattr(options, key, None) or ():
                if row not in arms:
                    raise UserError(
                        f"{path}: tables.{table}.{key} = {row!r}: unknown arm" + nearest(row, arms)
                    )
    diverged = suite.tuning.diverged if suite.tuning else ()
    plan = Plan(
        name=identity(path, suite, arms),
        suite=suite,
        arms={name: arm for name, arm in arms.items() if name not in diverged},
        sources=sources,
        recipes={name: recipe for name, recipe in recipes.items() if name not in diverged},
        declared=dict(arms),
        untuned=arms | {name: untuned(name, suite, data["base"], path) for name in suite.tuned},
    )
    check(plan, str(path))
    for seed in suite.seeds:
        Chain(plan, seed, str(path))
        for further in suite.stage2_seeds.get(seed, ()):
            Chain(plan, seed, str(path), further)
    return plan
