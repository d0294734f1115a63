"""One joint evaluation beside the three libraries, one after the other, on the same images, weights
and threads.

    python benchmarks/evaluation.py [--images 128] [--size 64] [--threads 2]

Both sides measure FID, KID, inception score, precision and recall (torch-fidelity), FID (clean-fid)
and the CLIP score (open_clip), from image files to numbers, networks loaded anew; ours gives sFID's
features in the same forward and an interval for every number besides.  Weights are random: time
does not depend on their values.  Each side takes its own default number of images a forward; ours
is measured under both layouts of Inception (`hdbench evaluate --layout`).

cold: nothing is cached.  warm: the reference's features and statistics are, which the libraries
compute again for every set of samples (torch-fidelity can cache by a name, clean-fid by one of its
own; `named` grants both of them that).
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import get_args

import numpy as np
import scipy.linalg
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from hdbench.evaluation.evaluate import evaluate
from hdbench.evaluation.features import Settings
from hdbench.evaluation.protocols import PROTOCOLS, Layout
from hdbench.evaluation.request import Request
from tests.support.material import clip_weights, inception_weights, pictures, prompts, write_folder


def clean_fid_features(folder: Path, network, batch: int) -> np.ndarray:
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


def libraries(
    samples: Path, real: Path, table: Path, size: int, names: Path | None
) -> dict[str, float]:
    """The libraries' own functions; with `names`, a folder where both find the reference again by
    name.
    """
    import json

    import open_clip
    from cleanfid import fid
    from torch_fidelity import calculate_metrics
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    named = (
        {}
        if names is None
        else {
            "cache": True,
            "cache_root": str(names / "torch_fidelity"),
            "input2_cache_name": "real",
        }
    )
    found = calculate_metrics(
        input1=str(samples),
        input2=str(real),
        cuda=False,
        isc=True,
        fid=True,
        kid=True,
        prc=True,
        feature_extractor="inception-v3-compat",
        batch_size=TORCH_FIDELITY_BATCH,
        kid_subset_size=size,
        verbose=False,
        feature_extractor_weights_path=str(inception_weights()),
        save_cpu_ram=True,
        **{"cache": False} | named,
    )
    values = {
        "fid": found["frechet_inception_distance"],
        "kid": found["kernel_inception_distance_mean"],
    }
    inner = FeatureExtractorInceptionV3(
        "x", ["2048"], feature_extractor_weights_path=str(inception_weights())
    )
    body = torch.nn.Sequential(*[module for name, module in inner.named_children() if name != "fc"])
    network = lambda x: body((x - 128) / 128).flatten(1)
    if names is None:
        values["clean fid"] = fid.compute_fid(
            str(samples),
            str(real),
            mode="clean",
            num_workers=0,
            batch_size=CLEAN_FID_BATCH,
            device=torch.device("cpu"),
            verbose=False,
            custom_feat_extractor=network,
        )
    else:
        statistics = np.load(names / "clean_fid.npz")
        x = clean_fid_features(samples, network, CLEAN_FID_BATCH)
        values["clean fid"] = fid.frechet_distance(
            x.mean(0), np.cov(x, rowvar=False), statistics["mu"], statistics["sigma"]
        )
    clip, _, transform = open_clip.create_model_and_transforms(f"local-dir:{clip_weights()}")
    clip.eval()
    rows, scores = json.loads(table.read_text()), []
    files = sorted(samples.glob("*.png"))
    for start in range(0, len(files), CLEAN_FID_BATCH):
        part = files[start : start + CLEAN_FID_BATCH]
        with torch.no_grad():
            images = clip.encode_image(
                torch.stack([transform(Image.open(file)) for file in part]), normalize=True
            )
            texts = clip.encode_text(
                open_clip.tokenize([rows[file.stem]["prompt"] for file in part]), normalize=True
            )
        scores.append(100 * (images * texts).sum(1))
    return values | {"clip": torch.cat(scores).mean().item()}


def ours(
    samples: Path, real: Path, table: Path, size: int, threads: int, cache: Path, layout: Layout
) -> dict[str, float]:
    changed = {"torch_fidelity": {"kid_subset_size": size}}
    protocols = tuple(
        PROTOCOLS[name].model_copy(update=changed.get(name, {}))
        for name in ("torch_fidelity", "clean_fid", "clip_score")
    )
    found = evaluate(
        Request(
            samples=samples,
            protocols=protocols,
            references={"torch_fidelity": real, "clean_fid": real},
            prompts=table,
            weights={"inception": str(inception_weights()), "clip": str(clip_weights())},
            device=torch.device("cpu"),
            allow=frozenset({"other-weights"}),
            settings=Settings(cache=cache, threads=threads),
            layout=layout,
        )
    )
    first, clean, clip = (evaluation.results for evaluation in found)
    return {
        "fid": first["fid"].estimate.value,
        "kid": first["kid"].estimate.value,
        "clean fid": clean["fid"].estimate.value,
        "clip": clip["clip_score"].estimate.value,
    }


def timed(function, *arguments) -> tuple[float, dict[str, float], float]:
    """Wall seconds, values, and CPU seconds of this process, which other processes on the machine
    change less.
    """
    begun = time.perf_counter(), time.process_time()
    values = function(*arguments)
    return time.perf_counter() - begun[0], values, time.process_time() - begun[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--size", type=int, default=64, help="side of the images")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    own = scipy.linalg.sqrtm
    try:
        own(np.eye(2), disp=False)
    except TypeError:  # scipy 1.18 dropped the argument that clean-fid gives
        scipy.linalg.sqrtm = lambda a, disp=True: own(a) if disp else (own(a), None)
    n, threads = arguments.images, arguments.threads
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        samples, real = (
            write_folder(folder / name, pictures(n, seed, arguments.size))
            for name, seed in (("samples", 1), ("real", 2))
        )
        table = prompts(folder / "prompts.json", [f"{row:04}" for row in range(n)])
        inception_weights(), clip_weights()
        warm_up = write_folder(
            folder / "warm", pictures(10, 3, arguments.size)
        )  # imports and threads count for nobody
        ours(warm_up, warm_up, table, 5, threads, folder / "warm-cache", "library")
        size, cold, warm = min(n, 1000), {}, {}
        for layout in get_args(Layout):
            cache = folder / layout
            cold[layout] = timed(ours, samples, real, table, size, threads, cache, layout)
            shutil.rmtree(cache / "features")
            warm[layout] = timed(ours, samples, real, table, size, threads, cache, layout)
        library = timed(libraries, samples, real, table, size, None)
        names = folder / "names"
        names.mkdir()
        from safetensors.numpy import load_file

        built = [
            load_file(path / "statistics.safetensors")
            for path in (cache / "references").iterdir()
            if '"clean"' in (path / "manifest.json").read_text()
        ][0]
        np.savez(names / "clean_fid.npz", mu=built["2048.mu"], sigma=built["2048.sigma"])
        from torch_fidelity import calculate_metrics

        calculate_metrics(
            input1=str(warm_up),
            input2=str(real),
            cuda=False,
            fid=True,
            isc=True,
            verbose=False,
            batch_size=TORCH_FIDELITY_BATCH,
            feature_extractor="inception-v3-compat",
            feature_extractor_weights_path=str(inception_weights()),
            cache=True,
            save_cpu_ram=True,
            cache_root=str(names / "torch_fidelity"),
            input2_cache_name="real",
        )
        named = timed(libraries, samples, real, table, size, names)
    print(
        f"{n} samples and {n} real images of side {arguments.size}, {threads} threads, load "
        f"{os.getloadavg()[0]:.1f}"
    )
    for what, theirs, ours_ in (
        ("cold", library, cold),
        ("warm reference", library, warm),
        ("warm, libraries' by name", named, warm),
    ):
        for layout, mine in ours_.items():
            worst = {
                name: abs(mine[1][name] - theirs[1][name]) / max(abs(theirs[1][name]), 1)
                for name in mine[1]
            }
            for kind, which in (("wall", 0), ("CPU", 2)):
                print(
                    f"{what:26}{layout:14}{kind:>5} seconds: libraries {theirs[which]:7.1f}  ours "
                    f"{mine[which]:7.1f}  ratio "
                    f"{theirs[which] / mine[which]:5.2f}   values within {max(worst.values()):.0e}"
                )


if __name__ == "__main__":
    main()
