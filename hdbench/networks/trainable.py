"""Which parameters of a network a stage trains: some frozen, or low-rank changes of its matrices.

low rank (LoRA, arXiv 2106.09685)  W = W_0 + (alpha / rank) B A,  A (rank, in), B (out, rank)
W_0 and all other parameters stay.  A starts uniform in +- 1 / sqrt(in), as in the authors' code,
and B at zero, so the network starts as it was.  `merged` gives back plain weights, so what a stage
writes has the names and shapes of any other network.
The counted cost is that of training all parameters: frozen ones still pass gradients on.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hdbench.core.config import Config
from hdbench.core.errors import UserError
from hdbench.core.seeds import seeded


class Trainable(Config):
    """What of a network is trained; patterns are of whole names, `*` for any text."""

    freeze: tuple[str, ...] = Field(
        default=(), description="patterns of parameters that stay as they are"
    )
    rank: int | None = Field(
        default=None, ge=1, description="train this rank's change of matrices, and nothing else"
    )
    alpha: float | None = Field(
        default=None, gt=0, description="size of that change; by default the rank"
    )
    adapt: tuple[str, ...] = Field(
        default=("blocks.*",),
        min_length=1,
        description="patterns of the linear layers that `rank` changes",
    )

    @model_validator(mode="after")
    def _one_way(self):
        if self.freeze and self.rank:
            raise ValueError("freeze, rank: with rank all parameters are frozen; give one of them")
        if not self.freeze and not self.rank:
            raise ValueError("give freeze, patterns of parameters, or rank")
        if self.alpha and not self.rank:
            raise ValueError(f"alpha = {self.alpha}: there is no rank; give both")
        return self


class LowRank(nn.Module):
    """W_0 (out, in) -> W_0 + scale B A, a parametrisation of a linear layer's weight."""

    def __init__(self, rows: int, columns: int, rank: int, scale: float, dtype: torch.dtype):
        super().__init__()
        self.scale = scale
        self.down = nn.Parameter(torch.empty(rank, columns, dtype=dtype))
        self.up = nn.Parameter(torch.zeros(rows, rank, dtype=dtype))
        nn.init.uniform_(self.down, -(columns**-0.5), columns**-0.5)

    def forward(self, weight: Tensor) -> Tensor:
        return torch.addmm(weight, self.up, self.down, alpha=self.scale)


def restrict(network: nn.Module, trainable: Trainable, name: str, axes: tuple) -> None:
    """Train what `trainable` says, in place; `name` is the network's in a UserError for patterns
    that match nothing, `axes` those of the seed.
    """
    where = f"training.trainable.{name}"
    if trainable.rank is None:
        parameters = dict(network.named_parameters())
        for pattern in trainable.freeze:
            for key in _matches(where, "freeze", pattern, parameters):
                parameters[key].requires_grad_(False)
        if not any(parameter.requires_grad for parameter in parameters.values()):
            raise UserError(f"{where}.freeze: nothing is left to train; freeze less")
        return
    layers = {key: m for key, m in network.named_modules() if isinstance(m, nn.Linear)}
    chosen = [k for p in trainable.adapt for k in _matches(where, "adapt", p, layers)]
    network.requires_grad_(False)
    scale = (trainable.alpha or trainable.rank) / trainable.rank
    for key in dict.fromkeys(chosen):
        weight = layers[key].weight
        rows, columns = weight.shape
        with seeded(*axes, name, key):
            change = LowRank(rows, columns, trainable.rank, scale, weight.dtype)
        change.to(weight.device)
        parametrize.register_parametrization(layers[key], "weight", change, unsafe=True)


def _matches(where: str, field: str, pattern: str, named: Mapping[str, object]) -> list[str]:
    matches = [key for key in named if fnmatchcase(key, pattern)]
    if not matches:
        shown = ", ".join(list(named)[:6])
        raise UserError(f"{where}.{field}: {pattern!r} matches none of {shown}, ...; change it")
    return matches


def merged(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state of the network, parametrised or not, as that of the plain network."""
    plain = {key: value for key, value in state.items() if ".parametrizations." not in key}
    for key, module in network.named_modules():
        if not parametrize.is_parametrized(module, "weight"):
            continue
        parametrizations: Any = module.parametrizations
        change = parametrizations["weight"][0]
        prefix = f"{key}.parametrizations.weight"
        names = ("original", "0.up", "0.down")
        weight, up, down = (state[f"{prefix}.{name}"] for name in names)
        plain[f"{key}.weight"] = torch.addmm(weight, up, down, alpha=change.scale)
    return plain
