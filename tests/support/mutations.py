"""Random changes of mappings, tables, tensors and bytes, drawn by Hypothesis."""

from __future__ import annotations

import contextlib
import copy
import csv
import functools
import io
import json
import os
import pickle
import shutil
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import yaml
from hypothesis import strategies as st
from safetensors import SafetensorError
from torch import Tensor

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
    "no/such/file", "inputs", "inputs/tiny.yaml", "inputs/metrics.csv", "absent.yaml", "-0", "1.0",
    "0x10", "1_0", "\u0661", "--", "-", "~", "~nobody/x", "$HOME", "*", "a,b", "x/" * 2500,
    "\u202e", "\ud800", "/", "/proc/self/mem", "images", "inputs/pipe", "auto", "cuda", "NaN",
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


TENSORS = (".npz", ".safetensors", ".pt")
UNREADABLE = (
    *(ValueError, TypeError, AttributeError, IndexError, KeyError, EOFError, RuntimeError),
    *(yaml.YAMLError, csv.Error, SafetensorError, zipfile.BadZipFile, pickle.UnpicklingError),
)


def unpacked(suffix: str, content: bytes) -> dict[str, Tensor]:
    """The named tensors of a file."""
    if suffix == ".safetensors":
        return safetensors.torch.load(content)
    if suffix == ".pt":
        return torch.load(io.BytesIO(content), weights_only=True)["ema"]
    with np.load(io.BytesIO(content)) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def packed(suffix: str, tensors: dict[str, Tensor]) -> bytes:
    """The file of these tensors; of a trainer's, under `ema`."""
    stream = io.BytesIO()
    if suffix == ".safetensors":
        return safetensors.torch.save(tensors)
    if suffix == ".pt":
        torch.save({"ema": tensors}, stream)
    else:
        np.savez(stream, **{name: x.numpy() for name, x in tensors.items()})
    return stream.getvalue()


DTYPES = (
    *(torch.float16, torch.float32, torch.float64, torch.bfloat16, torch.complex64),
    *(torch.int8, torch.uint8, torch.int64, torch.bool),
)


@st.composite
def changed_tensors(draw, suffix: str, content: bytes) -> bytes:
    """One tensor removed, renamed, or of other values, type or shape; or all names prefixed."""
    tensors = unpacked(suffix, content)
    name = draw(st.sampled_from(sorted(tensors)))
    x = tensors[name]
    how = draw(st.sampled_from("remove rename prefix value dtype dtypes shape shape".split()))
    if how == "remove":
        del tensors[name]
    elif how == "rename":
        other = draw(st.sampled_from([f"{name}.x", "", "a", "module." + name, "arr_0", "x" * 300]))
        tensors[other] = tensors.pop(name)
    elif how == "prefix":
        prefix = draw(st.sampled_from(["module.", "_orig_mod.", "model.", "é.", "net."]))
        tensors = {prefix + key: x for key, x in tensors.items()}
    elif how == "value" and x.numel():
        value = draw(st.sampled_from([0, -1, 255, 1e30, float("nan"), float("inf"), -float("inf")]))
        if x.is_floating_point() or abs(value) <= 255:
            place = draw(st.sampled_from([0, -1, slice(None)]))
            tensors[name] = x.clone().contiguous()
            tensors[name].view(-1)[place] = value
    elif how == "dtype":
        tensors[name] = x.to(draw(st.sampled_from(DTYPES)))
    elif how == "dtypes":
        dtype = draw(st.sampled_from(DTYPES))
        tensors = {key: x.to(dtype) for key, x in tensors.items()}
    else:
        changes = [x[None], x.flatten(), x[:0], x.expand(2, *x.shape), x.transpose(0, -1), x[:1]]
        tensors[name] = draw(st.sampled_from(changes)).clone().contiguous()
    return packed(suffix, tensors)


NODES = ("missing", "folder", "pipe", "socket", "dead link", "loop", "device")


def put(path: Path, content: bytes | str) -> None:
    """Write a file, or put in its place what one of `NODES` names."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "folder":
        path.mkdir()
    elif content == "pipe":
        os.mkfifo(path)
    elif content == "socket":
        with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(path.parent):
            server.bind(path.name)
    elif content != "missing":
        target = {"dead link": "nowhere", "loop": path.name, "device": "/dev/zero"}[content]
        path.symlink_to(target)


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
            if by_structure and Path(name).suffix in TENSORS:
                content = draw(changed_tensors(Path(name).suffix, content))
                continue
        except UNREADABLE:
            pass  # no longer of its form: it is changed as bytes
        content = draw(changed_bytes(content))
    return content
