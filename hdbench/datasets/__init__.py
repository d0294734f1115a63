"""Data sets, a subclass of `Dataset` each; packages add theirs by `hdbench.datasets`."""

from __future__ import annotations

from hdbench.core.registry import Registry
from hdbench.datasets.base import Dataset, completeness_problem
from hdbench.datasets.canvas import Canvas
from hdbench.datasets.captions import Captions
from hdbench.datasets.digits import Digits
from hdbench.datasets.latents import Images
from hdbench.datasets.photographs import Photographs
from hdbench.datasets.textured_digits import TexturedDigits

DATASETS = Registry(
    "hdbench.datasets",
    base=Dataset,
    builtin=[Digits, TexturedDigits, Canvas, Captions, Images, Photographs],
    check=completeness_problem,
)
