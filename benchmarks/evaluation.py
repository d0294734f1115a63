"""One joint evaluation beside the public tools in turn: same images, weights and threads.

    python benchmarks/evaluation.py [--images 128] [--size 64] [--threads 2]

Both sides measure FID, KID, IS, precision and recall (torch-fidelity), FID (clean-fid),
the CLIP score (open_clip), FD-DINOv2 (dgm-eval), FDr on five encoders (FD-Loss) and CMMD
(cmmd-pytorch), from image files to numbers, networks loaded anew; ours gives sFID's features, MIND,
FDr6's sixth encoder and an interval for every number besides.  Weights are random, since time does
not depend on their values, and all networks but Inception small (benchmarks/encoders.py).  At full
size forwards are nearly all of the time: 2,900 GFLOP an image and its real one for the tools in
turn, 1,530 for ours, reference cached (workflow/cost.yaml).  Each side takes its own default
number of images a forward; ours is measured under both layouts of Inception (`hdbench evaluate
--layout`).

cold: nothing is cached.  warm: the reference's features and statistics are, which the libraries
compute again for every set of samples (torch-fidelity can cache by a name, clean-fid by one of its
own; `named` grants both of them that).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import encoders
from benchmarks.frechet_distance import keep_old_sqrtm
from hdbench.evaluation.evaluate import evaluate
from hdbench.evaluation.features import Settings
from hdbench.evaluation.protocols import PROTOCOLS, Layout
from hdbench.evaluation.request import Request
from tests.support.material import clip_weights, inception_weights, pictures, prompts, write_folder


def clean_fid_features(folder: Path, network: Callable, batch: int) -> np.ndarray:
    from cleanfid import fid

    return fid.get_folder_features(
        str(folder),
        network,
        num_workers=0,
        batch_size=batch,
        device=torch.device("cpu"),
        verbose=False,
    )


TORCH_FIDELITY_BATCH, CLEAN_FID_BATCH = 64, 32  # defaults of calculate_metrics and of compute_fid


class Images(NamedTuple):
    """What both sides measure: folders of images, a table of prompts, and KID's subset size."""

    samples: Path
    real: Path
    table: Path
    size: int

    @property
    def count(self) -> int:
        return sum(1 for _ in self.samples.iterdir())


def libraries(images: Images, names: Path | None) -> dict[str, float]:
    """The libraries' functions; with `names`, a folder where both have the reference by name."""
    return {
        **torch_fidelity_metrics(images, names),
        "clean fid": clean_fid(images, names),
        "clip": clip_score(images),
        "fd_dinov2": encoders.fd_dinov2(images.samples, images.real),
        "fdr": encoders.fdr6(images.samples, images.real, torch_fidelity_inception()),
        "cmmd": encoders.cmmd(images.samples, images.real),
    }


def torch_fidelity_inception() -> Callable:
    """Its network, of pixels in [0, 1]."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    network = FeatureExtractorInceptionV3(
        "x", ["2048"], feature_extractor_weights_path=str(inception_weights())
    )
    return lambda x: network((255 * x).round().to(torch.uint8))[0]


def torch_fidelity_metrics(images: Images, names: Path | None) -> dict[str, float]:
    from torch_fidelity import calculate_metrics

    cache = cache_by_name(names) if names else {"cache": False}
    metrics = calculate_metrics(
        input1=str(images.samples),
        input2=str(images.real),
        cuda=False,
        isc=True,
        fid=True,
        kid=True,
        prc=True,
        feature_extractor="inception-v3-compat",
        batch_size=TORCH_FIDELITY_BATCH,
        kid_subset_size=images.size,
        verbose=False,
        feature_extractor_weights_path=str(inception_weights()),
        save_cpu_ram=True,
        **cache,
    )
    return {
        "fid": metrics["frechet_inception_distance"],
        "kid": metrics["kernel_inception_distance_mean"],
    }


def cache_by_name(names: Path) -> dict:
    """torch-fidelity's options."""
    folder = names / "torch_fidelity"
    return {"cache": True, "cache_root": str(folder), "input2_cache_name": "real"}


def clean_fid(images: Images, names: Path | None) -> float:
    from cleanfid import fid
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    inner = FeatureExtractorInceptionV3(
        "x", ["2048"], feature_extractor_weights_path=str(inception_weights())
    )
    body = torch.nn.Sequential(*[module for name, module in inner.named_children() if name != "fc"])

    def network(x: torch.Tensor) -> torch.Tensor:
        """clean-fid's network, from the same weights."""
        return body((x - 128) / 128).flatten(1)

    if names:
        statistics = np.load(names / "clean_fid.npz")
        x = clean_fid_features(images.samples, network, CLEAN_FID_BATCH)
        return fid.frechet_distance(
            x.mean(0), np.cov(x, rowvar=False), statistics["mu"], statistics["sigma"]
        )
    return fid.compute_fid(
        str(images.samples),
        str(images.real),
        mode="clean",
        num_workers=0,
        batch_size=CLEAN_FID_BATCH,
        device=torch.device("cpu"),
        verbose=False,
        custom_feat_extractor=network,
    )


def clip_score(images: Images) -> float:
    import open_clip

    clip, _, transform = open_clip.create_model_and_transforms(f"local-dir:{clip_weights()}")
    clip.eval()
    rows = json.loads(images.table.read_text())
    files = sorted(images.samples.glob("*.png"))
    scores = []
    for start in range(0, len(files), CLEAN_FID_BATCH):
        batch = files[start : start + CLEAN_FID_BATCH]
        pixels = torch.stack([transform(Image.open(file)) for file in batch])
        tokens = open_clip.tokenize([rows[file.stem]["prompt"] for file in batch])
        with torch.no_grad():
            of_images = clip.encode_image(pixels, normalize=True)
            of_texts = clip.encode_text(tokens, normalize=True)
        scores.append(100 * (of_images * of_texts).sum(1))
    return torch.cat(scores).mean().item()


PROTOCOLS_MEASURED = ("torch_fidelity", "clean_fid", "clip_score", *encoders.PROTOCOLS)


def ours(images: Images, threads: int, cache: Path, layout: Layout) -> dict[str, float]:
    changed = {"torch_fidelity": {"kid_subset_size": images.size}}
    protocols = tuple(
        PROTOCOLS[name].model_copy(update=changed.get(name, {})) for name in PROTOCOLS_MEASURED
    )
    weights = {"inception": str(inception_weights()), "clip": str(clip_weights())}
    request = Request(
        samples=images.samples,
        protocols=protocols,
        references={protocol.name: images.real for protocol in protocols if protocol.compared},
        prompts=images.table,
        weights=weights | encoders.weights(),
        device=torch.device("cpu"),
        allow=frozenset({"other-weights"}),
        settings=Settings(cache=cache, threads=threads),
        layout=layout,
        n=images.count,
    )
    evaluations = zip(PROTOCOLS_MEASURED, evaluate(request), strict=True)
    values = {
        (name, metric): result.estimate.value
        for name, evaluation in evaluations
        for metric, result in evaluation.results.items()
    }
    five = [values["fdr6", f"fdr_{kind}"] for kind in encoders.FIVE]
    return {
        "fid": values["torch_fidelity", "fid"],
        "kid": values["torch_fidelity", "kid"],
        "clean fid": values["clean_fid", "fid"],
        "clip": values["clip_score", "clip_score"],
        "fd_dinov2": values["fd_dinov2", "fd_dinov2"],
        "fdr": float(np.mean(five)),
        "cmmd": values["cmmd", "cmmd"],
    }


class Timed(NamedTuple):
    """Wall seconds, CPU seconds of this process (which other processes change less), and values."""

    wall: float
    cpu: float
    values: dict[str, float]


def timed(function: Callable[..., dict[str, float]], *arguments) -> Timed:
    wall = time.perf_counter()
    cpu = time.process_time()
    values = function(*arguments)
    return Timed(time.perf_counter() - wall, time.process_time() - cpu, values)


def write_images(folder: Path, count: int, side: int) -> Images:
    samples = write_folder(folder / "samples", pictures(count, 1, side))
    real = write_folder(folder / "real", pictures(count, 2, side))
    table = prompts(folder / "prompts.json", [f"{row:04}" for row in range(count)])
    return Images(samples, real, table, min(count, 1000))


def name_reference(names: Path, cache: Path, warm_up: Images, images: Images) -> None:
    """Put the reference where both libraries have it by name."""
    from torch_fidelity import calculate_metrics

    names.mkdir()
    folders = (cache / "references").iterdir()
    (clean,) = (path for path in folders if '"clean"' in (path / "manifest.json").read_text())
    statistics = load_file(clean / "statistics.safetensors")
    np.savez(names / "clean_fid.npz", mu=statistics["2048.mu"], sigma=statistics["2048.sigma"])
    calculate_metrics(
        input1=str(warm_up.samples),
        input2=str(images.real),
        cuda=False,
        fid=True,
        isc=True,
        verbose=False,
        batch_size=TORCH_FIDELITY_BATCH,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(inception_weights()),
        save_cpu_ram=True,
        **cache_by_name(names),
    )


def show(title: str, library: Timed, by_layout: dict[str, Timed]) -> None:
    for layout, ours_timed in by_layout.items():
        differences = [
            abs(value - library.values[name]) / max(abs(library.values[name]), 1)
            for name, value in ours_timed.values.items()
        ]
        for clock in ("wall", "cpu"):
            theirs = getattr(library, clock)
            mine = getattr(ours_timed, clock)
            print(
                f"{title:26}{layout:14}{clock:>5} seconds: libraries {theirs:7.1f}  ours "
                f"{mine:7.1f}  ratio {theirs / mine:5.2f}   values within {max(differences):.0e}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--size", type=int, default=64, help="side of the images")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    keep_old_sqrtm()
    cold: dict[str, Timed] = {}
    warm: dict[str, Timed] = {}
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        images = write_images(folder, options.images, options.size)
        samples = write_folder(folder / "warm", pictures(10, 3, options.size))
        warm_up = Images(samples, samples, images.table, 5)  # imports and threads count for nobody
        ours(warm_up, options.threads, folder / "warm-cache", "library")
        for layout in get_args(Layout):
            cache = folder / layout
            cold[layout] = timed(ours, images, options.threads, cache, layout)
            shutil.rmtree(cache / "features")
            warm[layout] = timed(ours, images, options.threads, cache, layout)
        library = timed(libraries, images, None)
        name_reference(folder / "names", cache, warm_up, images)
        named = timed(libraries, images, folder / "names")
    print(
        f"{options.images} samples and as many real images of side {options.size}, "
        f"{options.threads} threads, load {os.getloadavg()[0]:.1f}"
    )
    show("cold", library, cold)
    show("warm reference", library, warm)
    show("warm, libraries' by name", named, warm)


if __name__ == "__main__":
    main()
