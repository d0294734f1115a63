"""The suite cifar10 on tiny files: EDM's folder through pixels, a teacher of its own and a student
to a Frechet distance against the same folder.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from hdbench.datasets.latents.cache import open_latents
from hdbench.stages import artifact
from hdbench.suite.load import load_plan
from tests.support.small_cifar10 import CROPS, write_cifar10
from tests.support.tiny import run_until, stage_of


@pytest.mark.slow
def test_edms_files_become_a_students_distance(tmp_path):
    plan = load_plan(str(write_cifar10(tmp_path)))
    evaluation = stage_of(plan, "evaluate", "hd_pooled", seed=1)
    run_until(plan, tmp_path / "results", evaluation)

    def folder(kind: str):
        chain = {stage.kind: stage.id for stage in plan.stages.values() if stage.kind == "data"}
        row = next(row for row in plan.rows if row.arm == "hd_pooled")
        return artifact.folder(tmp_path / "results", (chain | row.stages)[kind])

    latents, labels = open_latents(folder("data"))
    x = torch.from_numpy(CROPS).permute(0, 3, 1, 2).float() / 127.5 - 1
    assert torch.equal(latents[torch.arange(40)], torch.cat([x, x.flip(3)]))
    assert labels.tolist() == [i % 10 for i in range(20)] * 2
    pictures_of = sorted(folder("sample").rglob("*.png"))
    assert len(pictures_of) == 12 and Image.open(pictures_of[0]).size == (32, 32)
    numbers = pd.read_csv(folder("evaluate") / "metrics.csv", index_col="metric")
    assert np.isfinite(numbers.value["fid"]) and numbers.value["fid"] > 0
