"""CLIP by open_clip: both towers for CLIP scores, and the image tower of 336 pixels for CMMD."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hdbench.core.errors import UserError, reason
from hdbench.core.files import from_json, read_text
from hdbench.evaluation.extractors.base import Extractor, Setup, as_pillow, bicubic, mismatch
from hdbench.evaluation.weights import Weights
from hdbench.networks.tensors import read_tensors

FOLDER = "open_clip_config.json"  # what makes a folder one of open_clip


class Clip(NamedTuple):
    """A network of open_clip on its device, with its transform of images and its tokenizer."""

    network: Any
    settings: Any  # open_clip's PreprocessCfg, of which the transform is made
    transform: Any
    tokenize: Any


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Configurations of the network and the preprocessing of a folder of open_clip."""
    try:
        configuration = from_json(read_text(folder / FOLDER))
        settings = configuration["model_cfg"]
        preprocessing = configuration.get("preprocess_cfg") or {}
        plain = (
            "timm_model_name" not in settings["vision_cfg"]
            and "hf_model_name" not in settings["text_cfg"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder / FOLDER}: not a configuration of open_clip") from None
    if not plain:
        raise UserError(
            f"{folder}: not a plain CLIP of open_clip, but one with a tower of another library"
        )
    return settings, preprocessing


def read_clip(weights: Weights) -> dict[str, Tensor]:
    """float32 tensors of OpenAI's archive, which has three numbers among them, or of a folder."""
    return {
        name: tensor.float()
        for name, tensor in read_tensors(weights.file).items()
        if name not in ("input_resolution", "context_length", "vocab_size")
    }


class OpenClip(Extractor):
    """A network of open_clip; a subclass names its architecture."""

    architecture: ClassVar[str]  # unless the weights are a folder, which has its own

    @classmethod
    def load(cls, weights: Weights, setup: Setup) -> Clip:
        import open_clip  # optional: open_clip

        settings = open_clip.get_model_config(cls.architecture)
        preprocessing: dict[str, Any] = {}
        architecture = cls.architecture
        if weights.path.is_dir():
            settings, preprocessing = read_folder(weights.path)
            architecture = f"its {FOLDER}"
        tensors = read_clip(weights)
        try:
            network = open_clip.CLIP(**settings)
            preprocess = open_clip.transform.PreprocessCfg(
                **preprocessing | {"size": network.visual.image_size}
            )
        except Exception as error:  # whatever a wrong value in a configuration leads to
            raise UserError(
                f"{weights.path}: not a plain CLIP of open_clip ({reason(error)})"
            ) from None
        try:
            network.load_state_dict(tensors)
        except RuntimeError as error:
            raise UserError(
                f"{weights.file}: not the weights of {architecture} ({mismatch(error)})"
            ) from None
        return Clip(
            network.to(setup.device).eval().requires_grad_(False),
            preprocess,
            open_clip.transform.image_transform_v2(preprocess, is_train=False),
            open_clip.SimpleTokenizer(context_length=network.context_length),
        )


class ClipTowers(OpenClip):
    """Features of each image and of its own prompt, not normalised."""

    name = "clip"
    network = "clip"
    title = "CLIP ViT-L/14 (OpenAI)"
    preprocessing = "Pillow's bicubic to 224, centre crop, CLIP's mean"
    dimensions = {"image": 768, "text": 768}
    packages = ("pillow", "torchvision", "open_clip_torch")
    crops = True
    architecture = "ViT-L-14-quickgelu"

    def description(self) -> dict[str, Any]:
        return {name: value for name, value in super().description().items() if name != "extractor"}

    def cut(self, texts: Sequence[str]) -> int:
        tokenize = self.loaded.tokenize
        most = tokenize.context_length - 2  # beside the marks of the start and the end
        return sum(len(tokenize.encode(text)) > most for text in texts)

    def prepare(self, image: np.ndarray) -> Tensor:
        return self.loaded.transform(as_pillow(image))

    @torch.no_grad()
    def __call__(self, prepared: list[Tensor], texts: list[str] | None) -> dict[str, np.ndarray]:
        device = self.setup.device
        network = self.loaded.network
        features = {}
        if "image" in self.layers:
            features["image"] = network.encode_image(torch.stack(prepared).to(device))
        if "text" in self.layers:
            features["text"] = network.encode_text(self.loaded.tokenize(texts).to(device))
        return {layer: values.float().cpu().numpy() for layer, values in features.items()}


class ClipCmmd(OpenClip):
    """CMMD's: unit vectors of the image tower of 336 pixels (arXiv 2401.09603)."""

    name = "clip_cmmd"
    network = "clip_336"
    relatives = ("clip",)
    title = "CLIP ViT-L/14, 336 pixels (OpenAI)"
    preprocessing = "centre square, Pillow's bicubic to 336, CLIP's mean; unit length"
    dimensions = {"image": 768}
    packages = ("pillow", "open_clip_torch")
    crops = True
    architecture = "ViT-L-14-336-quickgelu"

    def prepare(self, image: np.ndarray) -> Tensor:
        height, width = image.shape[:2]
        side = min(height, width)
        top = (height - side) // 2
        left = (width - side) // 2
        square = as_pillow(image).crop((left, top, left + side, top + side))
        return bicubic(square, self.loaded.network.visual.image_size)

    @torch.no_grad()
    def __call__(self, prepared: list[Tensor], texts: list[str] | None) -> dict[str, np.ndarray]:
        device = self.setup.device
        mean, std = (
            torch.tensor(values, device=device)[:, None, None]
            for values in (self.loaded.settings.mean, self.loaded.settings.std)
        )
        x = (torch.stack(prepared).to(device) / 255 - mean) / std
        features = F.normalize(self.loaded.network.encode_image(x), dim=-1)
        return {"image": features.float().cpu().numpy()}
