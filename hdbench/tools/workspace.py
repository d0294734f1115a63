"""A folder from which suites run: the workflow that is installed with the package, copied."""

from __future__ import annotations

import os
import shutil
from importlib import metadata
from pathlib import Path

import hdbench
from hdbench.core.errors import UserError

SHARED = "share/hdbench/"
ENTRIES = ("Snakefile", "workflow", "profiles", "slurm", "paper_tables/published.csv")


def installed_files() -> dict[str, Path]:
    """The workflow's files by their path in a workspace.

    Of the repository, for an installation in place; else those that the wheel brought.  UserError
    where they are missing.
    """
    repository = Path(hdbench.__file__).parents[1]
    if (repository / "workflow/Snakefile").is_file():
        paths = [path for name in ENTRIES for path in _files(repository / name)]
        return {path.relative_to(repository).as_posix(): path for path in paths}
    records = metadata.distribution("hdbench").files or []
    shared = {r.as_posix().partition(SHARED)[2]: Path(r.locate()).resolve() for r in records}
    files = {name: path for name, path in shared.items() if name}
    if "Snakefile" not in files:
        raise UserError("the installation of hdbench lacks its workflow; install it again with pip")
    return files


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def make_workspace(folder: Path) -> list[Path]:
    """Copy the workflow into the folder, which may have other things; the paths written.

    UserError, before anything is written, if one of them, or a file in place of a folder, is there.
    """
    files = {folder / name: path for name, path in installed_files().items()}
    places = dict.fromkeys(place for path in files for place in (path, *path.parents))
    taken = [place for place in places if os.path.lexists(place) and not place.is_dir()]
    if taken := taken or [path for path in files if path.exists()]:
        raise UserError(f"{taken[0]}: is there already; give an empty folder, or remove it first")
    for path, source in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)
    return list(files)
