"""Whether what is at a path is of the right kind: names, headers and the first bytes of files.

Every check raises a UserError that says what is wrong; whoever calls it adds what to do.
"""

from __future__ import annotations

import json
import tarfile
from glob import iglob
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from safetensors import SafetensorError, safe_open

from hdbench.core.errors import UserError
from hdbench.networks.checkpoints import MODELS, check_keys, unwrapped
from hdbench.suite.schema import Checkpoint


def check_weights(path: Path) -> None:
    """A file that could be PyTorch's; a folder or hub id is left to `hdbench evaluate`."""
    if path.is_file():
        with path.open("rb") as file:
            if file.read(2) not in (b"PK", b"\x80\x02") and path.suffix != ".safetensors":
                raise UserError("not a file of weights")
    if path.suffix == ".safetensors":
        shapes_in(path)


def shapes_in(path: Path) -> dict[str, list[int]]:
    """Shapes by name, from the header alone."""
    try:
        with safe_open(path, "np") as file:
            return {key: list(file.get_slice(key).get_shape()) for key in file.keys()}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path.name} is not a whole .safetensors file ({error})") from None


def check_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """A SANA's transformer, or a file of weights of the format's family."""
    if checkpoint.format == "sana":
        return check_model("transformer", "SanaTransformer2DModel", path)
    check_weights(path)
    if path.suffix == ".safetensors":
        tensors = unwrapped(
            {key: SimpleNamespace(ndim=len(shape)) for key, shape in shapes_in(path).items()}
        )
        check_keys(tensors, MODELS[checkpoint.format], path.name)
    elif path.is_dir():
        raise UserError("a folder, not a file")


def check_model(subfolder: str, kind: str, path: Path) -> None:
    """A model of a class in diffusers' format, or a pipeline with it inside; files are whole."""
    folder = path / subfolder if (path / subfolder).is_dir() else path
    if read_json(folder / "config.json").get("_class_name") != kind:
        raise UserError(f"{folder / 'config.json'} is not of an {kind}")
    check_shards(folder)


def check_text(path: Path) -> None:
    """A pipeline with a text encoder and a tokenizer."""
    read_json(path / "text_encoder/config.json")
    check_shards(path / "text_encoder")
    if not any((path / "tokenizer").glob("tokenizer*")):
        raise UserError(f"no tokenizer in {path / 'tokenizer'}")


def check_shards(folder: Path) -> None:
    """The folder's .safetensors files, all that an index beside them names."""
    files = {file.name for file in folder.glob("*.safetensors")}
    for index in folder.glob("*.safetensors.index*.json"):
        files |= set(read_json(index).get("weight_map", {}).values())
    if not files:
        raise UserError(f"no .safetensors file in {folder}")
    for file in sorted(files):
        shapes_in(folder / file)


def read_json(path: Path) -> dict:
    """The mapping in a file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not JSON"
        raise UserError(f"{path} cannot be read ({reason})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no mapping")
    return content


def check_images(path: Path) -> None:
    """A folder that is not empty, or tars by a glob, of which the first opens."""
    if path.is_dir():
        if not any(path.iterdir()):
            raise UserError("an empty folder")
    elif not tarfile.is_tarfile(first := min(iglob(str(path)))):
        raise UserError(f"{first} is not a tar")


def check_reference(path: Path) -> None:
    """A folder that is not empty, or an npz with statistics or images."""
    if path.is_dir():
        return check_images(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            names = file.files
    except Exception as error:  # numpy's depend on the first bytes
        raise UserError(f"not an npz ({type(error).__name__})") from None
    if not ({"mu", "sigma"} <= {*names} or "arr_0" in names):
        raise UserError(
            f"has neither statistics (mu, sigma) nor images (arr_0), but {', '.join(names)}"
        )


def check_prompts(path: Path) -> None:
    """MJHQ's meta_data.json, or texts by name."""
    rows = read_json(path).values()
    if not rows or not all(
        isinstance(row.get("prompt") if isinstance(row, dict) else row, str) for row in rows
    ):
        raise UserError('must be {image: {"prompt": ...}}')
