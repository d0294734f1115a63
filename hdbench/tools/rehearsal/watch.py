"""What a step does on a device: FLOPs, memory by category, and where the host would wait."""

from __future__ import annotations

import traceback
import weakref
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from hdbench.tools.rehearsal.device import CUDA, place

aten = torch.ops.aten
BLOCK = 512  # bytes that CUDA's allocator rounds up to
ACTIVATIONS = "activations"
CATEGORIES = ("parameters", "gradients", "optimizer", ACTIVATIONS)
# results whose size or value the host must read
READING = {
    aten._local_scalar_dense.default,
    aten.is_nonzero.default,
    aten.equal.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
}


def attention_flops(query, key, value, width, heads, *arguments, out_val=None, **options) -> int:
    """Of PyTorch's fused attention layer, which its counter does not know: (B, N, d) tokens."""
    b, n, _ = query.shape
    return 2 * b * n * width * (4 * width + 2 * n)


FORMULAS = flop_registry | {aten._native_multi_head_attention: attention_flops}
CONVOLUTIONS = {aten.convolution, aten._convolution, aten.convolution_backward}
MOVING = {aten._to_copy.default, aten.copy_.default, aten.clone.default, aten.detach.default}


class Watch(TorchDispatchMode):
    """Of all operations inside on `device`; what the host does alone has real numbers."""

    def __init__(self, device: torch.device = CUDA):
        super().__init__()
        self.device = device
        self.flops: Counter[str] = Counter()
        """By precision."""
        self.waits: Counter[str] = Counter()
        """Places where the host waits for the device, or a copy does."""
        self.doubles: Counter[str] = Counter()
        """Places that compute in float64."""
        self.to_device = 0
        """Bytes copied from the host."""
        self.total = 0
        self.sizes: Counter[str] = Counter()
        self.peak = 0
        self.at_peak: dict[str, int] = {}
        self.held: dict[int, tuple[str, int]] = {}
        self.references: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if of_host(inputs, kwargs.get("device")):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        on_device = any(x.device == self.device for x in inputs)
        on_host = any(x.device.type == "cpu" and x.dim() for x in inputs)
        bool_index = func in (aten.index.Tensor, aten.index_put_.default) and any(
            x.dtype == torch.bool for x in inputs[1:]
        )
        if on_device and (func in READING or bool_index):
            self.waits[f"{func} in {here()}"] += 1
        out = func(*args, **kwargs)
        tensors = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        for x in tensors:
            self.hold(x, ACTIVATIONS)
        self.count_copies(func, inputs, tensors, on_device and on_host)
        if func not in MOVING and any(
            x.dtype == torch.float64 and x.device == self.device for x in tensors
        ):
            self.doubles[here()] += 1
        if formula := FORMULAS.get(func._overloadpacket):
            self.flops[precision(func, tensors)] += formula(*args, **kwargs, out_val=out)
        return out

    def count_copies(self, func: Any, inputs: list[Tensor], out: list[Tensor], mixed: bool) -> None:
        """Between host and device, asked for or, as an index, in passing."""
        if func is aten._to_copy.default:
            source, target = inputs[0], out[0]
        elif func is aten.copy_.default:
            target, source = inputs
        else:
            if mixed:
                self.waits[f"{func} of tensors on both devices in {here()}"] += 1
            return
        if source.device == target.device:
            return
        if target.device == self.device:
            self.to_device += source.nbytes
        elif source.device == self.device:
            self.waits[f"copy to the host in {here()}"] += 1

    def hold(self, tensor: Tensor, category: str) -> None:
        """Count a tensor's storage until it is freed; a later category takes the former's place."""
        if tensor.device != self.device:
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.held:
            before, size = self.held[key]
            if category == ACTIVATIONS:
                return
            self.sizes[before] -= size
            self.total -= size
        else:
            size = -(-storage.nbytes() // BLOCK) * BLOCK
            self.references[key] = weakref.ref(storage, lambda _, key=key: self.release(key))
        self.held[key] = category, size
        self.sizes[category] += size
        self.total += size
        if self.total > self.peak:
            self.peak = self.total
            self.at_peak = dict(self.sizes)

    def hold_all(self, tensors: Iterable[Tensor], category: str) -> None:
        for tensor in tensors:
            self.hold(tensor, category)

    def release(self, key: int) -> None:
        category, size = self.held.pop(key)
        del self.references[key]
        self.sizes[category] -= size
        self.total -= size


def precision(func: Any, out: list[Tensor]) -> str:
    """In which a product is computed: float32's convolutions in TF32, PyTorch's default."""
    if out[0].dtype in (torch.bfloat16, torch.float16):
        return "bfloat16"
    return "tfloat32" if func._overloadpacket in CONVOLUTIONS else "float32"


def of_host(inputs: list[Tensor], device: torch.device | None) -> bool:
    """Whether an operation neither reads nor makes a fake tensor."""
    is_fake = any(isinstance(x, FakeTensor) for x in inputs)
    return not is_fake and (device is None or device.type == "cpu")


def here() -> str:
    return place(traceback.extract_stack())
