"""The suite cifar10 with tiny networks, on 20 images in EDM's zip and its folder."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import yaml

from hdbench.suite.overrides import merge
from hdbench.suite.reading import find_suite, read_suite
from tests.support.material import inception_weights, pictures
from tests.unit.test_latents import coded

CROPS = pictures(20, 5, 32)


def write_cifar10(folder: Path) -> Path:
    """The suite's file, beside all that it needs."""
    names = [f"00000/img{i:08}.png" for i in range(20)]
    with zipfile.ZipFile(folder / "cifar10-32x32.zip", "w") as file:
        for name, crop in zip(names, CROPS, strict=True):
            file.writestr(name, coded(crop))
        labels = [[name, i % 10] for i, name in enumerate(names)]
        file.writestr("dataset.json", json.dumps({"labels": labels}))
        file.extractall(folder / "cifar10_train")
    training = {"steps": 2, "batch": 4, "compile": False}
    gan = {"blocks": [1, 2], "parameters": 2000}
    changes = {
        "seeds": [1],
        "data": {"source": f"{folder}/cifar10_train"},
        "network": {"width": 32, "depth": 2, "heads": 2, "patch": 8},
        "teacher": {"training": training},
        "evaluation": {
            "samples": 12,
            "protocol": "clean_fid",  # the suite's own has KID, which takes 1,000 images
            "reference": f"{folder}/cifar10_train",
            "weights": {"inception": str(inception_weights())},
            "metrics": [],
        },
        "base": {"trajectory": training, "refine": training | {"objective": {"gan": gan}}},
    }
    data = merge(read_suite(find_suite("cifar10")), changes)
    data["arms"] = {arm: data["arms"][arm] for arm in ("teacher", "hd_pooled")}
    data["tables"] = {"methods": {"against": []}}
    (folder / "toy.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    return folder / "toy.yaml"
