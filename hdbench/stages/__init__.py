"""What each kind of stage does: configuration and parents' artifacts in, payload out."""

from __future__ import annotations

from collections.abc import Callable

from hdbench.methods.base import Problem
from hdbench.stages.autoencoder import autoencoder, autoencoding_problem, latents
from hdbench.stages.context import Context, Payload
from hdbench.stages.data import captioning_problem, clip, data, text
from hdbench.stages.evaluate import evaluate, reference
from hdbench.stages.sample import pairs, sample
from hdbench.stages.sensitivity import sensitivity
from hdbench.stages.train import (
    classification_problem,
    classifier,
    distill,
    distillation,
    teacher,
    teacher_problem,
)

STAGES: dict[str, Callable[[Context], Payload]] = {
    "data": data,
    "classifier": classifier,
    "clip": clip,
    "text": text,
    "reference": reference,
    "autoencoder": autoencoder,
    "latents": latents,
    "teacher": teacher,
    "pairs": pairs,
    "trajectory": distill,
    "refine": distill,
    "sample": sample,
    "evaluate": evaluate,
    "sensitivity": sensitivity,
}

# what the stages that train give to their objectives
PROBLEMS: dict[str, Callable[[Context], Problem]] = {
    "classifier": classification_problem,
    "clip": captioning_problem,
    "autoencoder": autoencoding_problem,
    "teacher": teacher_problem,
    "trajectory": distillation,
    "refine": distillation,
}
