"""YAML files: one mapping of plain values, numbers as YAML 1.2's core schema has them.

That is: 017 is 17 and 1e-4 a number; 1:30, 1_2, yes, off and dates are texts, which a key for a
number or a switch then refuses.  A file is bounded in size, depth and in what its aliases expand
to.
"""

from __future__ import annotations

import copy
import functools
import re
import textwrap
from pathlib import Path
from typing import Any

import yaml

from hdbench.core.errors import UserError, reason
from hdbench.core.files import read_bytes

LARGEST_FILE = 10**6  # bytes
LARGEST_NODES = 10**5  # with aliases written out
DEEPEST = 50
LARGEST_INTEGER = 2**63 - 1  # of the tables, and of the seeds of PyTorch
MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key written twice, or one that is no text."""

    yaml_implicit_resolvers = {}

    def refuse(self, node: yaml.Node, problem: str) -> UserError:
        return UserError(f"{self.name}: line {node.start_mark.line + 1}: {problem}")

    def construct_mapping(self, node, deep=False):
        keys = [(key, key.value) for key, _ in node.value if key.tag != MERGE]
        for number, (key, text) in enumerate(keys):
            if key.tag != "tag:yaml.org,2002:str":
                text = text if isinstance(text, str) else "of several values"
                raise self.refuse(key, f"key {text} is not a text; put it in quotes or fix it")
            if text in (other for _, other in keys[:number]):
                raise self.refuse(key, f"key {text!r} appears twice; remove one")
        return super().construct_mapping(node, deep)

    def construct_text(self, node):
        text = self.construct_scalar(node)
        if "\0" in text:
            raise self.refuse(node, f"{text[:40]!r} has a NUL character; take it out")
        return text

    def construct_integer(self, node):
        sign, base, digits = re.fullmatch(r"([-+]?)(0o|0x|)(\w+)", node.value).groups()
        is_long = len(digits.lstrip("0")) > 22  # of 64 bits in base 8
        value = 0 if is_long else int(digits, {"0o": 8, "0x": 16, "": 10}[base])
        if is_long or value > LARGEST_INTEGER:
            shown = textwrap.shorten(node.value, 40, placeholder="...")
            raise self.refuse(node, f"{shown}: beyond 64 bits; write a smaller number")
        return -value if sign == "-" else value


_NUMBER = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", rf"{_NUMBER}|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first
    )
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_integer)
_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.construct_text)


def _expanded(node: yaml.Node, sizes: dict[int, int], depth: int = 0) -> int:
    """Nodes below this one and itself, aliases written out; UserError where there are too many."""
    if depth > DEEPEST:
        raise RecursionError
    if id(node) not in sizes:
        sizes[id(node)] = LARGEST_NODES  # of a node within itself
        inner = node.value if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            inner = [child for pair in node.value for child in pair]
        sizes[id(node)] = 1 + sum(_expanded(child, sizes, depth + 1) for child in inner)
    return sizes[id(node)]


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; UserError for a missing, unreadable or malformed file."""
    try:
        content = read_bytes(path, LARGEST_FILE)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); give the path of a suite file"
        ) from None
    return copy.deepcopy(_mapping(str(path), content))


@functools.lru_cache(maxsize=256)  # a plan reads shared recipes once for each arm
def _mapping(path: str, content: bytes) -> dict[str, Any]:
    try:
        loader = _Loader(content.decode("utf-8-sig"))
        loader.name = path
        node = loader.get_single_node()
        if node is not None and _expanded(node, {}) > LARGEST_NODES:
            raise UserError(
                f"{path}: its aliases stand for more than {LARGEST_NODES:,} values, or for "
                "themselves; write them out"
            )
        data = None if node is None else loader.construct_document(node)
    except RecursionError:
        raise UserError(f"{path}: is nested deeper than {DEEPEST} levels; fix it") from None
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise UserError(
            f"{path}: not valid YAML{where}: {getattr(error, 'problem', reason(error))}; fix it"
        ) from None
    if not isinstance(data, dict):
        kind = "nothing" if data is None else type(data).__name__
        raise UserError(f"{path}: must hold a mapping of keys to values, not {kind}")
    return data
