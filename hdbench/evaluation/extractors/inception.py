"""Inception under three preprocessings: torch-fidelity's, clean-fid's and pytorch-fid's.

The network is torch-fidelity's; its modules are in the order in which its own forward runs them, so
they serve clean-fid's and pytorch-fid's preprocessing as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hdbench.core.errors import UserError, reason
from hdbench.evaluation.extractors.base import (
    Extractor,
    Layout,
    Setup,
    as_pillow,
    mismatch,
    to_one_size,
    versions,
)
from hdbench.evaluation.weights import Weights
from hdbench.networks.tensors import as_buffer, check_values, is_torchscript, read_tensors

CPU_BATCH = 8  # images a forward on a CPU: larger batches are slower, and may round otherwise
SPATIAL_CHANNELS = 7  # of mixed_6/conv, 17 x 17: the ADM evaluator's features of sFID


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
                archive = torch.jit.load(weights.path, map_location=device).eval()
                self.body: nn.Module = archive.layers
            except (RuntimeError, AttributeError) as error:
                raise UserError(
                    f"{weights.path}: not clean-fid's Inception ({reason(error)})"
                ) from None
            check_values(archive.state_dict(), weights.path)
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
                f"{weights.path}: not the weights of torch-fidelity's Inception ({mismatch(error)})"
            ) from None
        if layout == "channels-last":
            layers = [module for module in network.modules() if isinstance(module, BasicConv2d)]
            for layer in layers:
                layer.conv = fuse_conv_bn_eval(layer.conv, layer.bn)
                layer.bn = nn.Identity()
        modules = [module for name, module in network.named_children() if name != "fc"]
        self.body = nn.Sequential(*modules)
        self.body.to(device, memory_format=self._format)  # pyright: ignore[reportCallIssue]
        weight = network.fc.weight.detach()
        self.classifier = None if weight.is_meta else weight.numpy()
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


class InceptionExtractor(Extractor):
    """Inception under one preprocessing; a subclass says which."""

    network = "inception"
    title = "Inception-v3 (2015)"
    dimensions = {"2048": 2048, "spatial": SPATIAL_CHANNELS * 17 * 17}
    statistics = {"2048": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}
    layout = True
    loading = "inception"
    kind: ClassVar[str]  # of the preprocessing, in the caches' keys

    @classmethod
    def load(cls, weights: Weights, setup: Setup) -> Inception:
        return Inception(weights, setup.device, setup.layout)

    def description(self) -> dict[str, Any]:
        return {
            "network": self.network,
            "weights": self.weights.sha256,
            "preprocessing": self.kind,
            "layout": self.loaded.layout,
            "resolution": self.setup.resolution,
            "layers": list(self.layers),
            "device": self.setup.device.type,
            "versions": versions("torch", "pillow", "torch-fidelity", *self.packages),
        }

    def __call__(self, prepared: list[Tensor], texts: list[str] | None) -> dict[str, np.ndarray]:
        device = self.setup.device
        if device.type == "cpu" and len(prepared) > CPU_BATCH:
            batches = [
                self(prepared[start : start + CPU_BATCH], None)
                for start in range(0, len(prepared), CPU_BATCH)
            ]
            return {
                layer: np.concatenate([batch[layer] for batch in batches]) for layer in self.layers
            }
        x = to_one_size(self.scaled, prepared, device)
        return {
            layer: values.float().cpu().numpy()
            for layer, values in self.loaded(x, self.layers).items()
        }

    def scaled(self, x: Tensor) -> Tensor:
        """Prepared images (B, 3, H, W) -> (B, 3, 299, 299) in [-1, 1]."""
        return (x - 128) / 128


class InceptionTensorflow(InceptionExtractor):
    """Of torch-fidelity and of ADM's evaluator."""

    name = "inception_tensorflow"
    preprocessing = "TensorFlow 1's bilinear to 299, (x - 128) / 128"
    marks = ("arr_0", "mu_s")
    kind = "tensorflow"

    def scaled(self, x: Tensor) -> Tensor:
        from torch_fidelity.interpolate_compat_tensorflow import (  # optional: torch-fidelity
            interpolate_bilinear_2d_like_tensorflow1x,
        )

        resized = interpolate_bilinear_2d_like_tensorflow1x(
            x.float(), size=(299, 299), align_corners=False
        )
        return super().scaled(resized)


class InceptionClean(InceptionExtractor):
    """Of clean-fid, mode clean."""

    name = "inception_clean"
    preprocessing = "Pillow's bicubic to 299, each channel in float, (x - 128) / 128"
    kind = "clean"
    packages = ("clean-fid",)

    def prepare(self, image: np.ndarray) -> Tensor:
        from cleanfid.resize import build_resizer  # optional: clean-fid

        return torch.from_numpy(build_resizer("clean")(image)).permute(2, 0, 1)


class InceptionPytorchFid(InceptionExtractor):
    """Of pytorch-fid, after the resizing to `resolution` of SANA's toolkit."""

    name = "inception_pytorch_fid"
    preprocessing = (
        "Pillow's bilinear to the resolution, centre crop, bilinear to 299 without antialiasing, "
        "2 x - 1"
    )
    kind = "pytorch_fid"
    packages = ("torchvision",)

    def prepare(self, image: np.ndarray) -> Tensor:
        from torchvision.transforms import functional as vision  # optional: torchvision

        resolution = self.setup.resolution
        resized = vision.center_crop(vision.resize(as_pillow(image), resolution), resolution)
        return vision.to_tensor(resized)

    def scaled(self, x: Tensor) -> Tensor:
        return 2 * F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False) - 1
