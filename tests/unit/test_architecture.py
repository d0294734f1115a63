"""The rules of the house that can be read from the source.

`python -m tests.support.structure` prints the present figures.
"""

from __future__ import annotations

import pytest

from tests.support.structure import LAYERS, Source

# Modules that may ask an object of a stranger for an attribute by name.
ATTRIBUTES = {
    "hdbench.core.yaml_file": "errors of YAML carry their place or not",
    "hdbench.core.errors": "any exception, with or without strerror",
    "hdbench.core.registry": "any class, a configuration or not",
    "hdbench.core.sharding": "a tensor is distributed or not, and torch has no common class",
    "hdbench.suite.schema": "a value before it is validated",
}
MOST_NESTED_IMPORTS = 115


@pytest.fixture(scope="module")
def source() -> Source:
    return Source()


def test_every_folder_has_its_layer(source):
    assert set(source.lines_by_folder) == {*LAYERS, "hdbench"}


def test_no_folder_imports_a_later_one(source):
    assert not [str(line) for line in source.upward]


def test_no_modules_import_each_other_at_any_level(source):
    assert not source.circles


def test_an_import_in_a_function_says_why(source):
    """`# optional: ...` or `# start-up: ...` on its line, or on the first of a run of imports."""
    assert not [str(line) for line in source.nested if not line.reason]


def test_imports_in_functions_are_no_more_than_they_were(source):
    lines = "\n".join(map(str, source.nested))
    assert len(source.nested) <= MOST_NESTED_IMPORTS, lines


def test_no_module_is_over_400_lines(source):
    assert not {name: lines for name, lines in source.lines.items() if lines > 400}


def test_no_function_is_over_60_lines(source):
    assert not [str(function) for function in source.functions if function.length > 60]


def test_facts_are_asked_of_contracts_and_not_by_attribute_name(source):
    assert set(source.duck_typing) == set(ATTRIBUTES)


def test_no_head_is_known_by_its_name(source):
    assert not source.named_heads


def test_variables_are_nouns_of_the_domain(source):
    assert not source.fillers.total(), source.fillers


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
