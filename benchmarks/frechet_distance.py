"""Frechet distance at d = 2048: ours beside torch-fidelity's and clean-fid's, on equal statistics.

    python benchmarks/frechet_distance.py [--repeats 5] [--d 2048] [--no-clean-fid]

Timed are mean and covariance of the samples -> value, for all alike.  Ours takes the reference's
Cholesky factor from its cache, as an evaluation does; what making it costs is printed apart.
Pairs: each repeat runs all three, one after the other, so that a busy machine slows all; medians of
times and of ratios.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable

import numpy as np
import scipy.linalg

from hdbench.metrics.frechet import GaussianReference, moments, statistics_distance


def timed(function: Callable[[], float]) -> tuple[float, float]:
    begun = time.perf_counter()
    value = float(function())
    return time.perf_counter() - begun, value


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
    parser.add_argument(
        "--no-clean-fid", action="store_true", help="its function takes the longest by far"
    )
    arguments = parser.parse_args()
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    d = arguments.d
    (mu, sigma), (mu_r, sigma_r) = (
        moments(features(2 * d, d, seed, scale)) for seed, scale in ((1, 1.0), (2, 1.05))
    )
    begun = time.perf_counter()
    reference = GaussianReference.of_statistics(mu_r, sigma_r)
    preparation = time.perf_counter() - begun
    functions = {
        "hdbench": lambda: statistics_distance(mu, sigma, reference),
        "torch-fidelity": lambda: fid_statistics_to_metric(
            {"mu": mu, "sigma": sigma}, {"mu": mu_r, "sigma": sigma_r}, False
        )["frechet_inception_distance"],
    }
    if not arguments.no_clean_fid:
        from cleanfid.fid import frechet_distance

        keep_old_sqrtm()
        functions["clean-fid"] = lambda: frechet_distance(mu, sigma, mu_r, sigma_r)
    warnings.simplefilter("ignore")
    functions["hdbench"]()  # the first call starts the threads of the linear algebra
    runs = [
        {name: timed(function) for name, function in functions.items()}
        for _ in range(arguments.repeats)
    ]
    print(
        f"d = {d}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; the reference's root and "
        f"factor, once: {preparation:.2f} s"
    )
    print(f"{'':15}{'seconds':>9}{'of ours':>9}{'value':>22}{'difference':>12}")
    value = runs[0]["hdbench"][1]
    for name in functions:
        seconds = np.median([run[name][0] for run in runs])
        ratio = np.median([run[name][0] / run["hdbench"][0] for run in runs])
        distance = runs[0][name][1]
        error = (distance - value) / value
        print(f"{name:15}{seconds:9.2f}{ratio:9.1f}{distance:22.14g}{error:12.1e}")


if __name__ == "__main__":
    main()
