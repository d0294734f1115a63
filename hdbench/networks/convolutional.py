"""A convolutional autoencoder that the DAG trains: images to latents of unit variance, and back.

q(y | x) = N(m(x), diag(exp s(x)))      D(y) ~ x
z = (m(x) - shift) / spread             x = D(spread z + shift)
shift, spread: mean and standard deviation of each channel of m over images, by `calibrate`
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from hdbench.core.config import Config

GROUPS = 8  # of channels that are normalised together
BATCH = 100  # images or latents at once


class ConvolutionalConfig(Config):
    """Size of the autoencoder."""

    width: int = Field(
        default=48, ge=GROUPS, multiple_of=GROUPS, description="channels at half the image's side"
    )
    factor: int = Field(default=4, ge=2, description="pixels to a latent cell's side, 2, 4, 8, ...")
    channels: int = Field(default=8, ge=1, description="of the latents")

    @field_validator("factor")
    @classmethod
    def _is_a_power_of_two(cls, factor: int) -> int:
        if factor & (factor - 1):
            raise ValueError(f"factor = {factor}: must be a power of two")
        return factor

    @property
    def widths(self) -> list[int]:
        """Channels at a half, a quarter, ... of the side, down to the latents'."""
        return [self.width * 2**level for level in range(self.factor.bit_length() - 1)]


class Residual(nn.Module):
    """x (B, width, H, W) plus two 3x3 convolutions of it, the first of x normalised."""

    def __init__(self, width: int):
        super().__init__()
        self.branch = nn.Sequential(
            nn.GroupNorm(GROUPS, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class ConvolutionalAutoencoder(nn.Module):
    """Images (B, C, H, W) in [-1, 1] to latents (B, channels, H / factor, W / factor), and back."""

    shift: Tensor
    spread: Tensor

    def __init__(self, config: ConvolutionalConfig, *, image_size: int, channels: int):
        super().__init__()
        self.depth = 1
        side = image_size // config.factor
        self.image_shape = (channels, image_size, image_size)
        self.latent_shape = (config.channels, side, side)
        widths = config.widths
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * channels, widths[0], 3, padding=1),
            Residual(widths[0]),
            *(
                layer
                for narrow, wide in zip(widths, widths[1:], strict=False)
                for layer in (nn.Conv2d(narrow, wide, 3, stride=2, padding=1), Residual(wide))
            ),
            nn.SiLU(),
            nn.Conv2d(widths[-1], 2 * config.channels, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(config.channels, widths[-1], 3, padding=1),
            Residual(widths[-1]),
            *(
                layer
                for wide, narrow in zip(widths[:0:-1], widths[-2::-1], strict=True)
                for layer in (
                    nn.Upsample(scale_factor=2),
                    nn.Conv2d(wide, narrow, 3, padding=1),
                    Residual(narrow),
                )
            ),
            Residual(widths[0]),
            nn.SiLU(),
            nn.Conv2d(widths[0], 4 * channels, 3, padding=1),
            nn.PixelShuffle(2),
        )
        self.register_buffer("shift", torch.zeros(config.channels, 1, 1))
        self.register_buffer("spread", torch.ones(config.channels, 1, 1))

    def forward(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """D(y) of y ~ q(y | x) by standard normal eps (B, channels, h, w), and the posterior."""
        mean, log_variance = self.posterior(x)
        return self.decoder(mean + (log_variance / 2).exp() * eps), mean, log_variance

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance of q(y | x), (B, channels, h, w) each."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return mean, log_variance

    @torch.no_grad()
    def calibrate(self, images: Tensor) -> None:
        """Set shift and spread so that latents of images (N, C, H, W) have mean 0, variance 1."""
        means = torch.cat([self.posterior(x)[0] for x in self._batches(images)])
        self.shift.copy_(means.mean(dim=(0, 2, 3))[:, None, None])
        self.spread.copy_(means.std(dim=(0, 2, 3))[:, None, None])

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Latents z (N, channels, h, w) of images (N, C, H, W) in [-1, 1]."""
        batches = self._batches(images)
        return torch.cat([(self.posterior(x)[0] - self.shift) / self.spread for x in batches])

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Images (N, C, H, W), not clamped, of latents as `encode` gives them."""
        return torch.cat([self.decoder(y * self.spread + self.shift) for y in self._batches(z)])

    def _batches(self, x: Tensor) -> Iterable[Tensor]:
        return (batch.to(self.shift.device) for batch in x.split(BATCH))
