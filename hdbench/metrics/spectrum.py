"""Radial power spectrum in bands, relative to real images: 1 is the power that they have."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hdbench.core.pixels import to_float
from hdbench.metrics.base import Estimate, Metric, MetricInput


def radial_power(x: Tensor) -> np.ndarray:
    """Mean |FFT|^2 on integer radii 1 .. H/2: x (N, C, H, W) float -> (N, H/2) float64."""
    size = x.shape[-1]
    power = torch.fft.fft2(x.double()).abs().square().mean(1) / size**2
    frequency = torch.fft.fftfreq(size) * size
    radius = (frequency[:, None].square() + frequency[None, :].square()).sqrt().round().long()
    rings = [power[:, radius == r].mean(1) for r in range(1, size // 2 + 1)]
    return torch.stack(rings, dim=1).numpy()


def band_power(rings: np.ndarray, bands: int) -> np.ndarray:
    """Mean power (N, bands) of neighbouring rings (N, H/2) in nearly equal groups, low to high."""
    return np.stack([band.mean(1) for band in np.array_split(rings, bands, axis=1)], axis=1)


def relative_power(power: np.ndarray, reference: np.ndarray) -> Estimate:
    """mean(power) / mean(reference), (N,) and (M,); IF_i = (power_i - mean) / mean(reference)."""
    scale = reference.mean()
    return Estimate(float(power.mean() / scale), (power - power.mean()) / scale)


def powers(sample: MetricInput) -> np.ndarray:
    """`radial_power` of the sample's images, (N, H/2) float64."""
    return radial_power(to_float(sample.images))


class BandPower(Metric, group="protocol"):
    """`relative_power` of each band of radial frequency, against images of train; 1 is best."""

    name = "power_band{n}"
    title = "Power, band {n}"
    low = 0.0

    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        real = sample.real["train_bands"]
        bands = band_power(sample.once(powers), real.shape[1])
        return {
            f"power_band{band + 1}": relative_power(bands[:, band], real[:, band])
            for band in range(real.shape[1])
        }
