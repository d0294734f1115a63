"""One forward-mode pass for a network's value, with its graph, and its directional derivative.

PyTorch's own forward mode multiplies every linear layer's input by a materialised zero tangent of
the weight and records a graph for tangents that nobody walks.  Here the seven operations that carry
the cost have their rule written out: the value is computed once, as ever, and the tangent beside it
without a graph.  All other operations keep PyTorch's rules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

Dual = tuple[Tensor, Tensor]  # (value, tangent)
Term = tuple[Any, Tensor | None]  # of a sum or product: what does not move has no tangent
LEVEL = 0  # PyTorch has no other, and torch.compile asks for it
QUERIES = 128  # whose weights attention's tangent holds at once


def _linear(x: Dual, weight: Tensor, bias: Tensor | None = None) -> Dual:
    """y = x W' + b, dy = dx W'."""
    y = F.linear(x[0], weight, bias)
    with torch.no_grad():
        return y, F.linear(x[1], weight)


def _conv2d(x: Dual, weight: Tensor, bias: Tensor | None = None, *options, **more) -> Dual:
    """y = w * x + b, dy = w * dx."""
    y = F.conv2d(x[0], weight, bias, *options, **more)
    with torch.no_grad():
        return y, F.conv2d(x[1], weight, None, *options, **more)


def _gelu(x: Dual, approximate: str = "none") -> Dual:
    """dy = gelu'(x) dx."""
    y = F.gelu(x[0], approximate=approximate)
    with torch.no_grad():
        return y, torch.ops.aten.gelu_backward(x[1], x[0], approximate=approximate)


def _layer_norm(x: Dual, shape, weight=None, bias=None, eps: float = 1e-5) -> Dual:
    """y = (x - mean x) s, s = 1 / sd over the last axis; dy = s (dx - mean dx - y mean(y dx)).

    Both times the weight, y plus the bias.
    """
    if len(shape) != 1:
        raise NotImplementedError("jvp of layer_norm over more than the last axis")
    y, _, s = torch.native_layer_norm(x[0], shape, None, None, eps)
    with torch.no_grad():
        dx = x[1]
        dy = dx - dx.mean(-1, keepdim=True)
        dy -= y * (y * dx).mean(-1, keepdim=True)
        dy *= s
        dy = dy if weight is None else dy * weight
    if weight is not None:
        y = y * weight if bias is None else torch.addcmul(bias, y, weight)
    return y, dy


def _attention(
    q: Dual, k: Dual, v: Dual, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **_
) -> Dual:
    """y = P v, P = softmax(S), S = q k' scale + mask; dy = (P o dS) v + P dv - sum_j (P o dS) y.

    The value is PyTorch's own, which keeps no weights; the tangent makes those of `QUERIES` at a
    time again, and drops them.
    """
    if is_causal or dropout_p or (attn_mask is not None and attn_mask.dtype == torch.bool):
        raise NotImplementedError(
            "jvp of attention that is causal, drops out, or has a boolean mask: give an additive "
            "mask"
        )
    scale = q[0].shape[-1] ** -0.5 if scale is None else scale
    y = F.scaled_dot_product_attention(q[0], k[0], v[0], attn_mask=attn_mask, scale=scale)
    with torch.no_grad():
        if attn_mask is not None:
            attn_mask = attn_mask.expand(*attn_mask.shape[:-2], *q[0].shape[-2:-1], -1)

        def tangent(rows: slice) -> Tensor:
            qs, dqs = (x[..., rows, :] * scale for x in q)
            scores = qs @ k[0].mT
            p = torch.softmax(
                scores if attn_mask is None else scores + attn_mask[..., rows, :], dim=-1
            )
            pds = dqs @ k[0].mT
            pds += qs @ k[1].mT
            pds *= p
            dy = pds @ v[0]
            dy += p @ v[1]
            dy -= pds.sum(-1, keepdim=True) * y[..., rows, :]
            return dy

        starts = range(0, y.shape[-2], QUERIES)
        return y, torch.cat([tangent(slice(at, at + QUERIES)) for at in starts], dim=-2)


def _add(x: Term, y: Term, alpha: float = 1) -> Dual:
    """d(x + alpha y) = dx + alpha dy."""
    value = torch.add(x[0], y[0], alpha=alpha)
    with torch.no_grad():
        if x[1] is not None and y[1] is not None:
            return value, torch.add(x[1], y[1], alpha=alpha)
        tangent = x[1] if y[1] is None else alpha * y[1]
        return value, tangent.expand_as(value).to(value.dtype, copy=True)


def _mul(x: Term, y: Term) -> Dual:
    """d(x y) = y dx + x dy."""
    value = x[0] * y[0]
    with torch.no_grad():
        if x[1] is None or y[1] is None:
            return value, x[0] * y[1] if x[1] is None else y[0] * x[1]
        tangent = y[0] * x[1]
        tangent += x[0] * y[1]
        return value, tangent


# function: (rule, how many leading arguments may be dual, whether some or all of them must be)
_RULES = {
    F.linear: (_linear, 1, all),
    F.conv2d: (_conv2d, 1, all),
    F.gelu: (_gelu, 1, all),
    F.layer_norm: (_layer_norm, 1, all),
    F.scaled_dot_product_attention: (_attention, 3, all),
    Tensor.add: (_add, 2, any),
    Tensor.mul: (_mul, 2, any),
}


def _unpacked(x: Any) -> Term:
    return forward_ad.unpack_dual(x, level=LEVEL) if isinstance(x, Tensor) else (x, None)


class _LeanRules(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        rule, duals, needed = _RULES.get(function, (None, 0, any))
        unpacked = [_unpacked(x) for x in args[:duals]]
        if rule is None or not needed(tangent is not None for _, tangent in unpacked):
            return function(*args, **(kwargs or {}))
        value, tangent = rule(*unpacked, *args[duals:], **(kwargs or {}))
        return forward_ad.make_dual(value, tangent, level=LEVEL)


def jvp(
    function: Callable[..., Tensor], primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """(f(primals), J_f(primals) tangents): the value with its autograd graph, the other without.

    Both come from one pass, without autocast; the derivative adds about one forward to the value's
    one.  Shapes are those that `function` takes and returns; a tangent has the shape and dtype of
    its primal.
    """
    with (
        torch.autocast(primals[0].device.type, enabled=False),
        forward_ad.dual_level(),
        _LeanRules(),
    ):
        dual = function(
            *(
                forward_ad.make_dual(p, q, level=LEVEL)
                for p, q in zip(primals, tangents, strict=True)
            )
        )
        value, tangent = forward_ad.unpack_dual(dual, level=LEVEL)
        return value, tangent.detach()
