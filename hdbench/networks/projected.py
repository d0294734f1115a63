"""A frozen classifier's feature maps as tokens for discriminator heads (Projected GAN).

maps    h_1, h_2 of the classifier's convolutions, before pooling
mixed   p_2 = R_2 h_2,  p_1 = R_1 h_1 + up(R_12 p_2),  R fixed random 1x1 convolutions
tokens  p_l averaged to the head's grid, layer-normalised, plus a fixed random vector of the label
Fixed random projections across channels and scales are those of arXiv 2111.01007 (Section 3.2),
for two scales; there labels enter by a projection of learned embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hdbench.networks.classifier import Classifier

SCALES = 2


class ProjectedClassifier(nn.Module):
    """Tokens (B, grid^2, width) of images; nothing in it is trained."""

    codes: Tensor

    def __init__(self, classifier: Classifier, *, width: int, grid: int, classes: int):
        """PyTorch's global generator gives the projections."""
        super().__init__()
        self.first, self.second = classifier.convolutions[:2], classifier.convolutions[2:5]
        sizes = [layers[-2].out_channels for layers in (self.first, self.second)]
        self.project = nn.ModuleList(nn.Conv2d(size, width, 1) for size in sizes)
        self.mix = nn.Conv2d(width, width, 1)
        for convolution in (*self.project, self.mix):
            nn.init.kaiming_normal_(convolution.weight)
        self.register_buffer("codes", torch.randn(classes, width))
        self.grid = grid
        self.requires_grad_(False)

    def features(self, z: Tensor, t: Tensor, c: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """Tokens of the scales `blocks`, 1 the finest, of z (B, C, H, W); t is not used."""
        fine = self.first(z)
        coarse = self.project[1](self.second(fine))
        fine = self.project[0](fine) + self.mix(F.interpolate(coarse, fine.shape[2:]))
        scales = [F.adaptive_avg_pool2d(p, self.grid).flatten(2).mT for p in (fine, coarse)]
        tokens = [F.layer_norm(h, h.shape[-1:]) + self.codes[c][:, None] for h in scales]
        return [tokens[block - 1] for block in blocks]
