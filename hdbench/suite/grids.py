"""Grids: entries of arms that stand for one arm for each combination of choices."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from typing import Any

from hdbench.core.errors import UserError

MOST = 1000  # arms of a grid
AXIS = re.compile(r"\{(\w+)\}")


def expand(arms: dict[str, Any], source: str) -> dict[str, dict[str, Any]]:
    """The arms of each entry, by the entry's name: a grid's, or the entry itself.

    A grid is an entry such as `hd_{discriminator}_{gan}`: at the keys `discriminator` and `gan` of
    its override are choices in place of values, a list or a mapping of names to values.  Braces in
    its texts (`equal_total: "hd_{discriminator}"`) are filled in as well.  UserError for an axis
    without choices, and for an arm that appears twice.
    """
    entries: dict[str, dict[str, Any]] = {}
    known: set[str] = set()
    for pattern, override in arms.items():
        entries[pattern] = dict(_arms(pattern, override, f"{source}: arms.{pattern}"))
        if twice := sorted(known & entries[pattern].keys()):
            raise UserError(
                f"{source}: arms.{pattern}: the arm {twice[0]!r} appears twice; remove one"
            )
        known |= entries[pattern].keys()
    return entries


def _arms(pattern: str, override: Any, where: str) -> Iterator[tuple[str, Any]]:
    axes = AXIS.findall(pattern)
    choices = [_choices(override, axis, where) for axis in axes]
    if (count := math.prod(map(len, choices))) > MOST:
        raise UserError(f"{where}: stands for {count:,} arms, more than {MOST:,}; leave some out")
    for combination in itertools.product(*choices):
        names = {axis: name for axis, (name, _) in zip(axes, combination, strict=True)}
        values = {axis: value for axis, (_, value) in zip(axes, combination, strict=True)}
        yield _fill(pattern, names), _filled(override, names, values) if axes else override


def _choices(override: Any, axis: str, where: str) -> list[tuple[str, Any]]:
    """Names and values of an axis, from the one key of that name."""
    values = list(_at(override, axis))
    if len(values) != 1:
        problem = "no key of its override" if not values else "more than one key of its override"
        raise UserError(
            f"{where}: {problem} is {axis!r}, an axis of its name; name a key with choices"
        )
    (choices,) = values
    if isinstance(choices, dict) and choices:
        return list(choices.items())
    if isinstance(choices, list) and choices:
        return [(str(value), value) for value in choices]
    raise UserError(
        f"{where}: {axis} = {choices!r}: must be a list of choices, or a mapping of names to values"
    )


def _at(override: Any, key: str) -> list[Any]:
    """What an override has at this key, on any level."""
    if not isinstance(override, dict):
        return []
    here = [override[key]] if key in override else []
    return here + [v for k, child in override.items() if k != key for v in _at(child, key)]


def _filled(value: Any, names: dict[str, str], values: dict[str, Any]) -> Any:
    """The override with a choice at each axis."""
    if isinstance(value, dict):
        return {
            key: values[key] if key in values else _filled(child, names, values)
            for key, child in value.items()
        }
    return _fill(value, names) if isinstance(value, str) else value


def _fill(text: str, names: dict[str, str]) -> str:
    return AXIS.sub(lambda axis: names.get(axis[1], axis[0]), text)
