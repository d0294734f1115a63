"""Files of suites and recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from hdbench.core.config import nearest, validate
from hdbench.core.errors import UserError
from hdbench.core.files import expanded
from hdbench.core.yaml_file import read_yaml
from hdbench.suite.grids import expand
from hdbench.suite.overrides import leaves, merge
from hdbench.suite.schema import Recipe

SUITES = Path("workflow/suites")
RECIPES = Path("workflow/recipes")
ARMS_OF_TABLES = ("rows", "also", "without", "against")  # keys of a table's options that name arms


def find_suite(name: str) -> Path:
    """The file of a suite given by name (in workflow/suites) or by path."""
    path = Path(expanded(name))
    if path.suffix in (".yaml", ".yml"):
        return path
    path = SUITES / f"{name}.yaml"
    if not SUITES.is_dir():
        raise UserError(
            f"no folder {SUITES} here, so no suite {name!r}; give this command in the repository, "
            "or in a folder that `hdbench init` filled"
        )
    if not path.is_file():
        raise UserError(
            f"no suite {name!r} in {SUITES}"
            + nearest(name, (p.stem for p in SUITES.glob("*.yaml")))
        )
    return path


def read_suite(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The file's mapping, grids expanded, over the suite that it `extends`; of the arms, `only`."""
    if path in seen:
        raise UserError(
            f"{path}: extends itself, by way of {', '.join(map(str, seen))}; name another suite"
        )
    data = read_yaml(path)
    entries = expand(data["arms"], str(path)) if isinstance(data.get("arms"), dict) else {}
    if entries:
        data["arms"] = {name: arm for arms in entries.values() for name, arm in arms.items()}
    parent = data.pop("extends", None)
    only = data.pop("only", None)
    if parent is not None:
        try:
            file = find_suite(str(parent))
        except UserError as error:
            raise UserError(f"{path}: extends = {parent!r}: {error}") from None
        inherited = read_suite(file, (*seen, path))
        inherited.pop("expected", None)  # of the other's settings
        data = merge(inherited, data)
    arms = data.get("arms")
    if only is not None and isinstance(arms, dict):  # anything else fails in `validate`
        if not isinstance(only, list) or not only:
            raise UserError(f"{path}: only = {only!r}: must be a list of arms")
        only = [name for arm in only for name in _named(arm, entries)]
        for arm in only:
            if not isinstance(arm, str) or arm not in arms:
                raise UserError(f"{path}: only = {arm!r}: unknown arm" + nearest(arm, arms))
        data["arms"] = {name: value for name, value in arms.items() if name in only}
        tables = data.get("tables")
        for options in tables.values() if isinstance(tables, dict) else ():
            for key in ARMS_OF_TABLES if isinstance(options, dict) else ():
                if isinstance(options.get(key), list):
                    options[key] = [row for row in options[key] if row in only or row not in arms]
    return data


def _named(arm: Any, entries: dict[str, dict[str, Any]]) -> list[Any]:
    """The arms of a grid, named by its entry in the same file, or the arm itself."""
    return list(entries[arm]) if isinstance(arm, str) and "{" in arm and arm in entries else [arm]


def suite_files(path: Path) -> tuple[Path, ...]:
    """The suite's file and those that it extends; all of them are known to be readable."""
    parent = read_yaml(path).get("extends")
    return (path,) if parent is None else (path, *suite_files(find_suite(str(parent))))


def read_recipe(
    name: Any, where: str, folder: Path = RECIPES
) -> tuple[Path, dict[str, Any], Recipe]:
    """The file of a recipe, its arm with all values, and the whole of it, validated.

    A recipe `extends` a file of shared values and their sources, whose name begins with `_`.
    """
    known = sorted(path.stem for path in folder.glob("*.yaml") if not path.stem.startswith("_"))
    if name not in known:
        raise UserError(
            f"{where}.recipe = {name!r}: no such recipe in {folder}" + nearest(name, known)
        )
    path = folder / f"{name}.yaml"
    data: dict[str, Any] = {}
    for file in recipe_files(path):
        data = merge(read_yaml(file), data, unnamed=True)
    data.pop("extends", None)
    recipe = validate(Recipe, data, str(path))
    return path, data["arm"], recipe


class InFull(NamedTuple):
    """An arm's entry, what it is put over, and with both the whole arm; not validated."""

    override: Any
    base: dict[str, Any]
    recipe: Recipe | None
    file: Path | None  # of the recipe

    @property
    def whole(self) -> Any:
        return merge(self.base, self.override)


def arm_in_full(entry: Any, base: dict[str, Any], path: Path, arm: str) -> InFull:
    """An entry over the suite's base, or over the recipe that it names; `path` is the suite's."""
    entry = {} if entry is None else entry
    if not isinstance(entry, dict) or "recipe" not in entry:
        return InFull(entry, base, None, None)
    # the recipes are in a folder beside that of the suite, or those shipped
    beside = path.parent.parent / RECIPES.name
    folder = beside if beside.is_dir() else RECIPES
    file, base, recipe = read_recipe(entry["recipe"], f"{path}: arms.{arm}", folder)
    override = {key: value for key, value in entry.items() if key != "recipe"}
    for keys, value in leaves(override).items():
        if keys[-2:] == ("objective", "name"):
            raise UserError(
                f"{path}: arms.{arm}.{'.'.join(keys)} = {value!r}: a recipe's objective stays "
                "what it is; leave out recipe, or the name"
            )
    return InFull(override, base, recipe, file)


def recipe_files(path: Path) -> tuple[Path, ...]:
    """The recipe's file and those that it extends."""
    files = [path]
    while (parent := read_yaml(files[-1]).get("extends")) is not None:
        shared = path.with_name(f"{parent}.yaml")
        if shared in files or not shared.is_file():
            problem = "it extends itself" if shared in files else "no such file beside it"
            choices = (file.stem for file in path.parent.glob("_*.yaml"))
            raise UserError(
                f"{files[-1]}: extends = {parent!r}: {problem}" + nearest(parent, choices)
            )
        files.append(shared)
    return tuple(files)
