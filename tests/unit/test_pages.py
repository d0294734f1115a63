"""Every method has a page with its equations, the origin of each setting and expected values."""

from __future__ import annotations

from pathlib import Path

import pytest

from hdbench.cli import main
from hdbench.suite.reading import read_recipe
from hdbench.tools import pages
from hdbench.tools.prose import value
from tests.support.tiny import REPOSITORY

TABLES = Path("paper_tables")


@pytest.fixture(scope="module")
def numbers():
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        yield pages.reference_numbers(TABLES)


def test_every_recipe_has_a_page_with_all_its_settings_and_their_origin(numbers):
    assert len(pages.recipes()) > 30
    for name in pages.recipes():
        text = pages.method_page(name, numbers)
        _, _, recipe = read_recipe(name, "test")
        assert text.startswith(f"# {recipe.title}\n") and recipe.differences in text
        for origin in recipe.hyper_parameters.values():
            assert origin in text, (name, origin)
        assert text.count("```text") >= 1 and "| -  " not in text.partition("## Settings")[2]


def test_expected_values_are_those_of_the_documents(numbers, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    text = pages.method_page("dmd2", numbers)
    for metric in ("fd_test", "recall"):
        assert f" {value(f'{metric} of dmd2@1 in {pages.REFERENCE}', TABLES)} " in text
    assert (
        "hdbench.methods.distribution.dmd2" in text
        and "hdbench.methods.discriminators.conv" in text
    )
    assert "hdbench.methods.base" not in text


def test_the_page_of_commands_has_each_with_its_options():
    text = pages.commands_page(main)
    assert all(f"\n## hdbench {name}\n" in text for name in main.commands)
    assert "--kid-subset-size" in text and "\nUsage: hdbench evaluate [OPTIONS]\n" in text
