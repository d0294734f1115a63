"""Benchmarks of published numbers, and the lines of their tables."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hdbench.evaluation.protocols import PROTOCOLS
from hdbench.metrics.records import Interval

TRAJECTORY = "One and few steps: trajectory (consistency, flow maps)"
DISTRIBUTION = "One and few steps: distribution matching"
OTHER = "One and few steps: both, or other"
HD = "Hierarchical distillation"
OURS = "hdbench"
REAL = "Real images"
GROUPS = {  # of table rows, with the families in them; a family that is nowhere else is in OTHER
    REAL: ("real",),
    "Many steps: teachers, diffusion, flow, autoregressive": (
        "diffusion",
        "flow",
        "flow (teacher class)",
        "AR/mask",
        "base",
        "base (teacher class)",
    ),
    "GANs and adversarial training": ("GAN", "adversarial", "distill+GAN (pixel)", "LADD"),
    TRAJECTORY: (
        "consistency",
        "consistency distill",
        "consistency (image-free)",
        "sCM",
        "flow map",
        "flow map distill",
        "flow map fine-tune",
        "data-free flow map",
        "data-free flow map + correction",
        "shortcut",
        "moment matching",
        "policy distill",
    ),
    DISTRIBUTION: (
        "DMD",
        "DMD+GAN",
        "DMD+RL",
        "drifting",
        "drifting distill",
        "wasserstein flow",
        "FD-loss",
        "DMD+GAN (f-div)",
        "GAN/DMD",
        "score distillation",
    ),
    OTHER: ("sCM+LADD", "consistency+GAN", "one/few-step T2I", "one-step T2I"),
    HD: ("TD+DMD+GAN",),
    OURS: (),
}
ORDER = list(GROUPS)
GROUP_OF = {family: group for group, families in GROUPS.items() for family in families}
CLIP_WEIGHTS = " --weights clip=PATH --prompts meta_data.json"


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Its published name, its protocols here, and columns of values: title, and metric here.

    Rows are sorted by the first column.  Without protocols, or a column's metric, hdbench does not
    measure it.
    """

    name: str
    columns: dict[str, tuple[str, str | None]]
    protocols: tuple[str, ...] = ()  # the first is that of `command`
    n: int | None = None  # images, where the protocol leaves it open
    reference: str = "FOLDER"
    options: str = ""
    held_out: str = ""  # what to read of rows that were trained on a column

    def samples(self, protocol: str) -> int | None:
        """Images that a protocol is measured on here; None: as many as there are."""
        return self.n or (PROTOCOLS[protocol].n if protocol in PROTOCOLS else None)

    @property
    def for_any_images(self) -> bool:
        """Whether the protocol is not of this benchmark alone."""
        return self.n is not None

    @property
    def command(self) -> str:
        protocol = self.protocols[0]
        if protocol not in PROTOCOLS:
            return f"hdbench import {protocol} RESULTS --name HD --out hd.csv"
        count = f" --n {self.n}" if self.n else ""
        return (
            f"hdbench evaluate --protocol {protocol} --samples FOLDER --reference "
            f"{self.reference} --weights inception=PATH{self.options}{count} --name HD --out hd.csv"
        )

    def quality(self, line: Line) -> float:
        """The value by which a group is sorted, smaller is better; missing comes last."""
        column, (title, _) = next(iter(self.columns.items()))
        cell = line.cells[column]
        value = cell.value if isinstance(cell, Interval) else float(cell or "nan")
        return (-value if "↑" in title else value) if math.isfinite(value) else math.inf


FID = ("FID ↓", "fid")
INCEPTION = {"fid": FID, "is": ("IS ↑", "inception_score")}
FIDELITY = {"precision": ("Prec. ↑", "precision"), "recall": ("Recall ↑", "recall")}
ENCODERS = {  # of several networks' features
    "fdr6": ("FDr6 ↓", "fdr6"),
    "fdr3": ("FDr3 ↓", "fdr3"),
    "fd_dinov2": ("FD-DINOv2 ↓", "fd_dinov2"),
    "sw_r14": ("SW_r14 ↓", None),
    "mmd_r14": ("MMD_r14 ↓", None),
}
PROMPTS = {
    "geneval": ("GenEval ↑", "geneval"),
    "dpg": ("DPG ↑", "dpg_bench"),
    "pickscore": ("PickScore ↑", "pickscore"),
    "vqascore": ("VQAScore ↑", "vqascore"),
}
CIFAR10 = {"protocols": ("torch_fidelity",), "n": 50_000, "reference": "cifar10_train"}

BENCHMARKS = {
    "imagenet256": Benchmark(
        name="ImageNet-256",
        protocols=("adm_imagenet256_50k", "imagenet256_wide", "fdr6"),
        reference="VIRTUAL_imagenet256_labeled.npz",
        columns={**INCEPTION, **FIDELITY, **ENCODERS},
        held_out=" FDr6 is the mean over six encoders of the distance over that of real images, "
        "FDr3 that over the three of them that such a row was not trained on: read FDr3.",
    ),
    "imagenet512": Benchmark(name="ImageNet-512", columns={"fid": FID}),
    "imagenet64": Benchmark(
        name="ImageNet-64",
        protocols=("torch_fidelity",),
        n=50_000,
        reference="imagenet64_train",
        columns={"fid": FID},
    ),
    "cifar10": Benchmark(name="CIFAR-10, unconditional", columns={"fid": FID}, **CIFAR10),
    "cifar10_conditional": Benchmark(
        name="CIFAR-10, class-conditional", columns={"fid": FID}, **CIFAR10
    ),
    "mjhq": Benchmark(
        name="MJHQ-30K",
        protocols=("mjhq30k",),
        reference="mjhq30k_imgs",
        options=CLIP_WEIGHTS,
        columns={
            "fid": FID,
            "clip": ("CLIP ↑", "clip_score"),
            "geneval": PROMPTS["geneval"],
            "dpg": PROMPTS["dpg"],
        },
    ),
    "text_to_image": Benchmark(
        name="Text to image", protocols=("geneval", "dpg_bench", "vqascore"), columns=PROMPTS
    ),
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row of the table: texts as the sources have them, or intervals of ours."""

    group: str
    method: str
    cells: dict[str, Interval | str]
    params: str = ""
    nfe: str = ""
    guidance: str = ""
    facts: dict[str, object] = field(default_factory=dict)  # for the csv alone
    source: str = ""
    marks: str = ""
    terms: str = ""  # what ‡ stands for
    trained_on: str = ""  # titles of the columns that ◇ stands for

    @property
    def comparable(self) -> bool:
        """Whether it is a published line on the terms of the others."""
        return self.group not in (OURS, REAL) and not self.terms and not self.trained_on
