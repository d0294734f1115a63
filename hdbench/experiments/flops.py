"""FLOPs of sampling at the paper's scale, counted: what its ratio of teacher to student is of.

One student's evaluation against n steps of its teacher, F_teacher and F_student of one evaluation
and D of the autoencoder's decoder: (n g F_teacher + d D) / (F_student + d D), where g is 2 with
guidance, else 1, and d is 1 where the decoder is counted, else 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import diffusers
import pandas as pd
import torch
from pydantic import Field, field_validator, model_validator
from torch.utils.flop_counter import FlopCounterMode

from hdbench.core.config import Config, validate
from hdbench.core.errors import UserError
from hdbench.core.outputs import write_outputs
from hdbench.core.yaml_file import read_yaml
from hdbench.experiments.report import csv, metrics_frame
from hdbench.experiments.units import check_distinct, unit_digest
from hdbench.experiments.values import read_numbers, values_of
from hdbench.networks.autoencoders import PUBLIC
from hdbench.networks.config import TransformerConfig
from hdbench.networks.flops import forward_flops
from hdbench.report import document
from hdbench.report.document import Cell, Document, number
from hdbench.report.rules import Values
from hdbench.suite.load import load_plan
from hdbench.suite.plan import Plan

VERSION = 1  # of what is counted
CONFIG = Path("workflow/flops.yaml")
STUDENT = "student"
METRICS = {False: "sampling_flops", True: "sampling_flops_decoded"}  # by whether with the decoder
TEACHERS = {False: "teacher", True: "teacher_guided"}


class Published(Config):
    ratio: str = Field(description="as printed")
    source: str

    @field_validator("ratio")
    @classmethod
    def _number(cls, text: str) -> str:
        float(text)
        return text

    @property
    def decimals(self) -> int:
        """That are printed."""
        return len(self.ratio.partition(".")[2])


class Flops(Config):
    """workflow/flops.yaml"""

    suite: str = Field(description="on latents; its network and autoencoder are counted")
    steps: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    published: Published
    autoencoder: dict[str, Any] = Field(
        description="arguments of diffusers' class of the suite's autoencoder"
    )

    @model_validator(mode="after")
    def _distinct(self):
        check_distinct(self, "steps")
        return self


def read_flops_config(path: Path = CONFIG) -> Flops:
    return validate(Flops, read_yaml(path), str(path))


def decoder_flops(plan: Plan, arguments: dict[str, Any]) -> int:
    """FLOPs of decoding one latent of the suite; UserError for arguments that diffusers refuses."""
    data = plan.suite.data
    kind = getattr(diffusers, PUBLIC[data.autoencoder.name][0])
    with torch.device("meta"):
        try:
            network = kind(**arguments)
            latent = torch.empty(1, data.channels, data.image_size, data.image_size)
            with FlopCounterMode(display=False) as counter:
                image = network.decode(latent).sample
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"autoencoder: {kind.__name__} cannot be made of it or does not decode "
                f"the suite's latents ({str(error).splitlines()[0]}); give the arguments of its "
                "config.json"
            ) from None
    if image.shape[-1] != data.resolution:
        raise UserError(
            f"autoencoder: decodes to {image.shape[-1]} pixels, the suite's images have "
            f"{data.resolution}; give the arguments of its config.json"
        )
    return counter.get_total_flops()


def latents_plan(config: Flops) -> Plan:
    plan = load_plan(config.suite)
    if plan.suite.data.stored != "latents" or not plan.suite.data.autoencoder:
        raise UserError(
            f"suite = {config.suite}: has no autoencoder; name one on latents, such as imagenet256"
        )
    if not isinstance(plan.suite.network, TransformerConfig):
        raise UserError(
            f"suite = {config.suite}: its network reads prompts, which are not counted here; name "
            "one with classes, such as imagenet256"
        )
    return plan


def count(config: Flops) -> pd.DataFrame:
    """FLOPs of one image, in the columns of hdbench.metrics.records.

    Arms `teacher@STEPS`, `teacher_guided@STEPS` and `student`, with and without the decoder.
    """
    plan = latents_plan(config)
    data, network = plan.suite.data, plan.suite.network
    forward = {
        mean_velocity: forward_flops(
            network, data.image_size, data.channels, data.classes, mean_velocity
        )
        for mean_velocity in (False, True)
    }
    decoder = decoder_flops(plan, config.autoencoder)
    common = {
        "suite": "flops",
        "seed": 0,
        "protocol": f"count[torch={version('torch')},diffusers={version('diffusers')}]",
        "digest": digest(config, plan),
    }

    def rows() -> Iterator[dict[str, Any]]:
        for decoded, metric in METRICS.items():
            parts = [(STUDENT, 1, forward[True])] + [
                (arm, steps, steps * (1 + guided) * forward[False])
                for steps, (guided, arm) in product(config.steps, TEACHERS.items())
            ]
            for arm, steps, flops in parts:
                value = float(flops + decoded * decoder)
                yield common | {"arm": arm, "nfe": steps, "metric": metric, "value": value}

    return metrics_frame(rows())


def digest(config: Flops, plan: Plan) -> str:
    """Of all that decides the counts but the versions of the libraries."""
    data = plan.suite.data
    return unit_digest(
        {
            "network": plan.suite.network.model_dump(mode="json"),
            "latents": [data.image_size, data.channels, data.classes],
            "autoencoder": config.autoencoder,
            "steps": list(config.steps),
            "version": VERSION,
        }
    )


def render(frame: pd.DataFrame) -> pd.DataFrame:
    """One row an accounting: FLOPs of teacher and student, and their ratio."""
    value = frame.set_index(["arm", "nfe", "metric"]).value
    rows = []
    for steps in sorted(set(frame.nfe[frame.arm != STUDENT]), reverse=True):
        for (guided, arm), (decoded, metric) in product(TEACHERS.items(), METRICS.items()):
            teacher, student = value[arm, steps, metric], value[STUDENT, 1, metric]
            rows.append(
                {
                    "steps": steps,
                    "guidance": guided,
                    "decoder": decoded,
                    "teacher_flops": teacher,
                    "student_flops": student,
                    "ratio": teacher / student,
                }
            )
    return pd.DataFrame(rows)


def document_of(config: Flops, table: pd.DataFrame) -> Document:
    """The table; accountings that give the published ratio are bold."""
    printed = config.published
    rows = []
    for row in table.itertuples(index=False):
        same = f"{row.ratio:.{printed.decimals}f}" == printed.ratio
        cells = [
            str(row.steps),
            "two evaluations a step" if row.guidance else "no",
            "in both" if row.decoder else "no",
            number(row.teacher_flops / 1e9, 2),
            number(row.student_flops / 1e9, 2),
        ]
        rows.append([*cells, Cell(f"{row.ratio:.2f}", "bold" if same else "")])
    agree = sum(row[-1].emphasis == "bold" for row in rows)
    give = {0: "No accounting gives", 1: "One accounting, bold, gives"}.get(
        agree, f"{agree} accountings, bold, give"
    )
    return Document(
        label="flops",
        caption=f"FLOPs of sampling one image in {config.suite}, of the teacher and of its student "
        "in one step, counted by PyTorch (2 for each multiplication and addition of a product). "
        f"{give} the published ratio, {printed.ratio} ({printed.source}).",
        columns=[
            "Teacher's steps",
            "Guidance",
            "Decoder",
            "Teacher, GFLOP",
            "Student, GFLOP",
            "Teacher / student",
        ],
        rows=rows,
        align=["r"] * 6,
        records=table,
    )


def run_flops(config: Flops, results: Path, out: Path) -> list[Path]:
    """Count; write results/flops/metrics.csv and all of out/flops; the paths."""
    frame = count(config)
    metrics = {folder / "flops" / "metrics.csv": csv(frame) for folder in (results, out)}
    write_outputs(metrics)
    return [*metrics, *document.write(document_of(config, render(frame)), out / "flops" / "flops")]


def read_flops(path: Path, config: Path = CONFIG, missing_is_none: bool = False) -> Values | None:
    """The counts in a metrics file of `hdbench flops`, by arm@steps and metric, for claims.

    UserError for a missing or another file, or counts of another configuration; if
    `missing_is_none`, None for a missing one and for such counts, which are then not judged.
    """
    if missing_is_none and not path.exists():
        return None
    frame = read_numbers(path, "flops")
    declared = read_flops_config(config)
    if set(frame.digest) != {digest(declared, latents_plan(declared))}:
        if missing_is_none:
            return None
        raise UserError(f"{path}: not the counts of {config}; make it with `hdbench flops`")
    return values_of(frame, "exact")
