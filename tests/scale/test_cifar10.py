"""The suite cifar10 on tiny files: EDM's folder through pixels, a teacher of its own and a student
to a Frechet distance against the same folder.
"""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from hdbench.datasets.latents.cache import open_latents
from hdbench.stages import artifact
from hdbench.suite.load import load_plan
from hdbench.suite.overrides import merge
from hdbench.suite.reading import find_suite, read_suite
from tests.support.material import inception_weights, pictures
from tests.support.tiny import run_until, stage_of
from tests.unit.test_latents import coded

CROPS = pictures(20, 5, 32)


@pytest.mark.slow
def test_edms_files_become_a_students_distance(tmp_path):
    names = [f"00000/img{i:08}.png" for i in range(20)]
    with zipfile.ZipFile(tmp_path / "cifar10-32x32.zip", "w") as file:
        for name, crop in zip(names, CROPS, strict=True):
            file.writestr(name, coded(crop))
        labels = [[name, i % 10] for i, name in enumerate(names)]
        file.writestr("dataset.json", json.dumps({"labels": labels}))
        file.extractall(tmp_path / "cifar10_train")
    training = {"steps": 2, "batch": 4, "compile": False}
    gan = {"blocks": [1, 2], "parameters": 2000}
    changes = {
        "seeds": [1],
        "data": {"source": f"{tmp_path}/cifar10_train"},
        "network": {"width": 32, "depth": 2, "heads": 2, "patch": 8},
        "teacher": {"training": training},
        "evaluation": {
            "samples": 12,
            "protocol": "clean_fid",  # the suite's own has KID, which takes 1,000 images
            "reference": f"{tmp_path}/cifar10_train",
            "weights": {"inception": str(inception_weights())},
            "metrics": [],
        },
        "base": {"trajectory": training, "refine": training | {"objective": {"gan": gan}}},
    }
    data = merge(read_suite(find_suite("cifar10")), changes)
    data["arms"] = {arm: data["arms"][arm] for arm in ("teacher", "hd_pooled")}
    data["tables"] = {"methods": {"against": []}}
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    plan = load_plan(str(tmp_path / "toy.yaml"))
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
