"""The reproduction map is complete, and its cheap commands give the committed tables."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from hdbench.cli import main
from tests.support.tiny import REPOSITORY

MAP = (REPOSITORY / "docs/reproduce.md").read_text(encoding="utf-8")
CHEAP, FROM_NOTHING = MAP.split("## From nothing")


def rows(text: str) -> list[list[str]]:
    """The cells of its table, without head."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def pattern(cell: str) -> str:
    return cell.strip("`")


def test_every_committed_table_and_figure_is_in_the_map_once():
    committed = {
        path.relative_to(REPOSITORY).as_posix()
        for kind in ("md", "png")
        for path in (REPOSITORY / "paper_tables").rglob(f"*.{kind}")
    }
    patterns = [pattern(cells[0]) for cells in rows(FROM_NOTHING)]
    mapped = [
        path.relative_to(REPOSITORY).as_posix() for p in patterns for path in REPOSITORY.glob(p)
    ]
    assert sorted(mapped) == sorted(committed)
    assert all(any(REPOSITORY.glob(p)) for p in patterns)


QUICK = [cells for cells in rows(CHEAP) if cells[2].endswith(("second", "seconds"))]


def test_some_of_the_commands_are_quick():
    assert 2 <= len(QUICK) < len(rows(CHEAP))


@pytest.mark.slow
@pytest.mark.parametrize("cells", QUICK, ids=lambda cells: pattern(cells[0]))
def test_a_cheap_command_gives_the_committed_tables(cells, tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    command, *words = shlex.split(re.sub(r"\bOUT\b", str(tmp_path), cells[1].strip("`")))
    assert command == "hdbench"
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    made = {path.relative_to(tmp_path): path for path in tmp_path.rglob("*.csv")}
    compared = 0
    for path in Path().glob(pattern(cells[0])):
        relative = path.relative_to("paper_tables")
        if path.stem in ("metrics", "stages", "published"):  # what is read
            continue
        if path.stem == "claims" and words[0] != "claims":  # they have a command of their own
            continue
        assert made[relative].read_bytes() == path.read_bytes(), path
        compared += 1
    assert compared
