"""The stages that make data and encode prompts."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from hdbench.core import distributed
from hdbench.core.errors import UserError
from hdbench.core.files import from_json, read_text, write_atomic
from hdbench.core.seeds import seeded
from hdbench.datasets.prompts import read_prompts
from hdbench.methods.base import Problem
from hdbench.networks.text import encode
from hdbench.stages.context import PROMPTS, Context, Payload, progress_of, prompts_of
from hdbench.stages.networks import load_clip, new_clip
from hdbench.stages.train import train


def data(context: Context) -> Payload:
    return context.config.dataset.encode(context.work.path, context.device, progress_of(context))


def clip(context: Context) -> Payload:
    """A CLIP on the images and captions of one split of the data."""
    return train(context, captioning_problem(context), context.config.split)


def captioning_problem(context: Context) -> Problem:
    config = context.config
    with seeded(config.seed, "clip", config.split):
        network = new_clip(context, config.model).to(context.device)
    return Problem(student=network, learning_rate=config.training.learning_rate)


def text(context: Context) -> Payload:
    """Prompts encoded once: the data's, the samples' if they are others, and the empty one."""
    folder = context.work.path
    if "clip" in context.stage.parents:
        from hdbench.networks.clip import write_table  # optional: open_clip

        prompts = prompts_of(context)
        sampled = [0, len(prompts), context.dataset().stride]
        return write_table(load_clip(context).network, prompts, folder), {"sampled": sampled}
    path = context.parent("data").folder / "prompts.json"
    captions = [row["prompt"] for row in from_json(path.read_text(encoding="utf-8"))]
    sampled = sampled_prompts(context)
    wanted = [row["prompt"] for row in sampled.values()]
    names = encode(
        [*captions, *wanted], context.config.encoder, folder, context.device, progress_of(context)
    )
    if distributed.rank() == 0:
        write_atomic(folder / PROMPTS, json.dumps(sampled) + "\n")
    return [*names, PROMPTS], {"sampled": [len(captions), len(wanted), 1]}


def sampled_prompts(context: Context) -> dict[str, dict[str, str]]:
    """The rows of `evaluation.prompts` by the name of their image; UserError for another file."""
    path = Path(context.config.prompts)
    names = ()
    with suppress(OSError, ValueError):  # `read_prompts` says what is wrong
        names = tuple(from_json(read_text(path, "utf-8-sig")))
    rows = read_prompts(path, names, "evaluation.prompts")
    if not rows:
        raise UserError(f"{path}: has no prompts; name another file in evaluation.prompts")
    if (nested := next((name for name in names if "/" in name), None)) is not None:
        raise UserError(f"{path}: {nested!r}: an image's name has no '/'; leave the folder out")
    return dict(zip(names, rows, strict=True))
