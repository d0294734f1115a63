"""Data sets: one file each, with a `Configuration` (its sizes as properties) and `build(configuration) -> Splits`."""

from hdbench.datasets import canvas, digits, textured_digits

DATASETS = {"digits": digits, "textured_digits": textured_digits, "canvas": canvas}
