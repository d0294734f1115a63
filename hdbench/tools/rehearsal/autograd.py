"""Backward passes without a GPU: PyTorch's own nodes, in its own order.

Its engine asks the CUDA driver for streams before it runs a node on a CUDA device, so fake CUDA
tensors have no backward on a machine without one.  Here the graph is walked from Python: a node is
run once all its gradients are there, that of the highest sequence number first, and what it saved
is dropped when it is done, as the engine does.  Unlike it, `torch.autograd.grad` of some inputs
runs whole nodes, gradients of other parameters included.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge, saved_tensors_hooks

NO_TASK = -1  # what PyTorch says outside a backward pass


class Saved:
    """What a node has saved, until it is run."""

    def __init__(self, tensor: Tensor):
        self.tensor: Tensor | None = tensor


class Engine:
    """Runs backward passes; `run` has the signature of PyTorch's engine."""

    def __init__(self):
        self.opened: list[Saved] = []
        self.task = NO_TASK
        self.tasks = itertools.count()

    def unpack(self, saved: Saved) -> Tensor | None:
        self.opened.append(saved)
        return saved.tensor

    def run(
        self,
        outputs: Sequence[Tensor],
        gradients: Sequence[Tensor | None],
        retain_graph: bool,
        create_graph: bool,
        inputs: Sequence[Any],
        allow_unreachable: bool = False,
        accumulate_grad: bool = False,
    ) -> tuple[Tensor | None, ...]:
        """Gradients of the inputs, or those of the leaves accumulated where there are none."""
        task, self.task = self.task, next(self.tasks)
        try:
            with torch.set_grad_enabled(create_graph):
                walk = Walk(self, [get_gradient_edge(x) for x in inputs], retain_graph)
                return walk.run([get_gradient_edge(x) for x in outputs], gradients)
        finally:
            self.task = task


class Walk:
    """One backward pass."""

    def __init__(self, engine: Engine, wanted: Sequence[Any], retain_graph: bool):
        self.engine = engine
        self.wanted = {(edge.node, edge.output_nr): row for row, edge in enumerate(wanted)}
        self.retain_graph = retain_graph
        self.buffers: dict[Any, dict[int, Tensor]] = {}
        self.ready: list[tuple[float, int, Any]] = []
        self.ties = itertools.count()

    def run(
        self, roots: Sequence[Any], gradients: Sequence[Tensor | None]
    ) -> tuple[Tensor | None, ...]:
        results: list[Tensor | None] = [None] * len(self.wanted)
        nodes = [root.node for root in roots]
        waiting, on_the_way = self.look(nodes)
        for root, gradient in zip(roots, gradients, strict=True):
            self.add(root.node, root.output_nr, gradient)
        for node in dict.fromkeys(nodes):
            if not waiting.get(node):
                self.push(node)
        while self.ready:
            node = heapq.heappop(self.ready)[-1]
            buffer = self.buffers.pop(node, {})
            for (target, number), row in self.wanted.items():
                if target is node:
                    results[row] = buffer.get(number)
            outputs = self.apply(node, buffer) if buffer and node in on_the_way else ()
            del buffer
            for number, (following, place) in enumerate(node.next_functions):
                if following is None:
                    continue
                if outputs:
                    self.add(following, place, outputs[number])
                waiting[following] -= 1
                if not waiting[following]:
                    self.push(following)
            del outputs
        return tuple(results)

    def look(self, roots: Iterable[Any]) -> tuple[dict[Any, int], set[Any]]:
        """How many nodes each waits for, and those that are to run: all, or on a way to inputs."""
        parents: dict[Any, list[Any]] = {}
        nodes: set[Any] = set()
        stack = list(roots)
        while stack:
            node = stack.pop()
            if node in nodes:
                continue
            nodes.add(node)
            for following, _ in node.next_functions:
                if following is not None:
                    parents.setdefault(following, []).append(node)
                    stack.append(following)
        waiting = {node: len(before) for node, before in parents.items()}
        if not self.wanted:
            return waiting, nodes
        on_the_way: set[Any] = set()
        stack = [parent for node, _ in self.wanted for parent in parents.get(node, [])]
        while stack:
            node = stack.pop()
            if node not in on_the_way:
                on_the_way.add(node)
                stack += parents.get(node, [])
        return waiting, on_the_way

    def push(self, node: Any) -> None:
        """A leaf's gradient is accumulated at once."""
        order = -node._sequence_nr() if node.next_functions else -math.inf
        heapq.heappush(self.ready, (order, next(self.ties), node))

    def add(self, node: Any, number: int, gradient: Tensor | None) -> None:
        if gradient is None:
            return
        about = node._input_metadata[number]
        if gradient.shape != about.shape:
            gradient = gradient.sum_to_size(about.shape)
        gradient = gradient.to(about.dtype)
        buffer = self.buffers.setdefault(node, {})
        buffer[number] = buffer[number] + gradient if number in buffer else gradient

    def apply(self, node: Any, buffer: dict[int, Tensor]) -> tuple[Tensor | None, ...]:
        gradients = [buffer.get(number) for number in range(len(node._input_metadata))]
        buffer.clear()
        opened = self.engine.opened
        before = len(opened)
        outputs = node(*gradients)
        if not self.retain_graph:
            for saved in opened[before:]:
                saved.tensor = None
        del opened[before:]
        return outputs if isinstance(outputs, tuple) else (outputs,)


@contextmanager
def walked() -> Iterator[None]:
    """Inside, backward passes of graphs made inside are walked."""
    engine = Engine()
    task: Callable[[], int] = lambda: engine.task  # noqa: E731
    with ExitStack() as stack:
        # gradient checkpointing computes again once a pass, which it knows by its number
        stack.enter_context(mock.patch.object(torch._C, "_current_graph_task_id", task))
        stack.enter_context(mock.patch.object(torch.autograd, "_engine_run_backward", engine.run))
        stack.enter_context(saved_tensors_hooks(Saved, engine.unpack))
        yield
