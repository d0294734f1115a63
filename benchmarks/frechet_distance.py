"""Frechet distance at d = 2048: ours beside torch-fidelity's and clean-fid's, on equal statistics.

    python benchmarks/frechet_distance.py [--repeats 5] [--d 2048] [--threads 1 2] [--no-clean-fid]

Timed are mean and covariance of the samples -> value, for all alike.  Ours takes the reference's
Cholesky factor from its cache, as an evaluation does; what making it costs is printed apart.
Repeats run all of them one after the other, so that a busy machine slows all; ratios are within a
repeat.  Seconds of the processor are what other processes change least: read those of one thread
where there are such, since threads that wait for each other count as well.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.linalg
import torch
from threadpoolctl import threadpool_limits

from hdbench.metrics.frechet import GaussianReference, moments, statistics_distance


class Timed(NamedTuple):
    """Seconds on the wall and of all processors, and the distance."""

    wall: float
    cpu: float
    value: float


def timed(function: Callable[[], float]) -> Timed:
    wall = time.perf_counter()
    cpu = time.process_time()
    value = float(function())
    return Timed(time.perf_counter() - wall, time.process_time() - cpu, value)


def features(n: int, d: int, seed: int, scale: float) -> np.ndarray:
    """Rectified, correlated, with eigenvalues over five orders of magnitude, as Inception's are."""
    scales = np.exp(-np.arange(d) / d * 5)[:, None]
    mixing = np.random.default_rng(0).normal(size=(d, d)) / d**0.5 * scales
    return np.maximum(0.3 + scale * np.random.default_rng(seed).normal(size=(n, d)) @ mixing, 0)


def keep_old_sqrtm() -> None:
    """scipy 1.18 dropped the argument that clean-fid gives."""
    sqrtm = scipy.linalg.sqrtm
    try:
        sqrtm(np.eye(2), disp=False)
    except TypeError:
        scipy.linalg.sqrtm = lambda a, disp=True: sqrtm(a) if disp else (sqrtm(a), None)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--d", type=int, default=2048)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument(
        "--no-clean-fid", action="store_true", help="its function takes the longest by far"
    )
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    d = arguments.d
    (mu, sigma), statistics = (
        moments(features(2 * d, d, seed, scale)) for seed, scale in ((1, 1.0), (2, 1.05))
    )
    prepared = timed(lambda: len(GaussianReference.of_statistics(*statistics).mu))
    functions = competitors(mu, sigma, *statistics, clean_fid=not arguments.no_clean_fid)
    print(
        f"d = {d}, {os.cpu_count()} cores; the reference's factor, once: {prepared.cpu:.2f} s of "
        "the processor"
    )
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        with threadpool_limits(threads):
            functions["hdbench"]()  # the first call starts the threads of the linear algebra
            runs = [
                {name: timed(function) for name, function in functions.items()}
                for _ in range(arguments.repeats)
            ]
        print(f"{threads} thread(s), load {os.getloadavg()[0]:.1f}")
        show(runs)


def competitors(
    mu: np.ndarray, sigma: np.ndarray, mu_r: np.ndarray, sigma_r: np.ndarray, clean_fid: bool
) -> dict[str, Callable[[], float]]:
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    reference = GaussianReference.of_statistics(mu_r, sigma_r)
    functions = {
        "hdbench": lambda: statistics_distance(mu, sigma, reference),
        "torch-fidelity": lambda: fid_statistics_to_metric(
            {"mu": mu, "sigma": sigma}, {"mu": mu_r, "sigma": sigma_r}, False
        )["frechet_inception_distance"],
    }
    if clean_fid:
        from cleanfid.fid import frechet_distance

        keep_old_sqrtm()
        functions["clean-fid"] = lambda: frechet_distance(mu, sigma, mu_r, sigma_r)
    return functions


def show(runs: list[dict[str, Timed]]) -> None:
    """Medians of seconds; lowest, median and highest ratio to ours; the values' difference."""
    ours = [run["hdbench"] for run in runs]
    for name in runs[0]:
        for clock in ("wall", "cpu"):
            seconds = [getattr(run[name], clock) for run in runs]
            ratios = [s / getattr(own, clock) for s, own in zip(seconds, ours, strict=True)]
            low, middle, high = np.quantile(ratios, (0, 0.5, 1))
            value = runs[0][name].value
            print(
                f"  {name:15}{clock:>5}{np.median(seconds):8.2f} s, of ours{middle:6.1f} "
                f"({low:.1f} to {high:.1f}), {value:.14g}, {value / ours[0].value - 1:+.0e}"
            )


if __name__ == "__main__":
    main()
