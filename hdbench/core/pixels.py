"""The one conversion between floats and uint8 of the whole tree, and the files that hold images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hdbench.core.errors import UserError


def to_uint8(x: Tensor) -> Tensor:
    """Float in [-1, 1] -> uint8 in [0, 255], *rounded*: flooring would darken by half a level."""
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def to_float(images: Tensor) -> Tensor:
    """uint8 in [0, 255] -> float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def save_images(path: Path, images: Tensor, labels: Tensor) -> None:
    """Images (N, C, H, W) uint8 as `arr_0` (N, H, W, C), labels (N,) int64 as `labels`: an npz."""
    np.savez(path, arr_0=images.permute(0, 2, 3, 1).contiguous().numpy(), labels=labels.numpy())


def load_images(path: Path) -> tuple[Tensor, Tensor]:
    """Inverse of `save_images`: (N, C, H, W) uint8 and (N,) int64; UserError for another file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            images = torch.from_numpy(file["arr_0"]).permute(0, 3, 1, 2).contiguous()
            return images, torch.from_numpy(file["labels"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path}: not an npz of images with arr_0 and labels ({error}); make it again"
        ) from None
