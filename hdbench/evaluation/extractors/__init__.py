"""Feature extractors, one row each: images (H, W, 3) uint8 -> features (B, d) float32 by layer.

Protocols name theirs.  Installed packages add their own by the entry points `hdbench.extractors`.
"""

from __future__ import annotations

from hdbench.core.registry import Registry
from hdbench.evaluation.extractors.base import Extractor, Layout, Setup
from hdbench.evaluation.extractors.clip import ClipCmmd, ClipTowers
from hdbench.evaluation.extractors.encoders import (
    DinoV2,
    FdrClip,
    FdrConvNext,
    FdrDinoV2,
    FdrMae,
    FdrSiglip2,
)
from hdbench.evaluation.extractors.inception import (
    InceptionClean,
    InceptionPytorchFid,
    InceptionTensorflow,
)
from hdbench.evaluation.extractors.perceptual import Lpips
from hdbench.evaluation.extractors.preference import HpsV2, PickScore

__all__ = ["EXTRACTORS", "Extractor", "Layout", "Setup"]

EXTRACTORS = Registry(
    "hdbench.extractors",
    base=Extractor,
    builtin=[
        InceptionTensorflow,
        InceptionClean,
        InceptionPytorchFid,
        ClipTowers,
        ClipCmmd,
        DinoV2,
        FdrConvNext,
        FdrDinoV2,
        FdrMae,
        FdrSiglip2,
        FdrClip,
        PickScore,
        HpsV2,
        Lpips,
    ],
)
