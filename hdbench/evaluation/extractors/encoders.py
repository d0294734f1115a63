"""Encoders of timm: DINOv2 for FD-DINOv2, and five of the six of FDr6.

FDr6 (arXiv 2604.28190): pixels in [0, 1] are resized to the encoder's side by torch's bicubic with
antialiasing, normalised by the encoder's own mean and deviation, and its class token (pooled
attention, mean over the map) is the feature, before any head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hdbench.core.errors import UserError, reason
from hdbench.core.files import from_json, read_text
from hdbench.evaluation.extractors.base import (
    Extractor,
    Setup,
    as_pillow,
    bicubic,
    mismatch,
    to_one_size,
)
from hdbench.evaluation.extractors.clip import read_clip, read_folder
from hdbench.evaluation.weights import Weights
from hdbench.networks.tensors import read_tensors

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
DINOV2_OFFSET = 0.1  # that DINOv2's own code adds to the number of patches a side


class TimmEncoder(Extractor):
    """A network of timm without its head; a subclass is a row: network, side, normalisation."""

    architecture: ClassVar[str]  # of timm, unless the weights are a folder, which has its own
    arguments: ClassVar[Mapping[str, Any]] = {}  # of timm.create_model
    side: ClassVar[int]  # to which images are resized
    scaling: ClassVar[tuple[tuple[float, ...], tuple[float, ...]]]  # mean and deviation
    statistics = {"token": ("mu", "sigma")}
    packages = ("timm",)

    @classmethod
    def load(cls, weights: Weights, setup: Setup) -> nn.Module:
        import timm  # optional: timm

        architecture, folder_arguments = cls.architecture, {}
        if weights.path.is_dir():
            architecture, folder_arguments = read_arguments(weights, architecture)
        arguments = {"num_classes": 0, **folder_arguments, **cls.arguments}
        state = cls.tensors(weights)
        try:
            network = timm.create_model(
                architecture,
                pretrained=True,
                pretrained_cfg_overlay={"state_dict": state, "num_classes": 0},
                **arguments,
            )
        except RuntimeError as error:
            raise UserError(
                f"{weights.file}: not the weights of timm's {architecture} ({mismatch(error)})"
            ) from None
        except Exception as error:  # whatever a wrong value in a configuration leads to
            raise UserError(f"{weights.path}: not a network of timm ({reason(error)})") from None
        return network.to(setup.device).eval().requires_grad_(False)

    @classmethod
    def tensors(cls, weights: Weights) -> dict[str, Tensor]:
        """float32 tensors of the weights, as timm takes them."""
        state = read_tensors(weights.file)
        return {name: tensor.float() for name, tensor in state.items()}

    @torch.no_grad()
    def __call__(self, prepared: list[Tensor], texts: list[str] | None) -> dict[str, np.ndarray]:
        device = self.setup.device
        mean, std = (torch.tensor(row, device=device)[:, None, None] for row in self.scaling)
        x = to_one_size(self.resized, prepared, device)
        features = self.loaded.forward_features((x - mean) / std)
        features = features.mean((2, 3)) if features.ndim == 4 else self.loaded.pool(features)
        return {"token": features.float().cpu().numpy()}

    def resized(self, x: Tensor) -> Tensor:
        """Prepared images (B, 3, H, W) -> (B, 3, side, side) in about [0, 1]."""
        x = x.float() / 255
        if x.shape[-2:] == (self.side, self.side):
            return x
        size = (self.side, self.side)
        return F.interpolate(x, size=size, mode="bicubic", align_corners=False, antialias=True)


def read_arguments(weights: Weights, architecture: str) -> tuple[str, dict[str, Any]]:
    """Architecture and arguments of a folder of timm, or those of open_clip's image tower."""
    if not (weights.path / "config.json").is_file():
        vision = read_folder(weights.path)[0]["vision_cfg"]
        return architecture, {
            "img_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "embed_dim": vision["width"],
            "depth": vision["layers"],
            "num_heads": vision["width"] // vision.get("head_width", 64),
        }
    try:
        configuration = from_json(read_text(weights.path / "config.json"))
        return configuration["architecture"], dict(configuration.get("model_args") or {})
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{weights.path / 'config.json'}: not a configuration of timm") from None


class DinoV2(TimmEncoder):
    """dgm-eval's (arXiv 2306.04675): the class token of the publisher's own code at 224 pixels.

    That code stretches the positions of 37 x 37 patches by (16 + 0.1) / 37, without antialiasing.
    """

    name = "dinov2"
    network = "dinov2"
    title = "DINOv2 ViT-L/14"
    preprocessing = "Pillow's bicubic to 224 x 224, ImageNet's mean"
    dimensions = {"token": 1024}
    architecture = "vit_large_patch14_dinov2"
    arguments = {"img_size": 224}
    packages = ("timm", "pillow")
    side = 224
    scaling = IMAGENET

    @classmethod
    def tensors(cls, weights: Weights) -> dict[str, Tensor]:
        state = super().tensors(weights)
        try:
            positions = state["pos_embed"]
            side = cls.side // state["patch_embed.proj.weight"].shape[-1]
        except KeyError:
            raise UserError(f"{weights.file}: not the weights of DINOv2") from None
        state["pos_embed"] = stretched(positions, side)
        return state

    def prepare(self, image: np.ndarray) -> Tensor:
        return bicubic(as_pillow(image), (self.side, self.side))


def stretched(positions: Tensor, side: int) -> Tensor:
    """Embeddings (1, 1 + M^2, d) of a class token and M x M patches -> (1, 1 + side^2, d)."""
    old = math.isqrt(positions.shape[1] - 1)
    if old == side:
        return positions
    grid = positions[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    scale = (side + DINOV2_OFFSET) / old
    grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


ANY_SIZE = {"dynamic_img_size": True, "dynamic_img_pad": True}


class FdrConvNext(TimmEncoder):
    """FDr6's ConvNeXt-V2 base, fine-tuned on ImageNet."""

    name = "fdr_convnextv2"
    network = "convnextv2"
    title = "ConvNeXt-V2 base"
    preprocessing = "torch's bicubic with antialiasing to 224, ImageNet's mean"
    dimensions = {"token": 1024}
    architecture = "convnextv2_base"
    side = 224
    scaling = IMAGENET

    @classmethod
    def tensors(cls, weights: Weights) -> dict[str, Tensor]:
        state = super().tensors(weights)
        return {name: x for name, x in state.items() if not name.startswith("head.fc.")}


class FdrDinoV2(TimmEncoder):
    """FDr6's DINOv2: 256 pixels, padded to 266."""

    name = "fdr_dinov2"
    network = "dinov2"
    title = DinoV2.title
    preprocessing = "torch's bicubic with antialiasing to 256, padded to 266, ImageNet's mean"
    dimensions = {"token": 1024}
    architecture = "vit_large_patch14_dinov2"
    arguments = ANY_SIZE
    side = 256
    scaling = IMAGENET


class FdrMae(TimmEncoder):
    """FDr6's MAE, pretrained only."""

    name = "fdr_mae"
    network = "mae"
    title = "MAE ViT-L/16"
    preprocessing = "torch's bicubic with antialiasing to 224, ImageNet's mean"
    dimensions = {"token": 1024}
    architecture = "vit_large_patch16_224"
    arguments = ANY_SIZE
    side = 224
    scaling = IMAGENET


class FdrSiglip2(TimmEncoder):
    """FDr6's SigLIP 2: its pooled attention at 224 pixels."""

    name = "fdr_siglip2"
    network = "siglip2"
    title = "SigLIP 2 SO400M/16"
    preprocessing = "torch's bicubic with antialiasing to 224, x / 127.5 - 1"
    dimensions = {"token": 1152}
    architecture = "vit_so400m_patch16_siglip_256"
    arguments = ANY_SIZE
    side = 224
    scaling = HALF


class FdrClip(TimmEncoder):
    """FDr6's CLIP: OpenAI's image tower at 256 pixels, padded to 266, with GELU as timm has it."""

    name = "fdr_clip"
    network = "clip"
    title = "CLIP ViT-L/14 (OpenAI), GELU"
    preprocessing = "torch's bicubic with antialiasing to 256, padded to 266, CLIP's mean"
    dimensions = {"token": 1024}
    architecture = "vit_large_patch14_clip_224"
    arguments = ANY_SIZE
    side = 256
    scaling = CLIP

    @classmethod
    def tensors(cls, weights: Weights) -> dict[str, Tensor]:
        state = read_clip(weights)
        state.pop("visual.proj", None)
        return state
