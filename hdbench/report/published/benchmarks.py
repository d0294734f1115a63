"""Benchmarks of published numbers, and the lines of their tables."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hdbench.metrics.records import Interval

TRAJECTORY = "One and few steps: trajectory (consistency, flow maps)"
DISTRIBUTION = "One and few steps: distribution matching"
OTHER = "One and few steps: both, or other"
HD = "Hierarchical distillation"
OURS = "hdbench"
GROUPS = {  # of table rows, with the families in them; a family that is nowhere else is in OTHER
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
    ),
    OTHER: ("sCM+LADD", "one/few-step T2I"),
    HD: ("TD+DMD+GAN",),
    OURS: (),
}
ORDER = list(GROUPS)
GROUP_OF = {family: group for group, families in GROUPS.items() for family in families}
CLIP_WEIGHTS = " --weights clip=PATH --prompts meta_data.json"


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Its published name, its protocol here, and columns: title, and `evaluate`'s metric."""

    name: str
    protocol: str
    columns: dict[str, tuple[str, str]]
    reference: str
    options: str = ""

    @property
    def command(self) -> str:
        return (
            f"hdbench evaluate --protocol {self.protocol} --samples FOLDER --reference "
            f"{self.reference} --weights inception=PATH{self.options} --name HD --out hd.csv"
        )


BENCHMARKS = {
    "imagenet256": Benchmark(
        name="ImageNet-256",
        protocol="adm_imagenet256_50k",
        reference="VIRTUAL_imagenet256_labeled.npz",
        columns={
            "fid": ("FID ↓", "fid"),
            "is": ("IS ↑", "inception_score"),
            "precision": ("Prec. ↑", "precision"),
            "recall": ("Recall ↑", "recall"),
        },
    ),
    "mjhq": Benchmark(
        name="MJHQ-30K",
        protocol="mjhq30k",
        reference="mjhq30k_imgs",
        options=CLIP_WEIGHTS,
        columns={"fid": ("FID ↓", "fid"), "clip": ("CLIP ↑", "clip_score")},
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

    @property
    def quality(self) -> float:
        """FID, by which a group is sorted; missing comes last."""
        fid = self.cells["fid"]
        value = fid.value if isinstance(fid, Interval) else float(fid or "inf")
        return value if math.isfinite(value) else math.inf
