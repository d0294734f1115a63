"""YAML files: plain values of YAML 1.2, or one sentence."""

from __future__ import annotations

import re
import time

import pytest

from hdbench.core.errors import UserError
from hdbench.core.yaml_file import read_yaml
from tests.support.tiny import tiny_plan


def read(folder, text: str | bytes):
    path = folder / "file.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_yaml(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("017", 17),
        ("0o17", 15),
        ("0x1F", 31),
        ("1e-4", 1e-4),
        (".5", 0.5),
        ("-3", -3),
        ("1:30", "1:30"),
        ("1_2", "1_2"),
        ("yes", "yes"),
        ("true", True),
        ("~", None),
        ("2026-01-01", "2026-01-01"),
    ],
)
def test_a_plain_value_is_what_yaml_1_2_says(tmp_path, text, value):
    result = read(tmp_path, f"a: {text}\n")["a"]
    assert result == value and type(result) is type(value)


def test_merged_keys_are_overridden(tmp_path):
    data = read(tmp_path, "a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}\n")
    assert data["d"] == {"b": 1, "c": 3}


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 15)
)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1\na: 2\n", "line 2: key 'a' appears twice"),
        ("1: a\n", "line 1: key 1 is not a text"),
        ("? [a]\n: 1\n", "line 1: key of several values is not a text"),
        (f"a: {2**63}\n", f"line 1: {2**63}: beyond 64 bits"),
        (f"a: {'9' * 5000}\n", "line 1: .*beyond 64 bits"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested deeper than 50 levels"),
        ("a: &x [*x]\n", "aliases stand for more than 100,000 values, or for themselves"),
        (LAUGHS, "aliases stand for more than 100,000 values"),
        ("a: &x 1\nb: &x 2\n", "not valid YAML at line 2"),
        ("a: !!python/name:os.system\n", "not valid YAML at line 1"),
        (b"a: \xff\n", "not valid YAML"),
        (b'a: "\x00"\n', "not valid YAML"),
        ("- a\n", "must hold a mapping of keys to values, not list"),
        ("", "must hold a mapping of keys to values, not nothing"),
        ("a: " + "x" * 10**6, "larger than 1,000,000 bytes"),
    ],
)
def test_what_cannot_be_read_is_one_sentence_at_once(tmp_path, text, sentence):
    start = time.monotonic()
    with pytest.raises(UserError, match=sentence) as refusal:
        read(tmp_path, text)
    assert "\n" not in str(refusal.value) and time.monotonic() - start < 10


@pytest.mark.parametrize(
    "name", ["nan", "NA", "null", "", " ", "a b", "a\nb", "a\0b", "a}b", "é", "x" * 65, "-a", "a/b"]
)
def test_an_arm_has_a_name_of_the_declared_alphabet(tmp_path, name):
    with pytest.raises(UserError, match=re.escape(repr(name))):
        tiny_plan(tmp_path, {"arms": {name: None}})
