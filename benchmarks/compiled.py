"""A compiled training step over an eager one, side by side: ratio of CPU seconds, and difference.

In one process, steps of both alternate from the same weights and draws, so that a ratio is paired
and a drifting machine cancels.  Steps are whole: draws, all passes, clipping, AdamW, average.  The
difference is the largest of the averaged weights after the steps, over the largest change of one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

import torch
from step_cost import OBJECTIVES, new_trainer, training_of

from hdbench.core.runtime import set_up
from hdbench.stages.compiling import compiled, compiler_is_there
from hdbench.stages.trainer import Trainer

CASES = ("meanflow, guided", "dmd, guided", "dmd + patch on teacher")


def trainer_of(name: str, width: int, depth: int, batch: int) -> Trainer:
    objective, guidance = OBJECTIVES[name]
    torch.manual_seed(0)
    return new_trainer(training_of(objective, batch), guidance, width, depth, torch.device("cpu"))


def seconds(trainer: Trainer) -> float:
    begun = time.process_time()
    trainer.train_step()
    return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objective", choices=CASES, nargs="+", default=CASES)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    set_up(1, "cpu")
    if not compiler_is_there("cpu"):
        raise SystemExit(2)
    print(
        f"width {options.width}, depth {options.depth}, 64 tokens, batch {options.batch}, one "
        "thread; seconds of an eager step over those of a compiled one, quartiles"
    )
    for name in options.objective:
        sizes = options.width, options.depth, options.batch
        eager, fast = (trainer_of(name, *sizes) for _ in range(2))
        start = {key: value.clone() for key, value in eager.ema.items()}
        fast.updates = [replace(update, loss=compiled(update.loss)) for update in fast.updates]
        begun = time.process_time()
        fast.train_step()
        compilation = time.process_time() - begun
        eager.train_step()
        times = [(seconds(eager), seconds(fast)) for _ in range(options.repeats)]
        low, ratio, high = statistics.quantiles((slow / quick for slow, quick in times), n=4)
        milliseconds = 1000 * statistics.median(slow for slow, _ in times)
        change = max(float((eager.ema[key] - start[key]).abs().max()) for key in start)
        error = max(float((eager.ema[key] - fast.ema[key]).abs().max()) for key in start) / change
        print(
            f"{name:24} eager {milliseconds:7.0f} ms  {ratio:.2f} ({low:.2f} to {high:.2f}); "
            f"difference {error:.0e}; the first step took {compilation:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
