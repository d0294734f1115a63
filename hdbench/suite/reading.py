"""Files of suites and recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hdbench.core.config import nearest, read_yaml, validate
from hdbench.core.errors import UserError
from hdbench.suite.overrides import merge
from hdbench.suite.schema import Recipe

SUITES, RECIPES = Path("workflow/suites"), Path("workflow/recipes")


def find_suite(name: str) -> Path:
    """The file of a suite given by name (in workflow/suites) or by path."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return path
    path = SUITES / f"{name}.yaml"
    if not path.is_file():
        raise UserError(
            f"no suite {name!r} in {SUITES}"
            + nearest(name, (p.stem for p in SUITES.glob("*.yaml")))
        )
    return path


def read_suite(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The file's mapping, merged over the suite that it `extends`; `only` keeps some arms."""
    if path in seen:
        raise UserError(
            f"{path}: extends itself, by way of {', '.join(map(str, seen))}; name another suite"
        )
    data = read_yaml(path)
    parent, only = data.pop("extends", None), data.pop("only", None)
    if parent is not None:
        try:
            file = find_suite(str(parent))
        except UserError as error:
            raise UserError(f"{path}: extends = {parent!r}: {error}") from None
        data = merge(read_suite(file, (*seen, path)), data)
    arms, tables = data.get("arms"), data.get("tables")
    if (
        only is not None and isinstance(arms, dict) and isinstance(tables, dict)
    ):  # anything else fails in `validate`
        if not isinstance(only, list) or not only:
            raise UserError(f"{path}: only = {only!r}: must be a list of arms")
        for arm in only:
            if not isinstance(arm, str) or arm not in arms:
                raise UserError(f"{path}: only = {arm!r}: unknown arm" + nearest(arm, arms))
        data["arms"] = {name: value for name, value in arms.items() if name in only}
        for table in tables.values():
            for key in ("rows", "against"):
                if isinstance(table, dict) and isinstance(table.get(key), list):
                    table[key] = [row for row in table[key] if row in only or row not in arms]
    return data


def suite_files(path: Path) -> tuple[Path, ...]:
    """The suite's file and those that it extends; all of them are known to be readable."""
    parent = read_yaml(path).get("extends")
    return (path,) if parent is None else (path, *suite_files(find_suite(str(parent))))


def read_recipe(
    name: Any, where: str, folder: Path = RECIPES
) -> tuple[Path, dict[str, Any], Recipe]:
    """The file of a recipe, its arm as it was written, and the whole of it, validated."""
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        raise UserError(
            f"{where}.recipe = {name!r}: no such recipe in {folder}" + nearest(name, known)
        )
    path = folder / f"{name}.yaml"
    data = read_yaml(path)
    return path, data.get("arm"), validate(Recipe, data, str(path))
