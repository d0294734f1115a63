"""The classifier whose features the small suites' metrics use, trained in the DAG."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from hdbench.core.pixels import to_float
from hdbench.networks.config import ClassifierConfig


class Classifier(nn.Module):
    """(B, C, H, W) float in [-1, 1] -> logits (B, sum of `attributes`).

    `attributes` are the numbers of classes of what it tells apart, each with its own logits.
    """

    def __init__(
        self,
        config: ClassifierConfig,
        *,
        image_size: int,
        channels: int,
        attributes: tuple[int, ...],
    ):
        super().__init__()
        self.depth = 1
        self.attributes = attributes
        w = config.width
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, w, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(w, 2 * w, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.hidden = nn.Sequential(
            nn.Linear(2 * w * (image_size // 4) ** 2, config.features), nn.ReLU()
        )
        self.out = nn.Linear(config.features, sum(attributes))

    def penultimate(self, x: Tensor) -> Tensor:
        """Features (B, features) of x (B, C, H, W) in [-1, 1]."""
        return self.hidden(self.convolutions(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.penultimate(x))


def classify(
    network: Classifier, images: Tensor, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, C, H, W) uint8 -> features (N, d) and probabilities (N, classes), float32."""
    return perceive(network, to_float(images), device)


@torch.no_grad()
def perceive(network: Classifier, x: Tensor, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """`classify` of x (N, C, H, W) float32 in [-1, 1]."""
    features = torch.cat([network.penultimate(batch.to(device)) for batch in x.split(500)])
    groups = network.out(features).split(network.attributes, dim=1)
    probabilities = torch.cat([torch.softmax(group, dim=1) for group in groups], dim=1)
    return features.cpu().numpy(), probabilities.cpu().numpy()
