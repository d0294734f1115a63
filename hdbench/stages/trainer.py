"""The training loop of every stage: it knows updates, not methods.

A step runs each update `repeats` times.  Every random tensor is a function of (seed axes, step,
update, repeat), so the step number *is* the state of the random numbers, and a run that was killed
and resumed ends with the same bits.

With several ranks each draws and computes its rows [rank::world] of the global batch.  Gradients
are averaged after backward, not by wrapping in DistributedDataParallel: an update calls networks
several times, partly frozen and in forward mode, and its forward hooks do not follow that.
"""

from __future__ import annotations

import json
import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from hdbench.core import distributed, sharding
from hdbench.core.errors import Divergence
from hdbench.core.seeds import Draws
from hdbench.methods.base import Batch, Update
from hdbench.suite.training import Training

LIMIT = 1e8  # a loss beyond this has diverged
WINDOW = 50  # steps whose scalars are read from the device at once


def learning_rate_factor(schedule: str, step: int, steps: int) -> float:
    """Factor on the learning rate at `step` of `steps`, from 0: 1, or half a cosine from 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * step / steps)) if schedule == "cosine" else 1.0


def trainable_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Those that take a gradient now, in the module's order."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


class Trainer:
    """Networks, optimisers, EMA and history of a stage; `state` and `load_state` are exact.

    With `sharded` "fsdp2" the trained networks are sharded over the ranks, if there are several;
    else each rank has a replica.
    """

    def __init__(
        self,
        updates: list[Update],
        training: Training,
        student: nn.Module,
        axes: tuple[str | int, ...],
        images: Tensor,
        labels: Tensor,
        sharded: str = "none",
    ):
        self.updates = updates
        self.training = training
        self.student = student
        self.axes = axes
        self.images = images
        self.labels = labels
        self.step = 0
        self.device = next(student.parameters()).device
        self.sharded = sharded == "fsdp2" and distributed.world_size() > 1
        if self.sharded:
            for module in self.modules().values():
                sharding.shard(module, self.device)
        self.optimizers = {update.name: self._optimizer(update) for update in updates}
        self.ema = {name: value.detach().clone() for name, value in student.state_dict().items()}
        self.history: dict[str, list[float]] = {}
        """Scalars of every step that was read, by `update/name`: of each update's last repeat."""
        self.pending: list[Tensor] = []
        self.scalars: tuple[str, ...] = ()

    def modules(self) -> dict[str, nn.Module]:
        """What is trained and what only belongs to the state, by name."""
        return {
            name: module
            for update in self.updates
            for name, module in (update.modules | update.frozen).items()
        }

    def _optimizer(self, update: Update) -> torch.optim.Optimizer:
        rates = update.learning_rates
        groups = [
            {"params": trainable_parameters(module), "lr": rates[name], "peak": rates[name]}
            for name, module in update.modules.items()
        ]
        return torch.optim.AdamW(
            groups, betas=self.training.betas, weight_decay=self.training.weight_decay, fused=True
        )

    def train_step(self) -> None:
        """All updates once, in order.  Scalars stay on the device until `read_scalars`."""
        steps = self.training.planned_steps
        schedule = self.training.schedule
        since = 0
        scalars = {}
        for update in self.updates:
            optimizer = self.optimizers[update.name]
            for parameter in update.on_step(self.step, steps) or ():
                optimizer.state.pop(parameter, None)
            now = update.round_of(self.step, steps)
            since = max(since, now.start)
            factor = learning_rate_factor(schedule, self.step - now.start, len(now))
            for group in optimizer.param_groups:
                group["lr"] = factor * group["peak"]
            for repeat in range(update.repeats):
                values = self._backward(update, repeat) | self._clip(update)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            scalars |= {f"{update.name}/{key}": value for key, value in values.items()}
        self._average(min(self.training.ema, (1 + self.step - since) / (10 + self.step - since)))
        full = [sharding.full_tensor(value.detach()) for value in scalars.values()]
        self.pending.append(torch.stack([value.float() for value in full]))
        self.scalars = tuple(scalars)
        self.step += 1
        if len(self.pending) >= WINDOW:
            self.read_scalars()

    def _clip(self, update: Update) -> dict[str, Tensor]:
        """Clip each network's gradient; its norm before, by name."""
        bound = self.training.clip
        return {
            f"{name}_gradient_norm": nn.utils.clip_grad_norm_(module.parameters(), bound)
            for name, module in update.modules.items()
        }

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        """Move the average of weights towards the student's."""
        averages = [sharding.to_local(value) for value in self.ema.values()]
        weights = [sharding.to_local(value) for value in self.student.state_dict().values()]
        get_ema_multi_avg_fn(decay)(averages, weights, None)

    def rows(self, number: int, count: int) -> list[range]:
        """Rows of the global batch in part `number` of `count`, by rank; interleaved."""
        world = distributed.world_size()
        return [
            range(rank + world * number, self.training.batch, world * count)
            for rank in range(world)
        ]

    def _backward(self, update: Update, repeat: int) -> dict[str, Tensor]:
        """Gradients of the mean loss over the global batch; the scalars' means over it.

        A rank's rows go through in parts of at most `micro_batch` rows, equally many on every rank;
        a loss that looks at its batch as a whole (the size of a GAN's gradient) then looks at a
        part.
        """
        world = distributed.world_size()
        batch = self.training.batch
        rows = len(range(distributed.rank(), batch, world))
        share = rows / batch
        limit = self.training.micro_batch or batch
        count = min(math.ceil(math.ceil(batch / world) / limit), batch // world)
        values: dict[str, Tensor] = {}
        for number in range(count):
            b, weight = self._draw(update, repeat, number, count)
            # before 2.11 a cast made under no_grad stayed in the cache, without gradient
            with torch.autocast(
                self.device.type,
                torch.bfloat16,
                self.training.precision == "bfloat16",
                cache_enabled=False,
            ):
                loss, scalars = update.loss(b)
            weight /= rows
            # FSDP2 takes the plain mean over ranks
            (loss * (weight * share * world if self.sharded else weight)).backward()
            values = {
                key: values.get(key, 0) + weight * value.detach() for key, value in scalars.items()
            }
        return values if world == 1 else self._over_ranks(update, values, share)

    def _draw(self, update: Update, repeat: int, number: int, count: int) -> tuple[Batch, int]:
        """Part `number` of `count` of this rank's batch, on its device, and its number of rows."""
        axes = (*self.axes, self.step, update.name, repeat)
        parts = self.rows(number, count)
        rank = distributed.rank()
        draws = Draws(axes, self.images, self.labels, self.training.batch, parts, rank)
        b = {
            name: drawn.to(self.device) if isinstance(drawn, Tensor) else drawn
            for name, drawn in update.draw(draws).items()
        }
        return b, len(parts[rank])

    def _over_ranks(
        self, update: Update, values: dict[str, Tensor], share: float
    ) -> dict[str, Tensor]:
        """Average gradients, unless they are sharded, and scalars over the ranks."""
        averaged = [torch.stack(list(values.values()))]
        if not self.sharded:
            parameters = [p for m in update.modules.values() for p in trainable_parameters(m)]
            for p in parameters:  # all ranks send the same shapes, whichever terms their rows have
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            averaged += [p.grad for p in parameters]
        distributed.average_(averaged, share)
        return dict(zip(values, averaged[0], strict=True))

    def read_scalars(self) -> None:
        """Bring the pending scalars from the device into `history`, once for many steps.

        Divergence, with its step, if one of them is not finite or beyond `LIMIT`.
        """
        if not self.pending:
            return
        first = self.step - len(self.pending)
        table = torch.stack(self.pending).tolist()
        self.pending.clear()
        for step, row in enumerate(table, start=first):
            values = dict(zip(self.scalars, row, strict=True))
            self._check(step, values)
            for key, value in values.items():
                self.history.setdefault(key, []).append(value)

    def _check(self, step: int, values: dict[str, float]) -> None:
        for update in self.updates:
            of_update = {
                key.partition("/")[2]: value
                for key, value in values.items()
                if key.startswith(f"{update.name}/")
            }
            if all(math.isfinite(value) and abs(value) < LIMIT for value in of_update.values()):
                continue
            last = {key: row[-5:] for key, row in self.history.items() if key.endswith("loss")}
            shown = ", ".join(f"{key} {value:.4g}" for key, value in of_update.items())
            raise Divergence(
                f"diverged at step {step} of {self.training.steps}, update {update.name}: {shown}; "
                f"last losses: {json.dumps(last)}"
            )

    def check_weights(self) -> None:
        """Divergence if a weight is not finite: losses were computed before the last update."""
        states = {name: module.state_dict() for name, module in self.modules().items()}
        states["average"] = self.ema
        broken = [
            not all(bool(sharding.to_local(value).isfinite().all()) for value in state.values())
            for state in states.values()
        ]
        for name, is_broken in zip(states, distributed.any_of(*broken), strict=True):
            if is_broken:
                raise Divergence(
                    f"diverged at step {self.step} of {self.training.steps}: the weights of "
                    f"{name} are not finite"
                )

    def check_replicas(self) -> None:
        """Divergence if two ranks hold different weights, whose gradients mean nothing together."""
        if self.sharded or distributed.world_size() == 1:
            return
        states = [*(module.state_dict() for module in self.modules().values()), self.ema]
        bits = [
            value.contiguous().view(torch.int32).sum(dtype=torch.int64)
            for state in states
            for value in state.values()
        ]
        if not distributed.all_equal(int(sum(bits))):
            raise Divergence(
                f"at step {self.step} of {self.training.steps} the ranks hold different "
                "weights: their machines, devices or versions of PyTorch do not compute the same"
            )

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on, as tensors, whole on rank 0; all ranks call it."""
        self.read_scalars()
        tensors = {f"ema/{name}": value for name, value in self.ema.items()}
        for update in self.updates:
            for name, module in (update.modules | update.frozen).items():
                tensors |= {
                    f"module/{name}/{key}": value for key, value in module.state_dict().items()
                }
            for index, values in self.optimizers[update.name].state_dict()["state"].items():
                tensors |= {
                    f"optimizer/{update.name}/{index}/{key}": value for key, value in values.items()
                }
        tensors = {name: sharding.on_rank_0(value) for name, value in tensors.items()}
        return tensors | {
            f"history/{column:03}/{key}": torch.tensor(values, dtype=torch.float64)
            for column, (key, values) in enumerate(self.history.items())
        }

    def load_state(self, tensors: dict[str, Tensor], step: int) -> None:
        """Inverse of `state`; a safetensors file does not keep the order of its tensors."""
        self.step = step

        def under(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.ema = {
            name: sharding.distribute_like(tensors[f"ema/{name}"].to(self.device), value)
            for name, value in self.ema.items()
        }
        self.history = {
            key.partition("/")[2]: value.tolist()
            for key, value in sorted(under("history/").items())
        }
        for update in self.updates:
            for name, module in (update.modules | update.frozen).items():
                current = module.state_dict()
                module.load_state_dict(
                    {
                        key: sharding.distribute_like(value, current[key])
                        for key, value in under(f"module/{name}/").items()
                    }
                )
            optimizer = self.optimizers[update.name]
            state: dict[int, dict[str, Tensor]] = {}
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            for key, value in under(f"optimizer/{update.name}/").items():
                index, name = key.split("/")
                if name != "step":
                    value = sharding.distribute_like(value, parameters[int(index)])
                state.setdefault(int(index), {})[name] = value
            optimizer.load_state_dict(
                {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
            )
