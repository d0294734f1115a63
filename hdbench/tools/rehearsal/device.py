"""A CUDA device that is not there: shapes, dtypes and devices as on a GPU, and no numbers."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import hdbench
from hdbench.networks.base import dual
from hdbench.tools.rehearsal.autograd import walked

aten = torch.ops.aten
CUDA = torch.device("cuda", 0)
PLAIN = F.scaled_dot_product_attention
PACKAGE = Path(hdbench.__file__).parent
INITIALISERS = [name for name in vars(nn.init) if name.endswith("_") and name[0] != "_"]


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Inside, tensors are fake, and those on `CUDA` behave as on a GPU, autocast included."""
    with ExitStack() as stack:
        for path, value in {
            "torch.cuda.amp.common.amp_definitely_not_available": lambda: False,
            "torch.cuda.is_bf16_supported": lambda *arguments: True,
            "torch.nn.Module._apply": _apply,
            "torch.nn.functional.scaled_dot_product_attention": attention,
        }.items():
            stack.enter_context(mock.patch(path, value))
        for name in INITIALISERS:  # a third of the time, for values that are not there
            stack.enter_context(mock.patch.object(nn.init, name, unchanged))
        stack.enter_context(walked())
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield


def unchanged(tensor: Tensor, *arguments: Any, **options: Any) -> Tensor:
    return tensor


def _apply(module: nn.Module, function: Callable[[Tensor], Tensor], recurse: bool = True):
    """As nn.Module's, which wants to swap parameters, and fake ones cannot be swapped."""
    moved: dict[int, Tensor] = {}
    for submodule in module.modules():
        for tensors in (submodule._parameters, submodule._buffers):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if id(tensor) not in moved:
                    with torch.no_grad():
                        value = function(tensor)
                    if isinstance(tensor, nn.Parameter):
                        value = nn.Parameter(value, tensor.requires_grad)
                    moved[id(tensor)] = value
                tensors[name] = moved[id(tensor)]
    return module


def attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, *arguments, **options
) -> Tensor:
    """As on a GPU: flash attention in half precision, else the memory-efficient one.

    PyTorch takes its plain one for fake tensors, which keeps all weights.
    """
    if q.device != CUDA or dual(q, k, v) or arguments or options.get("is_causal"):
        return PLAIN(q, k, v, attn_mask, *arguments, **options)
    if torch.is_autocast_enabled("cuda"):
        q, k, v = (x.to(torch.get_autocast_dtype("cuda")) for x in (q, k, v))
    scale = options.get("scale")
    if attn_mask is None and q.dtype != torch.float32 and q.shape[-1] % 8 == 0:
        return aten._scaled_dot_product_flash_attention(q, k, v, scale=scale)[0]
    if attn_mask is not None:
        attn_mask = attn_mask.to(q.dtype).expand(*q.shape[:-1], k.shape[-2])
    log_sums = torch.is_grad_enabled()
    return aten._scaled_dot_product_efficient_attention(q, k, v, attn_mask, log_sums, scale=scale)[
        0
    ]


def place(frames: traceback.StackSummary) -> str:
    """`file:line` of the innermost frame in hdbench, rehearsals excepted."""
    for frame in reversed(frames):
        path = Path(frame.filename)
        passing = "rehearsal" in path.parts or frame.name == "__torch_function__"
        if path.is_relative_to(PACKAGE) and not passing:
            return f"{path.relative_to(PACKAGE.parent)}:{frame.lineno}"
    return "a backward pass"
