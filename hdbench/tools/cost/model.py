"""The cost model: workflow/cost.yaml, typed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from hdbench.core.config import Config, nearest, validate
from hdbench.core.yaml_file import read_yaml

MODEL = Path("workflow/cost.yaml")
Precision = Literal["bfloat16", "tfloat32", "float32"]


class Gpu(Config):
    peak: dict[Precision, float] = Field(min_length=3, description="TFLOP/s, dense")
    memory: float = Field(gt=0, description="GB")
    source: str


class Utilisation(Config):
    assumed: str
    bfloat16: float = Field(gt=0, le=1)
    tfloat32: float = Field(gt=0, le=1)
    float32: float = Field(gt=0, le=1)

    def of(self, precision: Precision) -> float:
        """Share of the peak that is reached."""
        return {"bfloat16": self.bfloat16, "tfloat32": self.tfloat32, "float32": self.float32}[
            precision
        ]


class Cpu(Config):
    gflops: float = Field(gt=0, description="GFLOP/s of a core")


class AutoencoderCost(Config):
    resolution: int = Field(ge=1, description="that the FLOPs are of")
    encode: float = Field(gt=0)
    decode: float = Field(gt=0)
    parameters: int = Field(ge=1)


class TextEncoder(Config):
    flops_per_token: float = Field(gt=0)
    tokens: int = Field(ge=1)
    tokens_kept: int = Field(ge=1)
    assumed: str


class Png(Config):
    bytes_per_pixel: float = Field(gt=0)
    write_nanoseconds_per_pixel: float = Field(ge=0)
    read_nanoseconds_per_pixel: float = Field(ge=0)
    assumed: str


class CostModel(Config):
    """workflow/cost.yaml, which says where each number is from."""

    gpu: str
    gpus: dict[str, Gpu] = Field(min_length=1)
    utilisation: Utilisation
    cpu: Cpu
    autoencoders: dict[Literal["kl", "dc"], AutoencoderCost] = Field(min_length=2)
    extractors: dict[str, float] = Field(description="FLOPs by extractor, or by its network")
    text_encoder: TextEncoder
    images: dict[str, int]
    png: Png
    frechet_seconds: float = Field(ge=0)

    @model_validator(mode="after")
    def _known_gpu(self):
        if self.gpu not in self.gpus:
            raise ValueError(f"gpu = {self.gpu}: unknown" + nearest(self.gpu, self.gpus))
        return self

    def seconds(self, flops: Mapping[str, float]) -> float:
        """Of one GPU, from FLOPs by precision."""
        peak = self.gpus[self.gpu].peak
        return sum(
            count / (1e12 * peak[precision] * self.utilisation.of(precision))
            for precision, count in flops.items()
        )


def read_model(path: Path = MODEL, gpu: str | None = None) -> CostModel:
    return validate(CostModel, read_yaml(path) | ({"gpu": gpu} if gpu else {}), str(path))
