"""Tables and figures of suites: which there are, their rows, and mistakes in naming them."""

import json

import pytest
from click.testing import CliRunner

from hdbench.cli import main
from hdbench.core.errors import UserError
from hdbench.report.columns import Column
from hdbench.report.document import RENDERERS
from hdbench.report.numbers import Numbers
from hdbench.report.tables import TABLES, Table, render, tables_of
from hdbench.suite.load import load_plan
from tests.support import shipped
from tests.support.tiny import REPOSITORY, tiny_plan, write_suite
from tests.unit.test_tables import synthetic

EXPECTED = json.loads((REPOSITORY / "tests/support/tables.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("suite", shipped.SUITES)
def test_shipped_suites_have_these_tables_with_these_rows(suite, monkeypatch):
    """As they were when each suite named every row of every table."""
    monkeypatch.chdir(REPOSITORY)
    plan = shipped.as_shipped(load_plan(suite))
    known = {name for tables in EXPECTED.values() for name in tables}
    shown = {
        name: {
            "caption": table.title(plan).rstrip("."),
            "rows": list(table.rows(plan)),
            "against": list(table.compared(plan)) if name == "methods" else [],
        }
        for name, table in tables_of(plan).items()
        if name in known
    }
    expected = {
        name: {"against": []} | table | {"caption": table["caption"].rstrip(".")}
        for name, table in EXPECTED[suite].items()
    }
    assert shown == expected


def test_a_suite_states_exceptions_alone(tmp_path):
    without = tiny_plan(tmp_path, {"tables": {}})
    possible = [name for name, table in TABLES.items() if not table().lacks(without)]
    assert list(tables_of(without)) == possible and "categories" not in possible
    assert tables_of(tiny_plan(tmp_path, {"tables": ["cost", "main"]})).keys() == {"main", "cost"}
    changes = {"tables": {"cost": None, "main": {"without": ["cd"], "caption": "Mine."}}}
    plan = tiny_plan(tmp_path, changes)
    tables = tables_of(plan)
    assert "cost" not in tables and tables["main"].title(plan) == "Mine."
    rows = tables_of(without)["main"].rows(without)
    assert tables["main"].rows(plan) == tuple(arm for arm in rows if arm != "cd")
    also = tiny_plan(tmp_path, {"tables": {"methods": {"also": ["hd_patch"]}}})
    methods = [table.rows(plan) for plan in (without, also) for table in [TABLES["methods"]()]]
    assert set(methods[1]) - set(methods[0]) == {"hd_patch"}


@pytest.mark.parametrize(
    ("tables", "sentence"),
    [
        ({"mian": {"caption": "x"}}, "tables.mian: unknown table; did you mean 'main'?"),
        (["mian"], "tables.mian: unknown table; did you mean 'main'?"),
        (
            {"categories": {}},
            "tables.categories: only samples of prompts have categories; remove it",
        ),
        (
            {"main": {"row": ["hd"]}},
            "tables.main.row = [\"hd\"]: unknown key; did you mean 'rows'?",
        ),
        ({"main": {"also": ["x"]}}, "tables.main.also = 'x': unknown arm"),
        ({"main": {"rows": []}}, "tables.main.rows = []: must have at least 1 entry"),
        ("main", 'tables = "main": must be a list'),
    ],
)
def test_a_mistake_in_tables_is_one_sentence(tmp_path, tables, sentence):
    path = write_suite(tmp_path, {"tables": tables})
    result = CliRunner().invoke(main, ["plan", "--suite", str(path)])
    assert result.exit_code == 2 and result.output.count("\n") == 1
    assert result.output.startswith(f"hdbench: {path}: {sentence}")


def test_a_table_from_elsewhere_is_rendered_by_every_renderer(tmp_path, monkeypatch):
    class Lengths(Table):
        """How long the arms' names are."""

        name = "lengths"
        caption = "Lengths of names."

        def shows(self, plan, arm):
            return arm.startswith("hd")

        def columns(self, numbers):
            return [Column(key="length", title="Length", cell=lambda e: len(e.arm))]

    monkeypatch.setattr(TABLES, "_classes", dict(TABLES))
    monkeypatch.setattr(TABLES, "origins", dict(TABLES.origins))
    TABLES.add(Lengths, "elsewhere")
    plan = tiny_plan(tmp_path)
    assert list(tables_of(plan))[-1] == "lengths"
    document = render(Numbers(plan, synthetic(plan), tmp_path), "lengths").document
    texts = {kind: renderer(document) for kind, renderer in RENDERERS.items()}
    assert texts["csv"].splitlines() == [
        "arm,length,note",
        "hd,2,",
        "hd_patch,8,",
        "hd_awd_logit,12,reconstruction",
    ]
    assert all("12" in text for text in texts.values())
    assert all("Lengths of names" in texts[kind] for kind in ("md", "tex", "html"))
    with pytest.raises(UserError, match="the name 'main' is taken by a class of hdbench"):
        TABLES.add(type("Main", (Lengths,), {"name": "main"}), "elsewhere")
