"""Tensors of foreign files, read without running anybody's code and checked to be weights.

Under `torch.device("meta")` names, shapes and types alone are read, and checked in the same way.
"""

from __future__ import annotations

import argparse
import io
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from hdbench.core import distributed
from hdbench.core.errors import UserError, reason
from hdbench.core.files import from_json, read_text

INDEX = ".index.json"  # end of the name of a file that names shards
WRAPPERS = ("state_dict", "model", "model_state_dict")  # of a trainer's file
# what DistributedDataParallel, torch.compile, FSDP and activation checkpointing put into names
LAYERS = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
PARALLEL = "module."
DEEPEST = 10  # wrappers inside one another
COUNTERS = ("num_updates", "n_averaged", "decay", "step", "global_step", "epoch", "initted")
INTEGERS = ("position_ids", "num_batches_tracked", "relative_position_index")  # no weights
HEADER_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
}


def read_tensors(path: Path, wrappers: Sequence[str] = WRAPPERS) -> dict[str, Tensor]:
    """The weights in a .safetensors, PyTorch (weights_only) or TorchScript file, on the CPU.

    Also of an index (`.index.json`) and the shards that it names, and of a folder with one.  Of a
    file with more than weights, such as a trainer's, those under the first of the `wrappers` that
    it has, as a key or as a prefix; prefixes of PyTorch's own wrappers and counters are left out,
    and a line on standard error says so.  UserError for what is no mapping of names to floating,
    finite tensors of which most vary.
    """
    file = located(path)
    state = contents(file)
    try:
        tensors, notes = unwrapped(state, wrappers, file)
    except RecursionError:
        raise UserError(
            f"{file}: nested too deep, or holds itself; save the state_dict() of the one network "
            "that is meant"
        ) from None
    check_types(tensors, file)
    check_values(tensors, file)
    kinds = {str(x.dtype).removeprefix("torch.") for x in tensors.values() if x.is_floating_point()}
    if half := sorted(kinds - {"float32"}):
        notes.append(f"from {' and '.join(half)}")
    if notes and not is_meta() and not distributed.rank():
        print(f"hdbench: {path}: read {', '.join(notes)}", file=sys.stderr, flush=True)
    return tensors


def located(path: Path) -> Path:
    """The file itself, or a folder's only index of shards; UserError for one shard of several."""
    if path.is_dir():
        indices = sorted(path.glob(f"*{INDEX}"))
        if len(indices) != 1:
            raise UserError(
                f"{path}: a folder, not a file, and has {len(indices) or 'no'} files "
                f"*{INDEX}; give a file of weights, or a folder with one such index of its shards"
            )
        return indices[0]
    if shard := re.fullmatch(r"(.+)-\d{5}-of-(\d{5})(\.\w+)", path.name):
        raise UserError(
            f"{path}: one of {int(shard[2])} shards; give {shard[1]}{shard[3]}{INDEX}, which lies "
            "beside all of them"
        )
    return path


def contents(path: Path) -> Any:
    """What a file holds, on the CPU, or on the meta device where that is the default."""
    if path.name.endswith(INDEX):
        return of_shards(path)
    device = "meta" if is_meta() else "cpu"
    try:
        if path.suffix == ".safetensors":
            return of_header(path) if is_meta() else load_file(path)
        with warnings.catch_warnings(action="ignore"):  # of old forms of pickle, of TorchScript
            if is_torchscript(path):
                return dict(torch.jit.load(path, map_location=device).state_dict())
            with torch.serialization.safe_globals([argparse.Namespace]):
                return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # the readers' errors have no common base but this
        raise UserError(f"{path}: {what_it_is(path, error)}") from None


def what_it_is(path: Path, error: Exception) -> str:
    """What a file is that holds no readable weights, and what to do."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as unread:
        return f"not a file of weights ({reason(unread)}); give one that can be read"
    if not start:
        return "not a file of weights, but empty; get it again"
    if start.startswith(b"version https://git-lfs"):
        return "not a file of weights, but a pointer of Git LFS to it; run `git lfs pull`"
    if start.lstrip()[:1] in (b"<", b"{"):
        return "not a file of weights, but text, such as a web page; download the file itself"
    if start.startswith(b"PK") and not zipfile.is_zipfile(path):
        return "not a whole file of weights: its end is missing; get it again"
    if isinstance(error, pickle.UnpicklingError):
        return (
            f"not a file of weights, but of objects{objects_in(path)}, which could run code; save "
            "the network's state_dict(), best as .safetensors"
        )
    return f"not a file of weights ({reason(error)}); give a .safetensors or a PyTorch file"


def objects_in(path: Path) -> str:
    """The first classes that a pickle asks for, " (a.B, c.D)"."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # no zip, or not even a pickle
        return " other than tensors"
    return f" ({', '.join(names[:2])})" if names else " other than tensors"


def of_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of all files that an index names; UserError for what does not fit it."""
    try:
        places = from_json(read_text(index))["weight_map"]
        files = sorted({Path(file) for file in places.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{index}: not an index of shards; it must be "
            '{"weight_map": {name of a tensor: name of a file}}'
        ) from None
    if strange := [file for file in files if len(file.parts) != 1 or file.name.endswith(INDEX)]:
        raise UserError(f"{index}: names {strange[0]}; shards are files beside their index")
    tensors: dict[str, Tensor] = {}
    for file in files:
        if not (index.parent / file).is_file():
            raise UserError(f"{index}: its shard {file} is missing; put it beside the index")
        shard = contents(index.parent / file)
        if not isinstance(shard, Mapping):
            raise UserError(f"{index.parent / file}: not a shard of {index.name}; get it again")
        tensors |= shard
    if differing := sorted(tensors.keys() ^ places.keys()):
        raise UserError(
            f"{index}: it and its shards differ in {listed(differing)}; get all of them again"
        )
    return tensors


def of_header(path: Path) -> dict[str, Tensor]:
    """Tensors on the meta device as a .safetensors file's header has them."""
    with safe_open(path, "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}
        if unknown := {row.get_dtype() for row in slices.values()} - HEADER_TYPES.keys():
            raise SafetensorError(f"of type {min(unknown)}")
        return {
            name: torch.empty(row.get_shape(), dtype=HEADER_TYPES[row.get_dtype()], device="meta")
            for name, row in slices.items()
        }


def is_meta() -> bool:
    """Whether shapes and types alone are wanted."""
    return torch.get_default_device().type == "meta"


def is_torchscript(path: Path) -> bool:
    """Whether it is a TorchScript archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def unwrapped(
    state: Any, wrappers: Sequence[str], source: Path
) -> tuple[dict[str, Tensor], list[str]]:
    """The named tensors inside what a file holds, and what a user should know of how."""
    path: list[str] = []
    left_out: list[str] = []
    prefixes: list[str] = []
    while True:
        if len(path) > DEEPEST:
            raise RecursionError
        if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
            raise no_weights(source, path, state)
        state, removed = bare(state, source)
        prefixes += [prefix for prefix in removed if prefix not in prefixes]
        name = chosen(state, wrappers)
        if name is None:
            break
        inner = state[name] if name in state else under(state, name)
        others = [key for key in state if key != name and not key.startswith(f"{name}.")]
        left_out += sorted({key.partition(".")[0] for key in others})
        state = inner
        path.append(name)
    tensors = {key: x for key, x in state.items() if isinstance(x, Tensor) and not counts(key, x)}
    left_out += [key for key in state if key not in tensors]
    if not tensors or not all(counts(key, state[key]) for key in state if key not in tensors):
        raise no_weights(source, path, state)
    notes = [f"its {'.'.join(path)}"] if path else []
    notes += [f"without the prefix {' and '.join(prefixes)}"] if prefixes else []
    notes += [f"without {listed(left_out)}"] if left_out else []
    return tensors, notes


def bare(state: Mapping[str, Any], source: Path) -> tuple[dict[str, Any], list[str]]:
    """The mapping without prefixes of PyTorch's own wrappers in its keys, and those prefixes."""
    removed = sorted({match[0] for key in state for match in LAYERS.finditer(key)})
    names = {key: LAYERS.sub("", key) for key in state}
    if all(names[key].startswith(PARALLEL) or counts(key, state[key]) for key in state):
        parallel = {key: name.removeprefix(PARALLEL) for key, name in names.items()}
        removed += [PARALLEL] if parallel != names else []
        names = parallel
    if len({*names.values()}) < len(names):
        raise UserError(
            f"{source}: some of its names differ in {' and '.join(removed)} alone; save the "
            "state_dict() of one network"
        )
    return {names[key]: value for key, value in state.items()}, removed


def chosen(state: Mapping[str, Any], wrappers: Sequence[str]) -> str | None:
    """The wrapper to look into: the first named one, else the only mapping that holds tensors."""
    for name in wrappers:
        if isinstance(state.get(name), Mapping | list | tuple) and state[name]:
            return name
        if under(state, name):
            return name
    mappings = [key for key, value in state.items() if isinstance(value, Mapping)]
    holding = [key for key in mappings if holds_tensors(state[key])]
    bare_tensors = any(isinstance(x, Tensor) and not counts(key, x) for key, x in state.items())
    return holding[0] if len(holding) == 1 and not bare_tensors else None


def under(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """What is under a prefix of keys, without it."""
    start = f"{prefix}."
    return {key[len(start) :]: value for key, value in state.items() if key.startswith(start)}


def holds_tensors(value: Any) -> bool:
    """Whether there is a tensor with axes anywhere inside."""
    if isinstance(value, Tensor):
        return value.ndim > 0
    inner: Iterable = (
        value.values()
        if isinstance(value, Mapping)
        else value
        if isinstance(value, list | tuple)
        else ()
    )
    return any(map(holds_tensors, inner))


def counts(key: str, value: Any) -> bool:
    """Whether it is a trainer's number beside the weights, or no tensor at all."""
    if isinstance(value, Tensor):
        return key.removeprefix(PARALLEL) in COUNTERS and value.numel() == 1
    return not holds_tensors(value)


def no_weights(source: Path, path: Sequence[str], state: Any) -> UserError:
    """That tensors without names, or nothing but other things, are there."""
    where = f"its {'.'.join(path)} holds" if path else "holds"
    if isinstance(state, Mapping):
        content = f"{listed([str(key) for key in state])}" if state else "nothing"
    elif isinstance(state, list | tuple):
        content = f"a list of {len(state)}"
    else:
        content = f"a {type(state).__name__}"
    return UserError(
        f"{source}: {where} {content}, not one mapping of names to tensors; save the state_dict() "
        "of the one network that is meant"
    )


def check_types(tensors: Mapping[str, Tensor], source: Path) -> None:
    """UserError for complex, quantised, nested, sparse, empty and integer weights."""
    if wrong := {name: kind for name, x in tensors.items() if (kind := no_weight(name, x))}:
        name = next(iter(wrong))
        raise UserError(
            f"{source}: {len(wrong)} of its {len(tensors)} tensors are no plain floating-point "
            f"numbers of 16 bits or more ({name} is {wrong[name]}); give the weights as they were "
            "trained"
        )


def no_weight(name: str, x: Tensor) -> str | None:
    """What a tensor is that can be no weight, nor one of the integers that networks have."""
    if x.is_nested:
        return "nested"
    if x.layout != torch.strided:
        return str(x.layout).removeprefix("torch.")
    if not x.numel():
        return "empty"
    if x.untyped_storage().nbytes() < x.numel() * x.element_size():
        return "fewer values, repeated"  # of a stride of 0, which a small file can make huge
    if x.is_meta and not is_meta():
        return "without values"
    if x.is_floating_point() and x.element_size() >= 2:
        return None
    integer = not (x.is_floating_point() or x.is_complex() or x.is_quantized)
    if integer and (x.ndim == 0 or name.rpartition(".")[2] in INTEGERS):
        return None
    return str(x.dtype).removeprefix("torch.")


def check_values(tensors: Mapping[str, Tensor], source: Path) -> None:
    """UserError for values that are not finite, and where most matrices have one value alone.

    What is on the meta device has no values, and passes.
    """
    matrices = 0
    constant: list[str] = []
    for name, x in tensors.items():
        if x.is_meta or not x.is_floating_point():
            continue
        low, high = (value.item() for value in x.detach().aminmax())  # NaN if one is
        if not (-torch.inf < low and high < torch.inf):
            count = int((~x.isfinite()).sum())
            raise UserError(
                f"{source}: {name} has {count} of {x.numel()} values that are not finite; give "
                "weights of a training that did not diverge"
            )
        if x.ndim > 1 and x.numel() > 1:
            matrices += 1
            constant += [name] if low == high else []
    if len(constant) > max(1, matrices / 2):  # of a single one its names say more
        raise UserError(
            f"{source}: {len(constant)} of its {matrices} matrices have one value alone "
            f"({constant[0]}); give weights that were trained"
        )


def listed(names: Sequence[str]) -> str:
    """The first three names, and how many there are."""
    return ", ".join(names[:3]) + (f", ... ({len(names)} in all)" if len(names) > 3 else "")


def as_buffer(tensors: dict[str, Tensor]) -> io.BytesIO:
    """Checked tensors as a PyTorch file in memory, for a library that reads unchecked files."""
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    buffer.seek(0)
    return buffer
