"""An oriented wave on ink, and the matched filters that read it off an image.

x = 255 s (1 - c/2 + c/2 sin(k.r + phase)),   k = 2 pi (1, d) / (sqrt(2) wavelength),   d = 1 or -1

A low-pass S of x (a Gaussian of .45 wavelengths, which leaves 2% of the wave) stands for the ink s
(1 - c/2).  For both d, x is fitted by a S + p S cos k.r + q S sin k.r; the better fit says d, its
p and q the phase and the contrast c = 2 A / (a + A), A = |p, q|.  What the wave's local amplitudes
Z, the low-pass of (x - a S) exp(-i k.r), have in common is its coherence |sum Z| / sum |Z|.  None
of these changes with the gain of x.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import toeplitz

OF_INK = 0.45  # width of the low-pass that stands for ink, in wavelengths
OF_STRUCTURE = 0.25  # and of the one that is left of an image without its wave
BATCH = 1000


class Reading(NamedTuple):
    """What the matched filters find in N images."""

    direction: np.ndarray  # (N,) int64: 0 for d = 1, 1 for d = -1
    phase: np.ndarray  # (N,) in [0, 2 pi)
    contrast: np.ndarray  # (N,) in [0, 2)
    coherence: np.ndarray  # (N,) in [0, 1]
    structure: np.ndarray  # (N, H, W): the image without the fitted wave, after a low-pass


def angle(shape: tuple[int, int], direction: np.ndarray, wavelength: float) -> np.ndarray:
    """k.r (N, H, W) in radians for directions d (N,)."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return 2 * np.pi * (x + direction[:, None, None] * y) / (np.sqrt(2) * wavelength)


def low_pass(images: np.ndarray, width: float) -> np.ndarray:
    """Images (N, H, W) after a Gaussian of this width in pixels; outside of them is 0."""
    rows, columns = (_gaussian(side, width) for side in images.shape[1:])
    return rows @ images @ columns


def _gaussian(side: int, width: float) -> np.ndarray:
    """The matrix (side, side) of a Gaussian; inner rows sum to 1, to 2% at a width of 1/2."""
    kernel = np.exp(-0.5 * (np.arange(side) / width) ** 2)
    return toeplitz(kernel / (np.sqrt(2 * np.pi) * width))


def read(images: np.ndarray, wavelength: float) -> Reading:
    """The wave of each image (N, H, W), any real, black 0; a black image has contrast 0."""
    batches = range(0, len(images), BATCH)
    readings = [_read(images[i : i + BATCH].astype(np.float64), wavelength) for i in batches]
    return Reading(*map(np.concatenate, zip(*readings, strict=True)))


def _read(x: np.ndarray, wavelength: float) -> Reading:
    ink = low_pass(x, OF_INK * wavelength)
    fits = [_fit(x, ink, angle(x.shape[1:], np.full(1, d), wavelength)) for d in (1.0, -1.0)]
    direction = np.argmin([residual for _, residual in fits], axis=0)
    rows = np.arange(len(x))
    a, p, q = np.stack([weights for weights, _ in fits])[direction, rows].T[..., None, None]
    amplitude = np.hypot(p, q)[:, 0, 0]
    k_r = angle(x.shape[1:], 1.0 - 2.0 * direction, wavelength)
    wave = ink * (p * np.cos(k_r) + q * np.sin(k_r))
    detail = x - a * ink
    cosine, sine = (low_pass(detail * f(k_r), OF_INK * wavelength) for f in (np.cos, np.sin))
    common = np.hypot(cosine.sum((1, 2)), sine.sum((1, 2)))
    return Reading(
        direction=direction,
        phase=np.arctan2(p, q)[:, 0, 0] % (2 * np.pi),
        contrast=_ratio(2 * amplitude, np.abs(a)[:, 0, 0] + amplitude),
        coherence=_ratio(common, np.hypot(cosine, sine).sum((1, 2))),
        structure=low_pass(x - wave, OF_STRUCTURE * wavelength),
    )


def _fit(x: np.ndarray, ink: np.ndarray, k_r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least squares of x (N, H, W) by ink, ink cos and ink sin: weights (N, 3), residual (N,)."""
    basis = np.stack([ink, ink * np.cos(k_r), ink * np.sin(k_r)], axis=1).reshape(len(x), 3, -1)
    pixels = x.reshape(len(x), -1, 1)
    gram = basis @ basis.transpose(0, 2, 1)
    product = basis @ pixels
    weights = np.linalg.pinv(gram, hermitian=True) @ product
    explained = (weights * product).sum((1, 2))
    return weights[..., 0], np.square(pixels).sum((1, 2)) - explained


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, and 0 where b is."""
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)
