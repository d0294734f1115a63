"""Distances of two images, which come as one of six channels: LPIPS, and that of their pixels."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor, nn

from hdbench.core.errors import UserError
from hdbench.evaluation.extractors.base import Extractor, Setup, mismatch
from hdbench.evaluation.weights import Weights
from hdbench.networks.tensors import read_tensors


class Lpips(Extractor):
    """LPIPS 0.1 by the package lpips, with its linear weights; AlexNet is torchvision's file.

    "alexnet" is LPIPS (arXiv 1801.03924) at the images' own size, "pixels" the mean squared error
    over pixels and channels in [0, 1].
    """

    name = "lpips"
    network = "alexnet"
    title = "LPIPS (AlexNet)"
    preprocessing = "pairs of images at their own size, x / 127.5 - 1"
    dimensions = {"alexnet": 1, "pixels": 1}
    packages = ("lpips",)

    @classmethod
    def load(cls, weights: Weights, setup: Setup) -> nn.Module:
        import lpips  # optional: lpips

        with warnings.catch_warnings(action="ignore"):  # of torchvision, on lpips' old arguments
            network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
        tensors = {  # its slices keep the numbers of AlexNet's layers
            name.replace("features", f"slice{number}"): tensor.float()
            for name, tensor in read_tensors(weights.file).items()
            for number, layer in enumerate((0, 3, 6, 8, 10), 1)
            if name.startswith(f"features.{layer}.")
        }
        try:
            network.net.load_state_dict(tensors)
        except RuntimeError as error:
            raise UserError(
                f"{weights.file}: not the weights of torchvision's AlexNet ({mismatch(error)})"
            ) from None
        return network.to(setup.device).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, prepared: list[Tensor], texts: list[str] | None) -> dict[str, np.ndarray]:
        x = torch.stack(prepared).to(self.setup.device) / 127.5 - 1
        a, b = x.split(3, dim=1)
        values = {
            "alexnet": self.loaded(a, b).flatten(1),
            "pixels": ((a - b) / 2).square().flatten(1).mean(1, keepdim=True),
        }
        return {layer: values[layer].cpu().numpy() for layer in self.layers}
