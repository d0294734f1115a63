"""Public SiT and DiT checkpoints as weights of our `Transformer`, by name and by order of rows.

SiT (arXiv 2401.08740): its t = 1 is data, so it gives -v and is given 1 - t; the sign goes into the
output layer here, the time into the configuration (`reversed_time`).  DiT (arXiv 2212.09748):
`prediction: epsilon`, see `NoiseToVelocity`.  A file with twice the output channels has a learned
variance behind them, which is left out.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from hdbench.core.errors import UserError
from hdbench.networks.tensors import read_tensors
from hdbench.networks.transformer import TransformerConfig, positions

Kind = Literal["sit", "dit"]
MODELS = {"sit": "SiT", "dit": "DiT"}
# of a trainer's file; papers evaluate the average
AVERAGES = ("ema", "ema_model", "model_ema", "ema_state_dict", "state_dict_ema", "params_ema")
WRAPPERS = (*AVERAGES, "model", "state_dict", "model_state_dict")
NEEDED: dict[str, dict[str, Any]] = {  # of the configuration, where no shape tells
    "sit": {"time_scale": 1.0, "reversed_time": True, "prediction": "velocity", "gelu": "tanh"},
    "dit": {"time_scale": 1.0, "reversed_time": False, "prediction": "epsilon", "gelu": "tanh"},
}
LAYERS = {
    "patch_embed": "x_embedder.proj",
    "time_embed.linear_1": "t_embedder.mlp.0",
    "time_embed.linear_2": "t_embedder.mlp.2",
    "out_modulation": "final_layer.adaLN_modulation.1",
    "out": "final_layer.linear",
}
BLOCK = {
    "qkv": "attn.qkv",
    "proj": "attn.proj",
    "feed_forward.net.0.proj": "mlp.fc1",
    "feed_forward.net.2": "mlp.fc2",
    "modulation": "adaLN_modulation.1",
}
FAMILIES = {  # part of a key: what has such keys
    "diffusion_model.": "a latent diffusion U-Net",
    "encoder.down": "an autoencoder",
    "input_blocks.": "an ADM U-Net",
    "down_blocks.": "a diffusers U-Net",
    "y_embedder.y_proj.": "a text-to-image transformer such as SANA or PixArt",
    "caption_projection.": "a text-to-image transformer such as SANA or PixArt",
    "transformer_blocks.": "a diffusers transformer",
    "label_embed.": "hdbench's own weights",
    "projectors.": "a SiT of REPA, whose time runs the other way",
}


def read(
    path: Path,
    kind: Kind,
    config: TransformerConfig,
    *,
    image_size: int,
    channels: int,
    classes: int,
) -> dict[str, Tensor]:
    """`convert` of a .pt or .safetensors file, or an index of shards, see `read_tensors`.

    UserError without the file.  Under `torch.device("meta")` all but the values is checked.
    """
    if not (path.is_file() or path.is_dir()):
        raise UserError(
            f"{path}: there is no such file; put the {MODELS[kind]} checkpoint there, "
            "or give its path"
        )
    return convert(
        read_tensors(path, WRAPPERS),
        kind,
        config,
        image_size=image_size,
        channels=channels,
        classes=classes,
        source=str(path),
    )


def convert(
    tensors: dict[str, Tensor],
    kind: Kind,
    config: TransformerConfig,
    *,
    image_size: int,
    channels: int,
    classes: int,
    source: str,
) -> dict[str, Tensor]:
    """The state dict, float32, of our Transformer with `mean_velocity=False`.

    UserError for tensors of another family, missing or further keys, and shapes or settings that
    differ from `config`.
    """
    name = MODELS[kind]
    depth = check_keys(tensors, name, source)
    check_settings(tensors, kind, config, depth, image_size, channels, classes, source)
    with torch.device("meta"):
        shapes = config.build(
            image_size=image_size, channels=channels, classes=classes, mean_velocity=False
        ).state_dict()
    state = {}
    for key, theirs in names(depth).items():
        tensor = tensors[theirs].float()
        shape = shapes[key].shape
        if key.startswith("out.") and len(tensor) in (shape[0], 2 * shape[0]):
            # rows (p, p, c) -> (c, p, p)
            patches = tensor.unflatten(0, (config.patch, config.patch, -1)).movedim(2, 0)
            tensor = patches[:channels].flatten(0, 2)
            tensor = -tensor if kind == "sit" else tensor
        elif key == "patch_embed.weight":
            tensor = tensor.flatten(1)
        if tensor.shape != shape:
            raise UserError(
                f"{source}: {theirs} has the shape {list(tensors[theirs].shape)}, which does not "
                "fit its other tensors; get the file again"
            )
        state[key] = tensor
    return state


def check_settings(
    tensors: dict[str, Tensor],
    kind: Kind,
    config: TransformerConfig,
    depth: int,
    image_size: int,
    channels: int,
    classes: int,
    source: str,
) -> None:
    """UserError, with what fits, where shapes or positions are not of `config` and the data."""
    patch_weight = tensors["x_embedder.proj.weight"]
    width = len(tensors["x_embedder.proj.bias"])
    patch = patch_weight.shape[-1]
    grid = math.isqrt(tensors["pos_embed"].shape[-2])
    needed = NEEDED[kind] | {
        "width": width,
        "depth": depth,
        "patch": patch,
        "mlp_ratio": len(tensors["blocks.0.mlp.fc1.bias"]) / width,
        "time_features": tensors["t_embedder.mlp.0.weight"].shape[1],
        "position_side": grid,
    }
    given = {key: getattr(config, key) for key in needed} | {
        "time_features": config.time_embedding_size
    }
    of_data = {
        "image_size": (grid * patch, image_size),
        "channels": (patch_weight.shape[1], channels),
        "classes": (len(tensors["y_embedder.embedding_table.weight"]) - 1, classes),
    }
    pairs = {f"network.{key}": (value, given[key]) for key, value in needed.items()}
    pairs |= {f"the data's {key}": pair for key, pair in of_data.items()}
    if wrong := [
        f"{key} to {json.dumps(want)} (not {json.dumps(have)})"
        for key, (want, have) in pairs.items()
        if want != have
    ]:
        raise UserError(
            f"{source}: a {MODELS[kind]} of other settings; set {', '.join(wrong)}, or give "
            "another file"
        )
    stored = tensors["pos_embed"].float().flatten(0, -2)
    expected = positions(config, grid)
    # a file may be in bfloat16, and on the meta device there are no values
    if stored.shape != expected.shape or not (
        stored.is_meta or torch.allclose(stored, expected, atol=1e-2)
    ):
        raise UserError(
            f"{source}: its pos_embed is not that of a {grid} x {grid} grid of integers; "
            "give one that has it"
        )


def names(depth: int) -> dict[str, str]:
    """The name of each of our tensors in a file."""
    layers = LAYERS | {
        f"blocks.{i}.{ours}": f"blocks.{i}.{theirs}"
        for i in range(depth)
        for ours, theirs in BLOCK.items()
    }
    return {"label_embed.weight": "y_embedder.embedding_table.weight"} | {
        f"{ours}.{tensor}": f"{theirs}.{tensor}"
        for ours, theirs in layers.items()
        for tensor in ("weight", "bias")
    }


def check_keys(tensors: dict[str, Tensor], name: str, source: str) -> int:
    """The number of blocks; UserError unless these are exactly the tensors of a `name`."""
    if family := next(
        (what for mark, what in FAMILIES.items() if any(mark in key for key in tensors)), None
    ):
        raise UserError(f"{source}: looks like {family}; give a {name}")
    depth = len({match[1] for key in tensors if (match := re.match(r"blocks\.(\d+)\.", key))})
    expected = ["pos_embed", *names(max(depth, 1)).values()]
    prefixes = {key.partition(".")[0] for key in tensors}
    if len(prefixes) == 1 and (prefix := f"{prefixes.pop()}.") and prefix + "pos_embed" in tensors:
        raise UserError(
            f"{source}: not a {name}: all of its names begin with {prefix}; save it without"
        )
    axes = {"x_embedder.proj.weight": (4,), "pos_embed": (2, 3)}
    other_axes = [
        key
        for key in expected
        if key in tensors
        and tensors[key].ndim not in axes.get(key, (1,) if key.endswith("bias") else (2,))
    ]
    for fault, keys in (
        ("it lacks", [key for key in expected if key not in tensors]),
        (f"a {name} does not have", [key for key in tensors if key not in expected]),
        ("of another number of axes are", other_axes),
    ):
        if keys:
            first = ", ".join(keys[:3]) + (f", ... ({len(keys)} in all)" if len(keys) > 3 else "")
            raise UserError(
                f"{source}: not a {name}: {fault} {first}; give a {name} as it was published"
            )
    return depth
