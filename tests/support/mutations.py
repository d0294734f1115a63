"""Random changes of mappings, tables and bytes, drawn by Hypothesis."""

from __future__ import annotations

import copy
import csv
import functools
import io
import json
from collections.abc import Iterator
from typing import Any

import yaml
from hypothesis import strategies as st

NUMBERS = (-1, 0, 1, 2, 3, 7, 0.5, -0.5, 1e-300, 1e308, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 10**30)
# fmt: off
ODD = [
    None, True, False, "", " ", "nan", "null", "1e-4", "inf", "a", "é", "a\nb", "\x00", "{}", "%s",
    "../../x", "/", "x" * 300, "[1, 2]", "yes", "2020-01-01", "1:30", "0x10", "-", -(10**30), {},
    [], *NUMBERS, float("inf"), float("-inf"), float("nan"), [[]], [None], {"a": {}}, {"name": "x"},
    {"name": None}, [0, 0], ["a"], [1.5], {"": 1}, {"a": 1, "b": [2]},
]
TEXTS = [
    "", " ", "\t", "\r\n", "\n", "\x00", "\ufeff", "é", '"', "'", ":", "- ", "{", "}", "[", "&a ",
    "*a", "<<: ", "!!python/object:os.system ", ",", ",,", "1e400", "9" * 25, "nan", "inf", "-1",
    "{" * 60, "[" * 2000, "#", "|", ">", "?", "%", "---\n", "...\n", "null", "~", "0", "\\", "\x1b",
]
WORDS = [  # without NUL, which no shell can pass on
    "", " ", "-1", "0", "1", "7", "1e400", "nan", "9" * 25, "2.5", "é", "a\nb", "x" * 300, "{}",
    "%s", "../x", ".", "hd", "hd@1", "s0", "a=b", "=", "0-2", "2-0", "0-99999999999", "fd_*",
    "no/such/file", "inputs", "inputs/tiny.yaml", "inputs/metrics.csv", "absent.yaml",
]
# fmt: on


@st.composite
def odd(draw) -> Any:
    return draw(
        st.one_of(
            st.sampled_from(ODD), st.text(max_size=12), st.integers(-(10**20), 10**20), st.floats()
        )
    )


def _places(data: Any, path: tuple = ()) -> Iterator[tuple]:
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from _places(value, (*path, key))


def _at(data: Any, path: tuple) -> Any:
    return functools.reduce(lambda node, key: node[key], path, data)


@st.composite
def changed_tree(draw, data: Any) -> Any:
    """The mapping with one place set, removed, renamed, nested, doubled or moved."""
    data = copy.deepcopy(data)
    places = list(_places(data))
    if not places:
        return draw(odd())
    path = draw(st.sampled_from(places))
    node, key = _at(data, path[:-1]), path[-1]
    how = draw(st.sampled_from("set set set remove rename insert nest swap scale".split()))
    if how == "remove":
        del node[key]
    elif how in ("rename", "insert") and isinstance(node, dict):
        name = draw(st.sampled_from([f"{key}s", "name", "seed", "", "x y", "nan", "1", "a" * 80]))
        node[name] = node.pop(key) if how == "rename" else draw(odd())
    elif how in ("rename", "insert"):
        node.insert(key, draw(odd()))
    elif how == "nest":
        node[key] = draw(st.sampled_from([[node[key]], {"name": node[key]}, [node[key]] * 2]))
    elif how == "swap":
        node[key] = copy.deepcopy(_at(data, draw(st.sampled_from(places))))
    elif how == "scale" and isinstance(node[key], int | float):
        node[key] = node[key] * draw(st.sampled_from([-1, 0, 0.5, 1.5, 1000, 10**12, 1e200]))
    else:
        node[key] = draw(odd())
    return data


@st.composite
def changed_bytes(draw, content: bytes) -> bytes:
    """A span removed, doubled, cut off or replaced, or a line moved."""
    start = draw(st.integers(0, len(content)))
    stop = min(len(content), start + draw(st.integers(0, 30)))
    how = draw(st.sampled_from("insert insert remove double cut bytes lines utf16 latin".split()))
    if how == "insert":
        return content[:start] + draw(st.sampled_from(TEXTS)).encode() + content[start:]
    if how == "remove":
        return content[:start] + content[stop:]
    if how == "double":
        return content[:stop] + content[start:]
    if how == "cut":
        return content[:start]
    if how == "bytes":
        return content[:start] + draw(st.binary(min_size=1, max_size=8)) + content[stop:]
    if how == "lines":
        lines = content.splitlines(keepends=True)
        return b"".join(draw(st.permutations(lines))) if len(lines) < 40 else b"".join(lines[::-1])
    if how == "utf16":
        return content.decode("utf-8", "replace").encode("utf-16")
    return content[:start] + b"\xe9\xff" + content[start:]


@st.composite
def changed_rows(draw, content: bytes) -> bytes:
    """A table with one cell set, or a row, a cell or a column removed or doubled."""
    rows = list(csv.reader(io.StringIO(content.decode("utf-8", "replace"))))
    row = draw(st.integers(0, len(rows) - 1))
    column = draw(st.integers(0, max(0, len(rows[row]) - 1)))
    how = draw(st.sampled_from("set set set remove double shorten drop".split()))
    if how == "set" and rows[row]:
        rows[row][column] = str(draw(odd()))
    elif how == "remove":
        del rows[row]
    elif how == "double":
        rows.insert(row, list(rows[row]))
    elif how == "shorten":
        del rows[row][column:]
    else:
        rows = [[cell for place, cell in enumerate(line) if place != column] for line in rows]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogatepass")


@st.composite
def changed(draw, name: str, content: bytes) -> bytes:
    """The file with one to three faults."""
    for _ in range(draw(st.integers(1, 3))):
        by_structure = draw(st.integers(0, 3)) > 0
        try:
            if by_structure and name.endswith(".csv"):
                content = draw(changed_rows(content))
                continue
            if by_structure and name.endswith(".json"):
                data = draw(changed_tree(json.loads(content)))
                content = json.dumps(data).encode("utf-8", "surrogatepass")
                continue
            if by_structure and name.endswith(".yaml"):
                data = draw(changed_tree(yaml.safe_load(content)))
                content = yaml.safe_dump(data, sort_keys=False, allow_unicode=True).encode()
                continue
        except (ValueError, TypeError, yaml.YAMLError, csv.Error, RecursionError, IndexError):
            pass  # no longer of its form: it is changed as bytes
        content = draw(changed_bytes(content))
    return content
