"""The rules of the house that can be read from the source, and what does not keep them yet.

A budget may only fall.  `python -m tests.support.structure` prints the present figures.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.support.structure import LAYERS, Source, folders_of

# 2026-11-29: what does not hold yet, counted by folder; an entry goes when its folder is in order.
OPEN_IMPORTS: dict[str, int] = {}  # in functions, without a reason
OPEN_FUNCTIONS: dict[str, int] = {}  # over 60 lines
OPEN_ATTRIBUTES: dict[str, int] = {}  # hasattr, getattr(x, "literal")
OPEN_FILLERS: dict[str, int] = {}  # variables named found, own, each or part

# What stays: modules that may ask an object of a stranger for an attribute by name.
ATTRIBUTES = {
    "hdbench.core.config": "errors of YAML carry their place or not",
    "hdbench.core.errors": "any exception, with or without strerror",
    "hdbench.core.registry": "any class, a configuration or not",
    "hdbench.core.sharding": "a tensor is distributed or not, and torch has no common class",
    "hdbench.suite.schema": "a value before it is validated",
}
MOST_NESTED_IMPORTS = 100


@pytest.fixture(scope="module")
def source() -> Source:
    return Source()


def over(counts: Counter[str], budget: dict[str, int]) -> dict[str, str]:
    """The folders with more than their budget."""
    return {
        folder: f"{count}, at most {budget.get(folder, 0)}"
        for folder, count in sorted(counts.items())
        if count > budget.get(folder, 0)
    }


def test_every_folder_has_its_layer(source):
    assert set(source.lines_by_folder) == {*LAYERS, "hdbench"}


def test_no_folder_imports_a_later_one(source):
    assert not [str(line) for line in source.upward]


def test_no_modules_import_each_other_at_any_level(source):
    assert not source.circles


def test_an_import_in_a_function_says_why(source):
    """`# optional: ...` or `# start-up: ...` on its line, or on the first of a run of imports."""
    silent = [line for line in source.nested if not line.reason]
    lines = "\n".join(map(str, silent))
    assert not over(folders_of(line.importer for line in silent), OPEN_IMPORTS), lines


def test_imports_in_functions_are_no_more_than_they_were(source):
    lines = "\n".join(map(str, source.nested))
    assert len(source.nested) <= MOST_NESTED_IMPORTS, lines


def test_no_module_is_over_400_lines(source):
    long = {name: lines for name, lines in source.lines.items() if lines > 400}
    assert not long


def test_no_function_is_over_60_lines(source):
    long = [function for function in source.functions if function.length > 60]
    assert not over(folders_of(f.module for f in long), OPEN_FUNCTIONS), "\n".join(map(str, long))


def test_facts_are_asked_of_contracts_and_not_by_attribute_name(source):
    asked = {name: n for name, n in source.duck_typing.items() if name not in ATTRIBUTES}
    assert not over(folders_of(Counter(asked).elements()), OPEN_ATTRIBUTES), asked


def test_a_module_that_may_ask_by_attribute_name_does(source):
    assert set(ATTRIBUTES) <= set(source.duck_typing)


def test_no_head_is_known_by_its_name(source):
    assert not source.named_heads


def test_variables_are_nouns_of_the_domain(source):
    assert not over(source.fillers, OPEN_FILLERS)


BROKEN = {
    "core/a.py": """
def f(x):
    from hdbench.flow.b import g  # start-up: b is slow
    from hdbench.flow import c
    import json
    return g(x), c, json
""",
    "flow/b.py": """
from hdbench.flow import c
found = 1
""",
    "flow/c.py": """
def f(own):
    import torch
    return getattr(own, 'name', hasattr(own, 'x'))
class A:
    def g(self):
        from ..flow.b import h
        return h, 'x'.startswith('awd')
""",
}


def test_each_rule_finds_what_breaks_it(tmp_path):
    for path, text in BROKEN.items():
        file = tmp_path / "hdbench" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        (file.parent / "__init__.py").touch()
    source = Source(tmp_path)
    a, b, c = "hdbench.core.a", "hdbench.flow.b", "hdbench.flow.c"
    assert source.edges == {(a, b), (a, c), (b, c), (c, b)}
    assert source.circles == [[b, c]]
    assert [(x.importer, x.imported) for x in source.upward] == [(a, b), (a, c)]
    assert [(x.imported, x.reason) for x in source.nested] == [
        (b, True),
        (c, True),
        ("torch", False),
        (b, False),
    ]
    assert source.arrows == {("core", "flow"): 2}
    assert source.duck_typing == {c: 2} and source.named_heads == {c: 1}
    assert source.fillers == {"flow": 2, "core": 0}
    assert {f.name: f.length for f in source.functions if f.module == c} == {"f": 3, "g": 3}
