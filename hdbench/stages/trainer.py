"""The training loop of every stage: it knows updates, not methods.

A step runs each update `repeats` times.  Every random tensor is a function of (seed axes, step, update, repeat), so the
step number *is* the state of the random numbers, and a run that was killed and resumed ends with the same bits.

With several ranks each draws the global batch and computes its rows [rank::world].  Gradients are averaged after backward,
not by wrapping in DistributedDataParallel: an update calls networks several times, partly frozen and in forward mode, and
its forward hooks do not follow that.
"""

from __future__ import annotations

import json
import math

import torch
from torch import Tensor, nn

from hdbench.core import distributed
from hdbench.core import sharding as core_sharding
from hdbench.core.errors import Divergence
from hdbench.core.seeds import Draws
from hdbench.methods.base import Batch, Update
from hdbench.suite.schema import Training

LIMIT = 1e8  # a loss beyond this has diverged


def learning_rate_factor(schedule: str, step: int, steps: int) -> float:
    """Factor on the learning rate at `step` of `steps`, counted from 0: 1, or half a cosine from 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * step / steps)) if schedule == "cosine" else 1.0


class Trainer:
    """Networks, optimisers, EMA and history of a stage; `state` and `load_state` are exact.

    With `sharding` "fsdp2" what is trained is spread over the ranks, if there are several; else each has a replica.
    """

    def __init__(
        self,
        updates: list[Update],
        training: Training,
        student: nn.Module,
        axes: tuple[str | int, ...],
        images: Tensor,
        labels: Tensor,
        sharding: str = "none",
    ):
        self.updates, self.training, self.student, self.axes = updates, training, student, axes
        self.images, self.labels, self.step = images, labels, 0
        self.device = next(student.parameters()).device
        self.sharded = sharding == "fsdp2" and distributed.world_size() > 1
        if self.sharded:
            for module in self.modules().values():
                core_sharding.shard(module, self.device)
        self.optimizers = {update.name: self._optimizer(update) for update in updates}
        self.ema = {name: value.detach().clone() for name, value in student.state_dict().items()}
        self.history: dict[str, list[float]] = {}

    def modules(self) -> dict[str, nn.Module]:
        """What is trained and what only belongs to the state, by name."""
        return {
            name: module
            for update in self.updates
            for name, module in (update.modules | update.frozen).items()
        }

    def _optimizer(self, update: Update) -> torch.optim.Optimizer:
        groups = [
            {
                "params": list(module.parameters()),
                "lr": update.learning_rates[name],
                "peak": update.learning_rates[name],
            }
            for name, module in update.modules.items()
        ]
        return torch.optim.AdamW(
            groups, betas=self.training.betas, weight_decay=self.training.weight_decay, fused=True
        )

    def train_step(self) -> dict[str, float]:
        """All updates once, in order; scalars of each update's last repeat, by `update/name`."""
        scalars = {}
        steps = self.training.steps
        factor = learning_rate_factor(self.training.schedule, self.step, steps)
        since = 0
        for update in self.updates:
            update.on_step(self.step, steps)
            since = max(since, update.ema_start(self.step, steps))
            optimizer = self.optimizers[update.name]
            for group in optimizer.param_groups:
                group["lr"] = factor * group["peak"]
            for repeat in range(update.repeats):
                draws = Draws(
                    (*self.axes, self.step, update.name, repeat),
                    self.images,
                    self.labels,
                    self.training.batch,
                )
                batch = {
                    name: drawn[distributed.rank() :: distributed.world_size()].to(self.device)
                    for name, drawn in update.draw(draws).items()
                }
                values = self._backward(update, batch)
                norms = {
                    f"{name}_gradient_norm": nn.utils.clip_grad_norm_(
                        module.parameters(), self.training.clip
                    )
                    for name, module in update.modules.items()
                }
                found = {
                    key: float(core_sharding.whole(value.detach()))
                    for key, value in (values | norms).items()
                }
                self._check(update.name, found)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            scalars |= {f"{update.name}/{key}": value for key, value in found.items()}
        decay = min(self.training.ema, (1 + self.step - since) / (10 + self.step - since))
        torch._foreach_lerp_(
            *(
                [core_sharding.own_part(value) for value in values.values()]
                for values in (self.ema, self.student.state_dict())
            ),
            1 - decay,
        )
        for key, value in scalars.items():
            self.history.setdefault(key, []).append(value)
        self.step += 1
        return scalars

    def _backward(self, update: Update, b: Batch) -> dict[str, Tensor]:
        """Gradients of the mean over the global batch, of which these rows are this rank's, and the scalars' means over it.

        They go through in parts of at most `micro_batch` rows, equally many on every rank; a loss that looks at its batch as
        a whole (the size of a GAN's gradient) then looks at a part.
        """
        ranks, batch, own = (
            distributed.world_size(),
            self.training.batch,
            len(next(iter(b.values()))),
        )
        share, values = own / batch, {}
        parts = min(
            math.ceil(math.ceil(batch / ranks) / (self.training.micro_batch or batch)),
            batch // ranks,
        )
        split = {name: drawn.tensor_split(parts) for name, drawn in b.items()}
        for number in range(parts):
            part = {name: tensors[number] for name, tensors in split.items()}
            with torch.autocast(
                self.device.type,
                torch.bfloat16,
                self.training.precision == "bfloat16",
                cache_enabled=False,
            ):  # before 2.11 a cast made under no_grad stayed there, without gradient
                loss, found = update.loss(part)
            weight = len(next(iter(part.values()))) / own
            (
                loss * (weight * share * ranks if self.sharded else weight)
            ).backward()  # FSDP2 takes the plain mean over ranks
            values = {
                key: values.get(key, 0) + weight * value.detach() for key, value in found.items()
            }
        if ranks == 1:
            return values
        averaged = [torch.stack(list(values.values()))]
        if not self.sharded:
            parameters = [
                parameter for module in update.modules.values() for parameter in module.parameters()
            ]
            for (
                parameter
            ) in parameters:  # all ranks must send the same shapes, whichever terms their rows have
                parameter.grad = (
                    torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                )
            averaged += [parameter.grad for parameter in parameters]
        distributed.average_(averaged, share)
        return dict(zip(values, averaged[0]))

    def _check(self, update: str, found: dict[str, float]) -> None:
        if all(math.isfinite(value) and abs(value) < LIMIT for value in found.values()):
            return
        last = {key: values[-5:] for key, values in self.history.items() if key.endswith("loss")}
        raise Divergence(
            f"diverged at step {self.step} of {self.training.steps}, update {update}: "
            + ", ".join(f"{key} {value:.4g}" for key, value in found.items())
            + "; last losses: "
            + json.dumps(last)
        )

    def check_weights(self) -> None:
        """Divergence if a weight is not finite: the losses of the step that spoilt it came before its update."""
        states = {name: module.state_dict() for name, module in self.modules().items()} | {
            "average": self.ema
        }
        finite = [
            all(bool(core_sharding.own_part(value).isfinite().all()) for value in state.values())
            for state in states.values()
        ]
        for name, broken in zip(states, distributed.any_of(*(not each for each in finite))):
            if broken:
                raise Divergence(
                    f"diverged at step {self.step} of {self.training.steps}: the weights of {name} are not "
                    "finite"
                )

    def check_replicas(self) -> None:
        """Divergence if two ranks hold different weights: they would average gradients of different networks."""
        if self.sharded or distributed.world_size() == 1:
            return
        states = [*(module.state_dict() for module in self.modules().values()), self.ema]
        bits = [
            value.contiguous().view(torch.int32).sum(dtype=torch.int64)
            for state in states
            for value in state.values()
        ]
        if not distributed.same(int(sum(bits))):
            raise Divergence(
                f"at step {self.step} of {self.training.steps} the ranks hold different weights: their "
                "machines, devices or versions of PyTorch do not compute the same"
            )

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, as flat tensors, whole on rank 0; all ranks call it."""
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
        tensors = {name: core_sharding.on_rank_0(value) for name, value in tensors.items()}
        return tensors | {
            f"history/{column:03}/{key}": torch.tensor(values, dtype=torch.float64)
            for column, (key, values) in enumerate(self.history.items())
        }

    def load_state(self, tensors: dict[str, Tensor], step: int) -> None:
        """Inverse of `state`; a safetensors file does not keep the order of its tensors."""
        self.step = step
        under = lambda prefix: {
            k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)
        }
        self.ema = {
            name: core_sharding.spread_like(tensors[f"ema/{name}"].to(self.device), value)
            for name, value in self.ema.items()
        }
        self.history = {
            key.partition("/")[2]: value.tolist()
            for key, value in sorted(under("history/").items())
        }
        for update in self.updates:
            for name, module in (update.modules | update.frozen).items():
                own = module.state_dict()
                module.load_state_dict(
                    {
                        key: core_sharding.spread_like(value, own[key])
                        for key, value in under(f"module/{name}/").items()
                    }
                )
            optimizer, state = self.optimizers[update.name], {}
            parameters = [
                parameter for group in optimizer.param_groups for parameter in group["params"]
            ]
            for key, value in under(f"optimizer/{update.name}/").items():
                index, name = key.split("/")
                if name != "step":
                    value = core_sharding.spread_like(value, parameters[int(index)])
                state.setdefault(int(index), {})[name] = value
            optimizer.load_state_dict(
                {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
            )
