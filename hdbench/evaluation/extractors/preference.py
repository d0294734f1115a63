"""Preference models: CLIP ViT-H/14, trained on people's choices between images of one prompt.

Both run in float32, where their authors' code has half precision.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hdbench.core.errors import UserError, reason
from hdbench.core.files import from_json, read_text
from hdbench.evaluation.extractors.base import Setup, mismatch
from hdbench.evaluation.extractors.clip import Clip, ClipTowers
from hdbench.evaluation.weights import FOLDERS, Weights
from hdbench.networks.tensors import read_tensors

VIT_H_14 = {  # of laion/CLIP-ViT-H-14-laion2B-s32B-b79K, on which PickScore was trained
    "projection_dim": 1024,
    "text_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "hidden_act": "gelu",
    },
    "vision_config": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
        "hidden_act": "gelu",
    },
}


class PickScore(ClipTowers):
    """PickScore v1 (arXiv 2305.01569): unit vectors, those of prompts times the learned scale."""

    name = "pickscore"
    network = "pickscore"
    title = "PickScore v1 (CLIP ViT-H/14)"
    preprocessing = "Pillow's bicubic to 224, centre crop, CLIP's mean"
    dimensions = {"image": 1024, "text": 1024}
    packages = ("pillow", "torchvision", "transformers", "open_clip_torch")

    @classmethod
    def load(cls, weights: Weights, setup: Setup) -> Clip:
        import open_clip  # optional: open_clip
        from transformers import CLIPConfig, CLIPModel  # optional: transformers

        settings: dict[str, Any] = VIT_H_14
        try:
            if weights.path.is_dir():
                file = weights.path / FOLDERS["transformers"]
                settings = from_json(read_text(file))
            config: Any = CLIPConfig(**settings)
            network = CLIPModel(config)
        except Exception as error:  # whatever a wrong value in a configuration leads to
            raise UserError(
                f"{weights.path}: not a CLIP of transformers ({reason(error)})"
            ) from None
        tensors = {  # older files hold what is computed
            name: tensor.float()
            for name, tensor in read_tensors(weights.file).items()
            if not name.endswith(".position_ids")
        }
        try:
            network.load_state_dict(tensors)
        except RuntimeError as error:
            raise UserError(
                f"{weights.file}: not the weights of PickScore ({mismatch(error)})"
            ) from None
        preprocess = open_clip.transform.PreprocessCfg(size=config.vision_config.image_size)
        tokens = config.text_config.max_position_embeddings
        return Clip(
            network.to(setup.device).eval().requires_grad_(False),
            preprocess,
            open_clip.transform.image_transform_v2(preprocess, is_train=False),
            open_clip.SimpleTokenizer(context_length=tokens),
        )

    @torch.no_grad()
    def __call__(self, prepared: list[Tensor], texts: list[str] | None) -> dict[str, np.ndarray]:
        network = self.loaded.network
        device = self.setup.device
        images = network.get_image_features(torch.stack(prepared).to(device)).pooler_output
        tokens = self.loaded.tokenize(texts).to(device)
        prompts = network.get_text_features(tokens).pooler_output
        features = {
            "image": F.normalize(images),
            "text": network.logit_scale.exp() * F.normalize(prompts),
        }
        return {layer: features[layer].cpu().numpy() for layer in self.layers}


class HpsV2(ClipTowers):
    """HPS v2.1 (arXiv 2306.09341), by open_clip: the longer side is resized, the rest is padded.

    Padding is zero before the normalisation, as in the authors' code; torchvision's resizing of
    tensors has had antialiasing since 0.17.
    """

    name = "hpsv2"
    network = "hpsv2"
    title = "HPS v2.1 (CLIP ViT-H/14)"
    preprocessing = "torchvision's bicubic of the longer side to 224, padded, CLIP's mean"
    dimensions = {"image": 1024, "text": 1024}
    packages = ("torchvision", "open_clip_torch")
    architecture = "ViT-H-14"

    def prepare(self, image: np.ndarray) -> Tensor:
        from torchvision.transforms import functional as vision  # optional: torchvision

        side = self.loaded.network.visual.image_size[0]
        scale = side / max(image.shape[:2])
        height, width = (max(1, round(scale * length)) for length in image.shape[:2])
        x = vision.to_tensor(image)
        if scale != 1:
            bicubic = vision.InterpolationMode.BICUBIC
            x = vision.resize(x, [height, width], bicubic, antialias=True)
        top, left = (side - height) // 2, (side - width) // 2
        x = vision.pad(x, [left, top, side - width - left, side - height - top])
        return vision.normalize(x, self.loaded.settings.mean, self.loaded.settings.std)
