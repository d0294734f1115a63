"""Whether what is at a path is of the right kind: names, headers and the first bytes of files.

Weights pass the same code as in their stage, on the meta device: names, shapes and types without
values.  Every check raises a UserError that says what is wrong; whoever calls it adds what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from glob import iglob
from pathlib import Path

import numpy as np
import torch

from hdbench.core.errors import UserError
from hdbench.core.files import from_json, read_text
from hdbench.datasets.latents.readers import reader_of
from hdbench.evaluation.extractors import EXTRACTORS, Setup
from hdbench.evaluation.protocols import Protocol
from hdbench.evaluation.weights import Weights, file_in
from hdbench.networks import autoencoders
from hdbench.networks.autoencoders import AutoencoderConfig
from hdbench.stages.train import read_checkpoint
from hdbench.suite.stage import CheckpointStage


def check_checkpoint(config: CheckpointStage, path: Path) -> None:
    """What the stage checks that converts it, but for the values of its tensors."""
    with torch.device("meta"):
        read_checkpoint(config)


def check_autoencoder(config: AutoencoderConfig, path: Path) -> None:
    """What a stage checks that loads it, but for the values of its tensors."""
    with torch.device("meta"):
        autoencoders.load(config, torch.device("meta"))


def check_network(role: str, protocols: Sequence[Protocol], path: Path) -> None:
    """What every extractor of the role checks when it loads it, but for the tensors' values."""
    if path.is_dir():
        file_in(role, path)
    weights = Weights(role, path, "", False)
    kinds = {
        (kind.loading or name): (kind, protocol.resolution)
        for protocol in protocols
        for name in protocol.extractors
        if (kind := EXTRACTORS[name]).network == role
    }
    meta = torch.device("meta")
    with meta:
        for kind, resolution in kinds.values():
            kind.load(weights, Setup(device=meta, resolution=resolution))


def check_text(path: Path) -> None:
    """A pipeline with a tokenizer, and a text encoder whose files are whole and floating."""
    read_json(path / "text_encoder/config.json")
    autoencoders.read_headers(path / "text_encoder")
    if not any((path / "tokenizer").glob("tokenizer*")):
        raise UserError(f"no tokenizer in {path / 'tokenizer'}")


def read_json(path: Path) -> dict:
    """The mapping in a file."""
    try:
        content = from_json(read_text(path, "utf-8-sig"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not JSON"
        raise UserError(f"{path} cannot be read ({reason})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no mapping")
    return content


def check_images(path: Path) -> None:
    """A folder that is not empty, or files by a glob, of which the first opens."""
    if path.is_dir():
        if not any(path.iterdir()):
            raise UserError("an empty folder")
    else:
        first = min(iglob(str(path)))
        reader_of(first).check(first)


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
