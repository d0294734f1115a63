"""Parents' artifacts of the right shapes, without numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily

from hdbench.networks.autoencoders import PUBLIC, Autoencoder, AutoencoderConfig
from hdbench.networks.classifier import Classifier
from hdbench.networks.config import SanaConfig
from hdbench.networks.text import Conditions
from hdbench.stages.context import Context, of_classifier, shape
from hdbench.stages.networks import autoencoder_of, new_clip
from hdbench.suite.plan import Plan
from hdbench.suite.stage import Stage

ROWS = 2**20  # of the data
# what is not diffusers' default in the public autoencoders' config.json
AUTOENCODERS: dict[str, dict[str, Any]] = {
    "kl": {
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    },
    "dc": {
        "encoder_layers_per_block": (2, 2, 2, 3, 3, 3),
        "downsample_block_type": "Conv",
        "decoder_layers_per_block": (3,) * 6,
        "upsample_block_type": "interpolate",
        **{
            f"{side}_{key}": value
            for side in ("encoder", "decoder")
            for key, value in {
                "block_out_channels": (128, 256, 512, 512, 1024, 1024),
                "block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
                "qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
            }.items()
        },
    },
}


class Prompts(Conditions):
    """Prompts of full length, all alike."""

    def __init__(self, length: int, width: int, dtype: torch.dtype):
        self.length = length
        self.width = width
        self.dtype = dtype

    def __len__(self) -> int:
        return ROWS

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        with unset_fake_temporarily():
            mask = torch.ones(len(rows), self.length, dtype=torch.bool)
            return torch.zeros(mask.numel(), self.width, dtype=self.dtype), mask


@dataclass(frozen=True)
class Planned:
    """A parent that is planned; see `hdbench.stages.context.Parent`."""

    stage: Stage

    @property
    def config(self) -> Any:
        return self.stage.config

    @property
    def folder(self) -> Path:
        return Path(self.stage.id)

    @property
    def manifest(self) -> dict[str, Any]:
        return {"kind": self.stage.kind, "sampled": [0, ROWS, 1]}


@dataclass(frozen=True, kw_only=True)
class Rehearsed(Context):
    """A stage's context whose parents need not be there."""

    plan: Plan
    made: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def parent(self, role: str) -> Any:
        return Planned(self.plan.stage(self.stage.parents[role]))

    def weights(self, role: str) -> dict[str, Tensor]:
        stage = self.parent(role).stage
        if stage.id not in self.made:
            self.made[stage.id] = self.new_weights(stage)
        return self.made[stage.id]

    def new_weights(self, stage: Stage) -> dict[str, Tensor]:
        if stage.kind == "classifier":
            return Classifier(stage.config.network, **of_classifier(self.dataset())).state_dict()
        if stage.kind == "autoencoder":
            return autoencoder_of(stage.config).state_dict()
        if stage.kind == "clip":
            return new_clip(self, stage.config.model).state_dict()
        network = stage.config.network.build(
            **shape(stage.config.shape),
            mean_velocity=stage.kind != "teacher",
            conditions=self.conditions(),
        )
        return network.state_dict()

    def rows(self, split: str) -> tuple[Tensor, Tensor]:
        suite = self.plan.suite
        seen = suite.shape if "latents" in self.stage.parents else suite.data_shape
        images = torch.empty(ROWS, *seen.dimensions)
        with unset_fake_temporarily():  # the host looks at labels
            return images, torch.zeros(ROWS, dtype=torch.int64)

    def ode_pairs(self) -> tuple[Tensor, Tensor, Tensor] | None:
        if "pairs" not in self.stage.parents:
            return None
        x, labels = self.rows("train")
        return torch.empty_like(x), x, labels

    def conditions(self) -> Conditions | None:
        text = self.plan.suite.text
        if text is None or not isinstance(self.plan.suite.network, SanaConfig):
            return None
        stored = torch.bfloat16 if text.model_dump().get("dtype") == "bfloat16" else torch.float32
        return Prompts(text.tokens, self.plan.suite.network.caption_width, stored)

    def autoencoder(self, config: AutoencoderConfig) -> Autoencoder:
        kind = getattr(diffusers, PUBLIC[config.name][0])
        model = kind(latent_channels=config.channels, **AUTOENCODERS[config.name])
        return Autoencoder(config, model.to(self.device).requires_grad_(False))
