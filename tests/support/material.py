"""Images and small random weights for the tests of evaluation, made once a session."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn


def pictures(n: int, seed: int, size: int = 64) -> np.ndarray:
    """Smooth colour fields with noise, (n, size, size, 3) uint8."""
    generator = torch.Generator().manual_seed(seed)
    fields = torch.nn.functional.interpolate(
        255 * torch.rand(n, 3, 6, 6, generator=generator), size=size, mode="bicubic"
    )
    noisy = fields + 20 * torch.randn(n, 3, size, size, generator=generator)
    return noisy.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def write_folder(
    folder: Path, images: np.ndarray, names: list[str] | None = None, suffix: str = ".png"
) -> Path:
    for row, image in enumerate(images):
        path = folder / f"{names[row] if names else f'{row:04}'}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


@functools.cache
def material() -> Path:
    """A folder for the session."""
    holder = tempfile.TemporaryDirectory(prefix="hdbench-tests-")
    material.holder = holder  # it goes with the process
    return Path(holder.name)


@functools.cache
def inception_weights() -> Path:
    """torch-fidelity's Inception, Kaiming-initialised, with batch norm calibrated on images."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Untrained(FeatureExtractorInceptionV3):
        def load_state_dict(self, state, *args, **kwargs):
            return None

    empty = material() / "empty.pth"
    torch.save({}, empty)
    network = Untrained("untrained", ["2048"], str(empty))
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            module.weight.data.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    network.train()
    with torch.no_grad():
        network(torch.from_numpy(pictures(12, 99)).permute(0, 3, 1, 2))
    torch.save(network.state_dict(), material() / "inception.pth")
    return material() / "inception.pth"


@functools.cache
def clip_weights() -> Path:
    """A tiny CLIP as a folder of open_clip."""
    import open_clip
    from safetensors.torch import save_file

    config = {
        "embed_dim": 16,
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": 32,
            "layers": 1,
            "width": 32,
            "head_width": 16,
            "patch_size": 16,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 16,
            "heads": 2,
            "layers": 1,
        },
    }
    folder = material() / "clip"
    folder.mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = open_clip.CLIP(**config)
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {}})
    )
    save_file(
        {name: tensor.contiguous() for name, tensor in network.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    return folder


ENCODERS = {  # role -> architecture of timm and the arguments that make it small
    "dinov2": (
        "vit_large_patch14_dinov2",
        {"img_size": 70, "embed_dim": 32, "depth": 2, "num_heads": 2},
    ),
    "mae": ("vit_large_patch16_224", {"embed_dim": 24, "depth": 1, "num_heads": 2}),
    "siglip2": ("vit_so400m_patch16_siglip_256", {"embed_dim": 36, "depth": 1, "num_heads": 2}),
    "convnextv2": ("convnextv2_base", {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}),
}


@functools.cache
def encoder_weights(role: str, scale: int = 1) -> Path:
    """A small network of timm with random weights, as a folder that timm itself reads.

    `scale` multiplies its width.
    """
    import timm
    from safetensors.torch import save_file

    architecture, arguments = ENCODERS[role]
    if "embed_dim" in arguments:
        arguments = arguments | {"embed_dim": scale * arguments["embed_dim"]}
    else:
        arguments = arguments | {"dims": [scale * width for width in arguments["dims"]]}
    folder = material() / f"{role}-{scale}"
    folder.mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(len(role))
        classes = 10 if role == "convnextv2" else 0  # the public file has a head too
        network = timm.create_model(architecture, num_classes=classes, **arguments)
        for parameter in network.parameters():  # among them scales that start at zero or tiny
            torch.nn.init.normal_(parameter, std=0.2)
    head = {"num_classes": classes, "classifier": "head.fc"} if classes else {}
    (folder / "config.json").write_text(
        json.dumps({"architecture": architecture, "model_args": arguments, "pretrained_cfg": head})
    )
    tensors = network.state_dict()
    if role == "dinov2":  # which the publisher's file has
        tensors["mask_token"] = torch.zeros(1, tensors["cls_token"].shape[-1])
    save_file(tensors, folder / "model.safetensors")
    return folder


def prompts(path: Path, ids: list[str], categories: list[str] | None = None) -> Path:
    table = {
        name: {
            "prompt": f"a photo of thing {row % 7}",
            "category": categories[row] if categories else "any",
        }
        for row, name in enumerate(ids)
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(table))
    return path
