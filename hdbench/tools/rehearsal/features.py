"""A batch of images through the networks that a protocol measures with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from hdbench.evaluation.extractors import (
    EXTRACTORS,
    Setup,
    clip,
    encoders,
    inception,
    perceptual,
    preference,
)
from hdbench.tools.rehearsal.device import CUDA

BATCH = 32  # hdbench.evaluation.features.Settings.batch


@contextmanager
def without_weights() -> Iterator[None]:
    """Inside, networks are built and no file is read; features on the host are zeros."""
    same = nn.modules.module._IncompatibleKeys([], [])
    zeros = lambda x, *arguments, **options: np.zeros(tuple(x.shape), np.float32)  # noqa: E731
    with ExitStack() as stack:
        stack.enter_context(mock.patch("torch.linspace", on_host(torch.linspace)))
        for kind in (encoders.TimmEncoder, *encoders.TimmEncoder.__subclasses__()):
            stack.enter_context(mock.patch.object(kind, "tensors", lambda weights: {}))
        for module in (clip, encoders, inception, perceptual, preference):
            stack.enter_context(mock.patch.object(module, "read_tensors", lambda *arguments: {}))
        stack.enter_context(mock.patch.object(clip, "read_clip", lambda weights: {}))
        stack.enter_context(
            mock.patch.object(nn.Module, "load_state_dict", lambda *arguments, **options: same)
        )
        stack.enter_context(mock.patch("torch.Tensor.numpy", zeros))
        yield


def on_host(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function with real numbers: constructors of networks read theirs."""

    def real(*arguments: Any, **options: Any) -> Tensor:
        with unset_fake_temporarily():
            return function(*arguments, **options)

    return real


def load(name: str, resolution: int | None) -> Any:
    """An extractor with all its layers."""
    kind = EXTRACTORS[name]
    weights: Any = SimpleNamespace(path=Path("weights"), file=Path("weights"), sha256="")
    setup = Setup(device=CUDA, resolution=resolution)
    return kind(kind.load(weights, setup), weights, tuple(kind.dimensions), setup)


def modules_of(loaded: Any) -> list[nn.Module]:
    """The networks in what an extractor's `load` returns."""
    if isinstance(loaded, inception.Inception):
        return [loaded.body]
    fields = loaded if isinstance(loaded, tuple) else (loaded,)
    return [field for field in fields if isinstance(field, nn.Module)]
