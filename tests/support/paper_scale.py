"""The suites of the paper's scale made tiny, with random weights and data in the public formats.

`python -m tests.support.paper_scale FOLDER` writes them, for `snakemake --config
suite=FOLDER/toy_imagenet256.yaml`.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image

from hdbench.networks.prediction import ALLOW
from hdbench.suite.overrides import merge
from hdbench.suite.reading import find_suite, read_suite
from tests.support.material import clip_weights, inception_weights, pictures, write_folder
from tests.support.pipelines import (
    CAPTION_WIDTH,
    CHANNELS,
    FACTOR,
    LATENT_SIDE,
    kl_autoencoder,
    sana_pipeline,
    sana_sprint_pipeline,
)
from tests.support.sit_reference import random_reference

SIDE, SAMPLES = LATENT_SIDE * FACTOR, 12
ARMS = {  # few, since a Frechet distance of 2,048 dimensions takes seconds
    "imagenet256": ("teacher", "hd_awd_logit"),
    "imagenet256_dit": ("teacher", "td"),
    "mjhq_1024": ("teacher", "sprint", "hd_awd_logit"),
}
CATEGORIES = ("animals", "food")


def untrained(path: Path) -> dict[str, Any]:
    """A suite's checkpoint of random weights, which behaves as no family does."""
    return {"path": str(path), "allow": [ALLOW]}


def write(folder: Path) -> dict[str, Path]:
    """Suites by name, each with all that it needs beside it."""
    folder = folder.absolute()
    for name, source in {
        "kl": kl_autoencoder(),
        "sana": sana_pipeline(),
        "sprint": sana_sprint_pipeline(),
        "clip": clip_weights(),
    }.items():
        shutil.copytree(source, folder / "weights" / name, dirs_exist_ok=True)
    shutil.copy(inception_weights(), folder / "weights/inception.pth")
    sizes = {"width": 32, "depth": 2, "heads": 2, "patch": 2}
    for kind in ("sit", "dit"):
        reference = random_reference(
            1, image_size=LATENT_SIDE, channels=CHANNELS, classes=3, **sizes
        )
        torch.save({"ema": reference.state_dict()}, folder / f"weights/{kind}.pt")
    names = [f"class{row % 3}/{row:02}" for row in range(18)]
    write_folder(folder / "images", pictures(18, 1, SIDE + 8), names, ".jpg")
    keys = [f"key{row:02}" for row in range(SAMPLES)]
    prompts = {
        key: {"prompt": f"a thing of kind {row}", "category": CATEGORIES[row % 2]}
        for row, key in enumerate(keys)
    }
    write_folder(
        folder / "mjhq",
        pictures(SAMPLES, 2, SIDE),
        [f"{prompts[key]['category']}/{key}" for key in keys],
    )
    (folder / "mjhq/meta_data.json").write_text(json.dumps(prompts))
    with tarfile.open(folder / "text_image.tar", "w") as tar:
        for row, image in enumerate(pictures(10, 3, SIDE)):
            png = io.BytesIO()
            Image.fromarray(image).save(png, "PNG")
            for suffix, content in (
                ("png", png.getvalue()),
                ("txt", f"picture {row % 7}".encode()),
            ):
                member = tarfile.TarInfo(f"{row:04}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))

    training = {"steps": 2, "batch": 4, "micro_batch": 2, "compile": False}
    shared: dict[str, Any] = {
        "seeds": [1],
        "evaluation": {
            "samples": SAMPLES,
            "batch": 8,
            "weights": {"inception": f"{folder}/weights/inception.pth"},
            "metrics": [],  # each takes a job more; tests/scale/test_paper_scale.py has them
        },
        "base": {
            "trajectory": training,
            "refine": training | {"objective": {"gan": {"blocks": [1, 2], "parameters": 2000}}},
        },
        "arms": {"teacher": {"steps": [2]}, "td": {"steps": [2]}},
    }
    sit = merge(
        shared,
        {
            "data": {
                "source": f"{folder}/images",
                "resolution": SIDE,
                "classes": 3,
                "images_per_shard": 5,
                "autoencoder": {
                    "path": f"{folder}/weights/kl",
                    "channels": CHANNELS,
                    "factor": FACTOR,
                },
            },
            "network": sizes | {"position_side": LATENT_SIDE // 2},
            "evaluation": {"reference": f"{folder}/images"},
            "teacher": {"checkpoint": untrained(folder / "weights/sit.pt")},
        },
    )
    tiny = {"width": 16, "depth": 2, "heads": 2, "cross_heads": 4, "caption_width": CAPTION_WIDTH}
    sana = merge(
        shared,
        {
            "data": {
                "source": f"{folder}/*.tar",
                "resolution": SIDE,
                "autoencoder": {
                    "path": f"{folder}/weights/sana",
                    "channels": CHANNELS,
                    "factor": FACTOR,
                },
            },
            "text": {"path": f"{folder}/weights/sana", "length": 16, "dtype": "float32"},
            "network": tiny,
            "teacher": {"checkpoint": untrained(folder / "weights/sana")},
            "evaluation": {
                "reference": f"{folder}/mjhq",
                "prompts": f"{folder}/mjhq/meta_data.json",
                "weights": {"clip": f"{folder}/weights/clip"},
            },
            "arms": {
                "sprint": {
                    "steps": [2],
                    "baseline": {
                        "network": tiny,
                        "checkpoint": untrained(folder / "weights/sprint"),
                    },
                }
            },
        },
    )
    dit = merge(sit, {"teacher": {"checkpoint": untrained(folder / "weights/dit.pt")}})
    suites = {}
    for name, changes in {"imagenet256": sit, "imagenet256_dit": dit, "mjhq_1024": sana}.items():
        data = merge(read_suite(find_suite(name)), changes)
        data["arms"] = {arm: data["arms"][arm] for arm in ARMS[name]}
        data["tables"] = {"methods": {"against": []}}
        data.pop("expected", None)  # of trained weights
        data["title"] = f"Toy of {name}: random weights, random pictures"
        suites[name] = folder / f"toy_{name}.yaml"
        suites[name].write_text(yaml.safe_dump(data, sort_keys=False))
    return suites


if __name__ == "__main__":
    for path in write(Path(sys.argv[1])).values():
        print(path)
