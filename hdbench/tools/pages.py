"""Pages of the documents that are made whole: one a method, of its recipe, and the commands."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pandas as pd

from hdbench.methods.base import Objective
from hdbench.methods.discriminators import HEADS
from hdbench.metrics.records import read_metrics
from hdbench.report.document import for_people
from hdbench.report.numbers import Numbers
from hdbench.suite.arms import head_of
from hdbench.suite.load import load_plan
from hdbench.suite.overrides import leaves
from hdbench.suite.reading import RECIPES, read_recipe
from hdbench.suite.schema import Recipe

REFERENCE = "textured_digits"
SHOWN = ("precision", "recall")  # beside the distance


def recipes() -> list[str]:
    """The names of all recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml") if not path.stem.startswith("_"))


def reference_numbers(tables: Path) -> Numbers:
    """The committed numbers of the reference run."""
    frame = read_metrics(tables / REFERENCE / "metrics.csv")
    return Numbers(load_plan(REFERENCE), frame, Path("results"), lenient=True)


def method_page(name: str, numbers: Numbers) -> str:
    """Equations, origin of every setting, differences from the paper and expected values."""
    _, _, recipe = read_recipe(name, "pages")
    source = re.sub(r"arXiv (\d{4}\.\d{5})", r"[\g<0>](https://arxiv.org/abs/\1)", recipe.source)
    parts = [
        f"# {recipe.title}",
        f"Source: {source}. Recipe: `{RECIPES / name}.yaml`.",
        "## Equations",
        *_equations(recipe),
        "## Differences from the source",
        recipe.differences,
        "## Expected values",
        _expected(name, numbers),
        "## Settings",
        _settings(recipe).to_markdown(index=False, disable_numparse=True),
        "## Use it",
        f"An arm of any suite with an arm `hd`:\n\n```yaml\nmine: {{recipe: {name}}}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _equations(recipe: Recipe) -> Iterator[str]:
    """The texts of the modules of both stages' objectives, of what they extend, and of the head."""
    trainings = {"Trajectory": recipe.arm.trajectory, "Distribution": recipe.arm.refine}
    for stage, training in trainings.items():
        if training is None:
            continue
        objective = training.objective
        lineage = [cls for cls in type(objective).__mro__ if issubclass(cls, Objective)]
        modules = list(dict.fromkeys(cls.__module__ for cls in lineage))
        for module in modules[: modules.index(Objective.__module__)]:
            yield _text_of(module, stage)
    head = head_of(recipe.arm)
    if head not in (None, "none"):
        yield _text_of(HEADS[head].__module__, f"Head `{head}`")


def _text_of(module: str, title: str) -> str:
    text = inspect.getdoc(importlib.import_module(module)) or ""
    return f"{title}, `{module}`:\n\n```text\n{text}\n```"


def _settings(recipe: Recipe) -> pd.DataFrame:
    """Every value of the arm with its origin: that of the longest path that covers it."""
    rows = []
    for path, value in leaves(recipe.arm.model_dump(mode="json")).items():
        covers = (".".join(path[:end]) for end in range(len(path), 0, -1))
        origin = next(
            (recipe.hyper_parameters[key] for key in covers if key in recipe.hyper_parameters), "-"
        )
        if path[-2:] != ("objective", "name"):
            rows.append([f"`{'.'.join(path)}`", f"`{json.dumps(value)}`", origin])
    return pd.DataFrame(rows, columns=["setting", "value", "where from"])


def _expected(name: str, numbers: Numbers) -> str:
    """The reference run's numbers of each arm of the recipe, by sampling steps."""
    plan = numbers.plan
    arms = [arm for arm in plan.recipes if plan.suite.arms[arm]["recipe"] == name]
    if not arms:
        return f"No arm of `{REFERENCE}` has this recipe yet."
    metrics = [numbers.counted(metric) for metric in (numbers.distance, *SHOWN)]
    rows = [
        [f"`{arm}`", entry.steps, numbers.chains(entry)[0]]
        + [for_people(numbers(entry, metric)) for metric in metrics]
        for arm in arms
        for entry in numbers.entries(arm)
    ]
    table = pd.DataFrame(rows, columns=["arm", "steps", "chains", *metrics])
    return (
        f'Of the suite `{REFERENCE}`, mean and 95% interval over chains; "-" is not measured yet. '
        "The committed numbers are of an earlier version of the code.\n\n"
        + table.to_markdown(index=False, disable_numparse=True)
        + f"\n\nMeasure it: `hdbench arm {arms[0]} --suite {REFERENCE} --seed 1`."
    )


def commands_page(group: click.Group) -> str:
    """The help text of the group and of each of its commands."""
    return "\n\n".join(["# Commands", *_helps(group, None, "hdbench", "##")]) + "\n"


def _helps(
    command: click.Command, parent: click.Context | None, name: str, heading: str
) -> Iterator[str]:
    """Of the command, then of those below it under headings."""
    with click.Context(command, parent, info_name=name) as context:
        yield f"```text\n{command.get_help(context)}\n```"
        if isinstance(command, click.Group):
            for below in command.list_commands(context):
                yield f"{heading} {context.command_path} {below}"
                yield from _helps(command.commands[below], context, below, heading + "#")
