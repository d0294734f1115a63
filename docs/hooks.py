"""MkDocs: pages made whole, and links out of `docs/` to files of the repository.

A page of each method and the commands are generated.  A link to a recipe leads to its method's
page, one to README to the front page; any other file of the repository that is linked is copied
into the site, below `repository/`, Markdown as a page.  A link to nothing is left for MkDocs to
report.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.structure.files import File, Files

from hdbench.cli import main
from hdbench.tools.pages import commands_page, method_page, recipes, reference_numbers

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?P<open>!?\[[^\]]*\]\()(?P<path>[^)#\s:]+)(?P<rest>[)#])")
METHODS = "methods"


def on_config(config):
    """The nav gets the methods' pages; they are not listed by hand."""
    pages = [f"{METHODS}/{name}.md" for name in recipes()]
    config.nav = [
        {"Methods": [*entry["Methods"], *pages]} if "Methods" in entry else entry
        for entry in config.nav
    ]
    return config


def on_files(files: Files, config) -> Files:
    """With the generated pages, and the repository's files that pages link."""
    numbers = reference_numbers(ROOT / "paper_tables")
    for name in recipes():
        page = method_page(name, numbers)
        files.append(File.generated(config, f"{METHODS}/{name}.md", content=page))
    files.append(File.generated(config, "commands.md", content=commands_page(main)))
    todo = [file for file in files if file.is_documentation_page()]
    while todo:
        page = todo.pop()
        for match in LINK.finditer(page.content_string):
            target = _target(page.src_uri, match["path"])
            if target and target.uri not in files.src_uris and target.outside:
                path = ROOT / target.outside
                file = File.generated(config, target.uri, abs_src_path=str(path))
                files.append(file)
                if file.is_documentation_page():
                    todo.append(file)
    return files


class _Target:
    """Where a link leads in the site: `uri`; `outside` is its path in the repository, if copied."""

    def __init__(self, uri: str, outside: str | None = None):
        self.uri = uri
        self.outside = outside


def _target(page: str, link: str) -> _Target | None:
    """Of a link in a page of the site; None for one within `docs/`, or to nothing."""
    folder = PurePosixPath(page).parent
    copied = folder.parts[:1] == ("repository",)
    base = ROOT / (folder.relative_to("repository") if copied else "docs" / folder)
    path = Path(os.path.normpath(base / link))
    if not path.is_file() or not path.is_relative_to(ROOT):
        return None
    relative = path.relative_to(ROOT)
    if relative.parts[0] == "docs":
        return _Target(str(PurePosixPath(*relative.parts[1:]))) if copied else None
    if relative.parts[:2] == ("workflow", "recipes") and not relative.stem.startswith("_"):
        return _Target(f"{METHODS}/{relative.stem}.md")
    return _Target(f"repository/{relative.as_posix()}", relative.as_posix())


def on_page_markdown(markdown: str, page, config, files: Files) -> str:
    """With links to what was copied."""
    here = PurePosixPath(page.file.src_uri)

    def moved(match: re.Match) -> str:
        target = _target(str(here), match["path"])
        if target is None:
            return match[0]
        return match["open"] + os.path.relpath(target.uri, here.parent) + match["rest"]

    return LINK.sub(moved, markdown)
