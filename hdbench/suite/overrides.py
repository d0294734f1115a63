"""Mappings merged over one another, as `extends`, `base` and recipes need them."""

from __future__ import annotations

from typing import Any

from hdbench.core.config import Config


def merge(base: Any, override: Any, unnamed: bool = False) -> Any:
    """Override wins; mappings merge key by key, but one with another `name` replaces the base's.

    With `unnamed`, a base without a name holds values for every name, and is merged.
    """
    if not (isinstance(base, dict) and isinstance(override, dict)):
        return override
    named = "name" in base or not unnamed
    if "name" in override and named and override["name"] != base.get("name"):
        return override
    return base | {key: merge(base.get(key), value, unnamed) for key, value in override.items()}


def leaves(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every value below a mapping that is not itself a mapping, by its path."""
    if not isinstance(value, dict):
        return {path: value}
    return {p: v for key, child in value.items() for p, v in leaves(child, (*path, key)).items()}


def differs(base: Config, arm: Config, keys: tuple[str, ...]) -> bool:
    """Whether an arm has another value there than the base, or one in a mapping that another
    `name` replaced.
    """

    def at(config: Config, keys: tuple[str, ...]) -> Any:
        value = config.model_dump(mode="json")
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    return any(
        at(base, path) != at(arm, path)
        for path in (keys, *((*keys[:n], "name") for n in range(len(keys))))
    )
