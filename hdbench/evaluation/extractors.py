"""Feature extractors: one preprocessing, one forward, every layer that the metrics need.

Images come as uint8 (H, W, 3); features leave as float32 (B, d) on the CPU.  Inception is
torch-fidelity's; its modules are in the order in which its own forward runs them, so they serve
clean-fid's and pytorch-fid's preprocessing as well.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hdbench.core.errors import UserError, reason
from hdbench.evaluation.protocols import Layout, Preprocessing
from hdbench.evaluation.weights import Weights
from hdbench.networks.tensors import as_buffer, is_torchscript, read_tensors

CPU_BATCH = 8  # images a forward on a CPU: larger batches are slower, and may round otherwise
SPATIAL_CHANNELS = 7  # of mixed_6/conv, 17 x 17: the ADM evaluator's features of sFID


def _versions(*packages: str) -> dict[str, str]:
    return {package: version(package) for package in packages}


def _mismatch(error: RuntimeError) -> str:
    """The first thing that does not fit, of those that `load_state_dict` lists."""
    return reason(RuntimeError("\n".join(str(error).splitlines()[1:]) or str(error)))


class Inception:
    """The network, shared by extractors; `classifier` (1008, 2048) gives logits without bias.

    layout "library": as torch-fidelity runs it, to the bit.  "channels-last": batch norms folded
    into their convolutions, pixels channels last; faster on a CPU (benchmarks/evaluation.py), as
    near to exact arithmetic as the library's float32.
    """

    def __init__(self, weights: Weights, device: torch.device, layout: Layout = "library"):
        self.weights = weights
        self.device = device
        self.layout = layout
        self.classifier = None
        self._format = torch.channels_last if layout == "channels-last" else torch.contiguous_format
        # clean-fid's file: the archive's own code, in TorchScript's sandboxed language
        if is_torchscript(weights.path):
            try:
                self.body: nn.Module = (
                    torch.jit.load(weights.path, map_location=device).eval().layers
                )
            except (RuntimeError, AttributeError) as error:
                raise UserError(
                    f"{weights.path}: not clean-fid's Inception ({reason(error)})"
                ) from None
            return
        from torch_fidelity.feature_extractor_inceptionv3 import (  # optional: torch-fidelity
            BasicConv2d,
            FeatureExtractorInceptionV3,
        )

        try:
            network = FeatureExtractorInceptionV3(
                "inception",
                ["2048"],
                feature_extractor_weights_path=as_buffer(read_tensors(weights.path)),
            )
        except RuntimeError as error:
            raise UserError(
                f"{weights.path}: not the weights of torch-fidelity's Inception "
                f"({_mismatch(error)})"
            ) from None
        if layout == "channels-last":
            layers = [module for module in network.modules() if isinstance(module, BasicConv2d)]
            for layer in layers:
                layer.conv = fuse_conv_bn_eval(layer.conv, layer.bn)
                layer.bn = nn.Identity()
        modules = [module for name, module in network.named_children() if name != "fc"]
        self.body = nn.Sequential(*modules)
        self.body.to(device, memory_format=self._format)  # pyright: ignore[reportCallIssue]
        self.classifier = network.fc.weight.detach().numpy()
        network.Mixed_6d.branch1x1.register_forward_hook(self._keep_spatial)

    def _keep_spatial(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self._spatial = output[:, :SPATIAL_CHANNELS]

    @torch.no_grad()
    def __call__(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """x (B, 3, 299, 299) in [-1, 1] -> "2048" (B, 2048), "spatial" (B, 2023) in ADM's order."""
        features = {"2048": self.body(x.contiguous(memory_format=self._format)).flatten(1)}
        if "spatial" in layers:
            if self.classifier is None:
                raise UserError(
                    f"{self.weights.path}: clean-fid's Inception has no layer for sFID; give "
                    "torch-fidelity's file"
                )
            features["spatial"] = self._spatial.permute(0, 2, 3, 1).flatten(1)
        return {layer: features[layer] for layer in layers}


class InceptionExtractor:
    """Inception under one preprocessing.

    tensorflow: TensorFlow 1's bilinear resizing to 299, (x - 128) / 128 (torch-fidelity, ADM's
    evaluator).  clean: Pillow's bicubic resizing of each channel in float, the same scaling
    (clean-fid).  pytorch_fid: shorter side to `resolution` (Pillow, bilinear), centre crop, then
    bilinear to 299 without antialiasing, 2 x - 1 (pytorch-fid, SANA's toolkit).
    """

    def __init__(
        self,
        network: Inception,
        preprocessing: Preprocessing,
        layers: tuple[str, ...],
        resolution: int | None,
    ):
        self.network = network
        self.preprocessing = preprocessing
        self.layers = layers
        self.resolution = resolution
        self.weights = network.weights

    def description(self) -> dict[str, Any]:
        """Everything that decides the features but the images."""
        packages = {
            "tensorflow": "torch-fidelity",
            "clean": "clean-fid",
            "pytorch_fid": "torchvision",
        }
        return {
            "network": "inception",
            "weights": self.network.weights.sha256,
            "preprocessing": self.preprocessing,
            "layout": self.network.layout,
            "resolution": self.resolution,
            "layers": list(self.layers),
            "device": self.network.device.type,
            "versions": _versions(
                "torch", "pillow", "torch-fidelity", packages[self.preprocessing]
            ),
        }

    def prepare(self, image: np.ndarray) -> Tensor:
        """One image, (H, W, 3) uint8 -> (3, H', W'); done in parallel on the CPU."""
        if self.preprocessing == "tensorflow":
            return torch.from_numpy(image).permute(2, 0, 1)
        if self.preprocessing == "clean":
            from cleanfid.resize import build_resizer  # optional: clean-fid

            return torch.from_numpy(build_resizer("clean")(image)).permute(2, 0, 1)
        from PIL import Image  # optional: Pillow
        from torchvision.transforms import functional as vision  # optional: torchvision

        resized = vision.center_crop(
            vision.resize(Image.fromarray(image), self.resolution), self.resolution
        )
        return vision.to_tensor(resized)

    def __call__(self, prepared: list[Tensor], texts: list[str] | None) -> dict[str, np.ndarray]:
        if self.network.device.type == "cpu" and len(prepared) > CPU_BATCH:
            batches = [
                self(prepared[start : start + CPU_BATCH], None)
                for start in range(0, len(prepared), CPU_BATCH)
            ]
            return {
                layer: np.concatenate([batch[layer] for batch in batches]) for layer in self.layers
            }
        alike = len({image.shape for image in prepared}) == 1
        batches = [torch.stack(prepared)] if alike else [image[None] for image in prepared]
        x = torch.cat([self._scaled(batch.to(self.network.device)) for batch in batches])
        return {
            layer: values.float().cpu().numpy()
            for layer, values in self.network(x, self.layers).items()
        }

    def _scaled(self, x: Tensor) -> Tensor:
        if self.preprocessing == "pytorch_fid":
            return 2 * F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False) - 1
        if self.preprocessing == "tensorflow":
            from torch_fidelity.interpolate_compat_tensorflow import (  # optional: torch-fidelity
                interpolate_bilinear_2d_like_tensorflow1x,
            )

            x = interpolate_bilinear_2d_like_tensorflow1x(
                x.float(), size=(299, 299), align_corners=False
            )
        return (x - 128) / 128


class ClipExtractor:
    """open_clip's two towers: features of each image and of its own prompt, not normalised."""

    layers = ("image", "text")

    def __init__(self, weights: Weights, architecture: str, device: torch.device):
        import open_clip  # optional: open_clip
        from open_clip.transform import PreprocessCfg, image_transform_v2  # optional: open_clip

        self.weights = weights
        self.device = device
        settings = open_clip.get_model_config(architecture)
        preprocessing = {}
        file = weights.path
        if weights.path.is_dir():
            architecture = "its open_clip_config.json"
            file = next(weights.path.glob("*.safetensors"))
            try:
                configuration = json.loads(
                    (weights.path / "open_clip_config.json").read_text(encoding="utf-8")
                )
                settings = configuration["model_cfg"]
                preprocessing = configuration.get("preprocess_cfg") or {}
                if (
                    "timm_model_name" in settings["vision_cfg"]
                    or "hf_model_name" in settings["text_cfg"]
                ):
                    raise UserError(
                        f"{weights.path}: not a plain CLIP of open_clip, but one with a tower of "
                        "another library"
                    )
            except (OSError, ValueError, KeyError, TypeError):
                raise UserError(
                    f"{weights.path / 'open_clip_config.json'}: not a configuration of open_clip"
                ) from None
        # OpenAI's archive has three numbers among its weights
        tensors = {
            name: tensor.float()
            for name, tensor in read_tensors(file).items()
            if name not in ("input_resolution", "context_length", "vocab_size")
        }
        try:
            self.network = open_clip.CLIP(**settings)
            preprocess = PreprocessCfg(**preprocessing | {"size": self.network.visual.image_size})
        except Exception as error:  # whatever a wrong value in a configuration leads to
            raise UserError(
                f"{weights.path}: not a plain CLIP of open_clip ({reason(error)})"
            ) from None
        try:
            self.network.load_state_dict(tensors)
        except RuntimeError as error:
            raise UserError(
                f"{file}: not the weights of {architecture} ({_mismatch(error)})"
            ) from None
        self.network.to(device).eval().requires_grad_(False)
        self.transform = image_transform_v2(preprocess, is_train=False)
        self.tokenize = open_clip.SimpleTokenizer(context_length=self.network.context_length)

    def description(self) -> dict[str, Any]:
        return {
            "network": "clip",
            "weights": self.weights.sha256,
            "layers": list(self.layers),
            "device": self.device.type,
            "versions": _versions("torch", "pillow", "torchvision", "open_clip_torch"),
        }

    def prepare(self, image: np.ndarray) -> Tensor:
        from PIL import Image  # optional: Pillow

        return self.transform(Image.fromarray(image))

    @torch.no_grad()
    def __call__(self, prepared: list[Tensor], texts: list[str] | None) -> dict[str, np.ndarray]:
        images = self.network.encode_image(torch.stack(prepared).to(self.device))
        prompts = self.network.encode_text(self.tokenize(texts).to(self.device))
        return {"image": images.float().cpu().numpy(), "text": prompts.float().cpu().numpy()}
