"""`hdbench evaluate` and `hdbench reference` on any folder or npz, on ranks, with bad input."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.numpy import load_file, save_file
from scipy import stats

from hdbench.cli import main
from hdbench.core.files import sha256
from hdbench.evaluation import references, weights
from hdbench.evaluation.extractors import Setup
from hdbench.evaluation.extractors.inception import (
    Inception,
    InceptionExtractor,
    InceptionTensorflow,
)
from hdbench.evaluation.features import Settings, Shard, extract
from hdbench.evaluation.images import open_images
from hdbench.evaluation.measure import measure
from hdbench.evaluation.protocols import BESIDE, PROTOCOLS
from hdbench.evaluation.references import Reference
from hdbench.evaluation.results import Evaluation, Result, read_results
from hdbench.metrics import Estimate, MetricInput, frechet, measure_metrics
from hdbench.metrics.manifold import Recall
from hdbench.metrics.records import COLUMNS, check, read_metrics
from hdbench.suite import schema
from tests.support.material import (
    clip_weights,
    inception_weights,
    material,
    pictures,
    prompts,
    write_folder,
)
from tests.support.tiny import run_until, stage_of, tiny_plan
from tests.unit.test_cli import leaves_this_process_alone  # noqa: F401, a fixture

N = 14


@pytest.fixture(scope="module")
def folder() -> Path:
    return write_folder(material() / "stranger/samples", pictures(N, 11))


@pytest.fixture(scope="module")
def table() -> Path:
    return prompts(material() / "stranger/prompts.json", [f"{row:04}" for row in range(N)])


def invoke(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def clip(samples: Path, table: Path, cache: Path, *more: object):
    """The quickest protocol: CLIP, with a tiny network."""
    return invoke(
        "evaluate",
        "--samples",
        samples,
        "--protocol",
        "clip_score",
        "--prompts",
        table,
        "--cache",
        cache,
        "--weights",
        f"clip={clip_weights()}",
        "--allow",
        "other-weights",
        *more,
    )


def inception(samples: Path, protocol: str, cache: Path, *more: object):
    return invoke(
        "evaluate",
        "--samples",
        samples,
        "--protocol",
        protocol,
        "--cache",
        cache,
        "--weights",
        f"inception={inception_weights()}",
        "--allow",
        "other-weights",
        *more,
    )


def refusal(result) -> str:
    """The one sentence of a command that refused."""
    assert result.exit_code == 2, result.output + str(result.exception)
    lines = [line for line in result.output.splitlines() if line.startswith("hdbench: ")]
    assert len(lines) == 1 and result.output.splitlines()[-1] == lines[0], result.output
    return lines[0].removeprefix("hdbench: ")


# any samples


@pytest.mark.parametrize("command", ["evaluate", "reference"])
def test_help_and_suites_know_every_protocol(command):
    """Both take the names from one place; a suite's has a distance to compare arms by."""
    words = invoke(command, "--help").output.replace(",", " ").replace(".", " ").split()
    assert set(PROTOCOLS) <= set(words)
    of_suites = get_args(schema.Evaluation.model_fields["protocol"].annotation)
    assert set(of_suites) == set(PROTOCOLS) - set(BESIDE.values())


def test_a_folder_and_its_npz_give_the_same_numbers(folder, table, tmp_path):
    array = pictures(N, 11)
    np.savez(tmp_path / "all.npz", arr_0=array, ids=[f"{row:04}" for row in range(N)])
    np.savez_compressed(tmp_path / "packed.npz", arr_0=array, ids=[f"{row:04}" for row in range(N)])
    (tmp_path / "shards").mkdir()
    for part, rows in (("a", slice(0, 5)), ("b", slice(5, N))):
        np.savez(
            tmp_path / "shards" / f"{part}.npz",
            arr_0=array[rows],
            ids=[f"{row:04}" for row in range(N)][rows],
        )
    values = {}
    for samples in (folder, tmp_path / "all.npz", tmp_path / "packed.npz", tmp_path / "shards"):
        result = clip(
            samples, table, tmp_path / "cache", "--out", tmp_path / "out" / f"{samples.stem}.csv"
        )
        assert result.exit_code == 0, result.output
        values[samples.name] = read_metrics(tmp_path / "out" / f"{samples.stem}.csv").value.item()
    assert len(set(values.values())) == 1


def test_what_is_printed_and_written(folder, table, tmp_path):
    result = clip(
        folder, table, tmp_path / "cache", "--out", tmp_path / "run.csv", "--name", "mine"
    )
    frame = read_metrics(tmp_path / "run.csv")
    assert list(frame.columns) == list(COLUMNS) and frame.metric.tolist() == [f"clip_score_{N}"]
    assert (frame.arm.item(), frame.n.item()) == ("mine", N)
    digest = weights.find("clip", str(clip_weights()), tmp_path, True).sha256[:12]
    assert frame.protocol.item() == f"clip_score[clip={digest}]:-"
    found = read_results(tmp_path / "run.npz")["clip_score"]
    half = stats.t.ppf(0.975, found.estimate.design.degrees(N)) * frame.se.item()
    row = next(line for line in result.output.splitlines() if line.startswith("clip_score_"))
    assert f"[{frame.value.item() - half:.6g}, {frame.value.item() + half:.6g}]" in row
    assert f"clip_score[clip={digest}]" in row
    assert found.ids == tuple(f"{row:04}" for row in range(N))
    assert (
        found.estimate.standard_error == pytest.approx(frame.se.item())
        and len(found.estimate.influence) == N
    )
    clip(folder, table, tmp_path / "cache", "--out", tmp_path / "run.json")
    document = json.loads((tmp_path / "run.json").read_text())
    assert document["metrics"][0]["metric"] == f"clip_score_{N}" and document["sizes"] == {
        "64x64": N
    }
    assert document["weights"]["clip"][:12] == digest and document["labels"] == "unknown"


def test_the_interval_of_a_share_ends_at_one():
    estimate = Estimate(0.98, np.arange(4.0)).with_standard_error(0.05)
    evaluation = Evaluation(
        name="x",
        protocol="p:r",
        reference="r",
        digest="d",
        results={"recall": Result(estimate, tuple("abcd")), "kid": Result(estimate, tuple("abcd"))},
    )
    low, high = Recall.limits(0.98, 0.05)
    assert high < 1 and f"[{low:.6g}, {high:.6g}]" in evaluation.table()
    half = 0.05 * stats.t.ppf(0.975, 3)
    assert f"[{0.98 - half:.6g}, {0.98 + half:.6g}]" in evaluation.table()


def test_a_count_stands_in_the_name_and_the_same_ids_are_drawn(folder, table, tmp_path):
    for name in ("one", "two"):
        assert (
            clip(
                folder, table, tmp_path / name, "--n", 6, "--out", tmp_path / f"{name}.csv"
            ).exit_code
            == 0
        )
    assert read_metrics(tmp_path / "one.csv").metric.item() == "clip_score_6"
    assert (
        read_results(tmp_path / "one.npz")["clip_score"].ids
        == read_results(tmp_path / "two.npz")["clip_score"].ids
    )
    assert "give 2 to 14" in refusal(clip(folder, table, tmp_path / "three", "--n", 15))
    assert not (tmp_path / "three").exists()


def test_tables_of_two_protocols_are_not_mixed():
    frames = [
        Evaluation(
            name="a",
            protocol=protocol,
            reference="r",
            digest="d",
            results={metric: Result(Estimate(1.0, np.zeros(4)), ("a", "b", "c", "d"))},
        ).frame()
        for protocol, metric in (
            ("clean_fid:r", "fid"),
            ("clip_score:-", "clip_score"),
            ("torch_fidelity:r", "fid"),
        )
    ]
    assert len(check(pd.concat(frames[:2]))) == 2  # of different metrics, which are not compared
    frames[2]["arm"] = "b"
    with pytest.raises(Exception, match="mixes the protocols clean_fid:r, torch_fidelity:r"):
        check(pd.concat(frames))


# any batch size, any number of processes


def test_batch_size_and_ranks_change_no_feature(folder, tmp_path):
    """Inception, bit for bit: batches of 3 and 16, one process, and three ranks in any order."""
    found = weights.find("inception", str(inception_weights()), tmp_path, True)
    setup = Setup(device=torch.device("cpu"))
    network = InceptionTensorflow.load(found, setup)
    extractor = InceptionTensorflow(network, found, ("2048", "spatial"), setup)
    images = open_images(folder)
    runs = []
    for name, batch, world in (("a", 16, 1), ("b", 3, 1), ("c", 2, 3)):
        for rank in reversed(range(world)):
            shard = Shard.of(rank, world, 1.0)
            found = extract(
                images,
                [extractor],
                None,
                Settings(cache=tmp_path / name, shard=shard, batch=batch, threads=2),
            )
            assert (found is None) == (rank > 0)
        runs.append(found[0])
    for layer in ("2048", "spatial"):
        assert runs[0][layer].shape[0] == N
        for other in runs[1:]:
            np.testing.assert_array_equal(runs[0][layer], other[layer])
    written = [
        json.loads(path.read_text())["ids"]
        for path in sorted((tmp_path / "c").rglob("shard-*.json"))
    ]
    assert sorted(name for part in written for name in part) == sorted(images.ids) and [
        len(p) for p in written
    ] == [5, 5, 4]


def test_channels_last_is_as_exact_as_the_library(tmp_path):
    """Both layers are as near to float64 as the library's; either layout's reference serves both.

    These weights are random and amplify rounding: the library itself is 1e-4 off.
    """
    found = weights.find("inception", str(inception_weights()), tmp_path, True)
    layers = ("2048", "spatial")
    setups = [
        Setup(device=torch.device("cpu"), layout=layout) for layout in ("library", "channels-last")
    ]
    extractors = [
        InceptionTensorflow(InceptionTensorflow.load(found, setup), found, layers, setup)
        for setup in setups
    ]
    library, folded = (extractor.loaded for extractor in extractors)
    x = extractors[0].scaled(torch.from_numpy(pictures(2, 17)).permute(0, 3, 1, 2))
    one, other = library(x, layers), folded(x, layers)
    library.body.double()
    exact = library(x.double(), layers)
    for layer in layers:
        errors = [
            (float32[layer] - exact[layer]).abs().max() / exact[layer].abs().max()
            for float32 in (one, other)
        ]
        assert 0 < errors[1] < 2 * errors[0] < 4e-4
    nothing = frechet.GaussianReference.of_statistics(np.zeros(3), np.eye(3))
    for one, other in (extractors, extractors[::-1]):
        built = Reference(
            digest="",
            key={"extractor": one.description()},
            folder=tmp_path,
            ids=(),
            features={"2048": np.eye(3)},
            statistics={"2048": nothing, "spatial": nothing},
        )
        assert references.checked(built, PROTOCOLS["adm_imagenet256_50k"], other) is built


def test_ranks_from_the_environment(folder, table, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    result = clip(folder, table, tmp_path / "two", "--out", tmp_path / "two.csv")
    assert result.exit_code == 0 and "rank 1 of 2: features are written" in result.output
    assert not (tmp_path / "two.csv").exists()
    monkeypatch.setenv("RANK", "0")
    assert clip(folder, table, tmp_path / "two", "--out", tmp_path / "two.csv").exit_code == 0
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    assert clip(folder, table, tmp_path / "one", "--out", tmp_path / "one.csv").exit_code == 0
    pd.testing.assert_frame_equal(
        read_metrics(tmp_path / "one.csv"), read_metrics(tmp_path / "two.csv"), rtol=1e-6
    )


def test_a_rank_that_fails_says_so_and_rank_0_says_which(table, tmp_path, monkeypatch):
    samples = broken_samples("truncated", tmp_path)  # 0003.png is rank 1's
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    sentence = refusal(clip(samples, table, tmp_path / "cache"))
    assert sentence.startswith("rank 1: ") and "0003.png: broken image" in sentence
    monkeypatch.setenv("RANK", "0")
    assert "no features from rank 1 of 2" in refusal(
        clip(samples, table, tmp_path / "cache", "--wait-seconds", 0)
    )


def test_a_rank_that_does_not_come(folder, table, tmp_path):
    result = clip(
        folder, table, tmp_path / "cache", "--rank", 0, "--world-size", 2, "--wait-seconds", 0.5
    )
    assert "no features from rank 1 of 2 after 0 seconds" in refusal(result).replace(
        "after 1 s", "after 0 s"
    )
    assert "ranks count from 0" in refusal(
        clip(folder, table, tmp_path / "cache", "--rank", 2, "--world-size", 2)
    )


# references


def exact_distances(monkeypatch) -> None:
    """The libraries' arithmetic of singular covariances takes seconds, and has its own test."""
    monkeypatch.setattr(frechet, "is_singular", lambda n, reference: False)


def test_a_reference_is_built_found_again_and_checked(tmp_path, monkeypatch):
    """Built, used from the cache and by path, then stale in each way, then tampered with."""
    exact_distances(monkeypatch)
    real = write_folder(tmp_path / "real", pictures(6, 21, 32))
    samples = write_folder(tmp_path / "samples", pictures(6, 22, 32))
    common = (
        "--cache",
        tmp_path / "cache",
        "--weights",
        f"inception={inception_weights()}",
        "--allow",
        "other-weights",
    )
    built = invoke(
        "reference",
        "--source",
        real,
        "--protocol",
        "clean_fid",
        "--out",
        tmp_path / "built",
        *common,
    )
    assert built.exit_code == 0, built.output + str(built.exception)
    assert list((tmp_path / "cache/features").iterdir()) == []  # they are part of the reference
    arrays = load_file(tmp_path / "built/statistics.safetensors")
    kept = ("2048.mu", "2048.sigma", "2048.root")  # singular: no Cholesky factor
    assert {name: array.dtype for name, array in arrays.items()} == dict.fromkeys(kept, np.float64)
    np.testing.assert_allclose(
        arrays["2048.root"] @ arrays["2048.root"], arrays["2048.sigma"], atol=1e-9
    )
    tables = []
    for reference in (real, tmp_path / "built"):
        result = inception(
            samples,
            "clean_fid",
            tmp_path / "cache",
            "--reference",
            reference,
            "--out",
            tmp_path / "x.csv",
        )
        assert result.exit_code == 0, result.output
        tables.append(read_metrics(tmp_path / "x.csv"))
    pd.testing.assert_frame_equal(*tables)
    assert len(list((tmp_path / "cache/references").iterdir())) == 1

    other = tmp_path / "other.pth"
    state = torch.load(inception_weights(), weights_only=True)
    torch.save(state | {"fc.bias": state["fc.bias"] + 1}, other)
    result = invoke(
        "evaluate",
        "--samples",
        samples,
        "--protocol",
        "clean_fid",
        "--reference",
        tmp_path / "built",
        "--cache",
        tmp_path / "cache",
        "--weights",
        f"inception={other}",
        "--allow",
        "other-weights",
    )
    assert "stale: built with weights" in refusal(result)
    write_folder(real, pictures(7, 21, 32))
    assert "have changed since" in refusal(
        inception(samples, "clean_fid", tmp_path / "cache", "--reference", tmp_path / "built")
    )
    shutil.rmtree(real)
    for file in ("statistics.safetensors", "manifest.json"):
        broken = shutil.copytree(tmp_path / "built", tmp_path / f"broken-{file}")
        content = bytearray((broken / file).read_bytes())
        where = content.index(b'"n": 6') + 5 if file == "manifest.json" else len(content) // 2
        content[where] ^= 1
        (broken / file).write_bytes(content)
        assert "tampered with" in refusal(
            inception(samples, "clean_fid", tmp_path / "cache", "--reference", broken)
        )
    features = next((tmp_path / "cache/features").glob("*/shard-0-of-1.safetensors"))
    features.write_bytes(features.read_bytes()[:-4] + b"abcd")
    assert "differs from its manifest" in refusal(
        inception(samples, "clean_fid", tmp_path / "cache", "--reference", tmp_path / "built")
    )


def test_statistics_of_adm_are_taken_as_they_are(tmp_path, monkeypatch):
    """FID and sFID from its statistics, precision and recall from arr_0; a small network."""
    exact_distances(monkeypatch)
    monkeypatch.setattr(
        InceptionExtractor,
        "__call__",
        lambda self, prepared, texts: {
            layer: torch.stack(prepared)
            .flatten(1)[:, : {"2048": 2048, "spatial": 2023}[layer]]
            .float()
            .numpy()
            / 64
            for layer in self.layers
        },
    )
    rng, arrays = np.random.default_rng(0), {}
    for (mu, sigma), d in ((("mu", "sigma"), 2048), (("mu_s", "sigma_s"), 2023)):
        arrays |= {mu: rng.normal(size=d), sigma: np.diag(rng.uniform(0.5, 2, size=d))}
    np.savez(tmp_path / "virtual.npz", arr_0=pictures(8, 31, 32), **arrays)
    samples = write_folder(tmp_path / "samples", pictures(8, 32, 32))
    result = inception(
        samples,
        "adm_imagenet256_50k",
        tmp_path / "cache",
        "--n",
        8,
        "--reference",
        tmp_path / "virtual.npz",
        "--out",
        tmp_path / "x.csv",
        "--no-intervals",
    )
    assert result.exit_code == 0, result.output + str(result.exception)
    frame = read_metrics(tmp_path / "x.csv").set_index("metric")
    assert frame.index.tolist() == [
        "fid_8",
        "sfid_8",
        "inception_score_8",
        "precision_8",
        "recall_8",
    ]
    x = pictures(8, 32, 32).transpose(0, 3, 1, 2).reshape(8, -1) / 64
    for metric, mu, sigma, d in (
        ("fid_8", "mu", "sigma", 2048),
        ("sfid_8", "mu_s", "sigma_s", 2023),
    ):
        root = np.sqrt(arrays[sigma])  # diagonal
        reference = frechet.GaussianReference(mu=arrays[mu], sigma=arrays[sigma], root=root)
        assert frame.value[metric] == pytest.approx(
            frechet.distance(x[:, :d].astype(np.float32), reference), rel=1e-6
        )
    assert frame.protocol.iloc[0].endswith(sha256(tmp_path / "virtual.npz")[:16])
    assert "images are 32x32, those of adm_imagenet256_50k 256x256" in result.output
    np.savez(
        tmp_path / "half.npz", arr_0=pictures(8, 31, 32), mu=arrays["mu"], sigma=arrays["sigma"]
    )
    assert "has no mu_s and no sigma_s" in refusal(
        inception(
            samples,
            "adm_imagenet256_50k",
            tmp_path / "cache",
            "--n",
            8,
            "--reference",
            tmp_path / "half.npz",
        )
    )
    np.savez(tmp_path / "bare.npz", **arrays)
    assert "has no arr_0" in refusal(
        inception(
            samples,
            "adm_imagenet256_50k",
            tmp_path / "cache",
            "--n",
            8,
            "--reference",
            tmp_path / "bare.npz",
        )
    )


def test_fid_of_each_category():
    """A category with one image on a side has no distance."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 60, 4)).astype(np.float32)
    others = [{"category": "art" if row < 24 else "food"} for row in range(60)]
    sample = MetricInput(
        features=x,
        reference=y,
        captions=[*others[:58], {"category": "alone"}, {}],
        real_captions=others,
    )
    estimates = measure_metrics(["fid_{category}"], sample)
    assert {name: len(estimate.rows) for name, estimate in estimates.items()} == {
        "fid_art": 24,
        "fid_food": 34,
    }
    statistics = frechet.GaussianReference.of_statistics(*frechet.moments(y[:24]))
    assert estimates["fid_art"].value == pytest.approx(
        frechet.distance(x[:24], statistics), rel=1e-9
    )


def test_mjhq_against_pytorch_fids_arithmetic(tmp_path, monkeypatch):
    """FID overall and by category, and CLIP score, from files on; a small network."""
    import open_clip
    import torchvision.transforms as T
    from torch.nn.functional import adaptive_avg_pool2d, interpolate
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    monkeypatch.setattr(
        Inception,
        "__call__",
        lambda self, x, layers: {"2048": adaptive_avg_pool2d(x, 3).flatten(1)},
    )
    names = [f"{row:04}" for row in range(60)]
    folders = [
        write_folder(tmp_path / name, pictures(60, seed, 80)[:, :, :64], names)
        for name, seed in (("x", 1), ("y", 2))
    ]
    table = prompts(
        tmp_path / "prompts.json", names, ["art" if row % 3 else "food" for row in range(60)]
    )
    result = inception(
        folders[0],
        "mjhq30k",
        tmp_path / "cache",
        "--reference",
        folders[1],
        "--prompts",
        table,
        "--weights",
        f"clip={clip_weights()}",
        "--resolution",
        48,
        "--n",
        60,
        "--out",
        tmp_path / "x.csv",
    )
    assert result.exit_code == 0, result.output + str(result.exception)
    frame = read_metrics(tmp_path / "x.csv").set_index("metric")
    assert frame.n.to_dict() == {
        "fid_60": 60,
        "fid_art_40": 40,
        "fid_food_20": 20,
        "clip_score_60": 60,
    }
    assert frame.protocol.iloc[0].startswith("mjhq30k[resolution=48]")

    def features(folder: Path) -> np.ndarray:
        transform = T.Compose([T.Resize(48), T.CenterCrop(48), T.ToTensor()])
        x = torch.stack(
            [transform(Image.open(folder / f"{name}.png").convert("RGB")) for name in names]
        )
        x = interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)
        return adaptive_avg_pool2d(2 * x - 1, 3).flatten(1).double().numpy()

    x, y = features(folders[0]), features(folders[1])
    rows = np.arange(60)
    for metric, chosen in (
        ("fid_60", rows),
        ("fid_art_40", rows[rows % 3 > 0]),
        ("fid_food_20", rows[rows % 3 == 0]),
    ):
        sides = [
            {"mu": part.mean(0), "sigma": np.cov(part, rowvar=False)}
            for part in (x[chosen], y[chosen])
        ]
        expected = fid_statistics_to_metric(*sides, False)["frechet_inception_distance"]
        assert frame.value[metric] == pytest.approx(expected, rel=1e-6), metric

    network, _, transform = open_clip.create_model_and_transforms(f"local-dir:{clip_weights()}")
    network.eval()
    with torch.no_grad():
        images = network.encode_image(
            torch.stack([transform(Image.open(folders[0] / f"{name}.png")) for name in names]), True
        )
        texts = network.encode_text(
            open_clip.tokenize([f"a photo of thing {row % 7}" for row in range(60)]), True
        )
    assert frame.value["clip_score_60"] == pytest.approx(
        100 * (images * texts).sum(1).mean().item(), rel=1e-6
    )

    (folders[1] / "0000.png").rename(folders[1] / "unknown.png")
    result = inception(
        folders[0],
        "mjhq30k",
        tmp_path / "fresh",
        "--reference",
        folders[1],
        "--prompts",
        table,
        "--weights",
        f"clip={clip_weights()}",
        "--n",
        60,
    )
    assert "has no prompt for 'unknown'" in refusal(result) and not (tmp_path / "fresh").exists()


def test_measure_keeps_the_order_of_the_protocol():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 50, 6)).astype(np.float32)
    real = Reference(
        digest="",
        key={},
        folder=Path("."),
        ids=(),
        features={"2048": y},
        statistics={"2048": frechet.GaussianReference.of_statistics(*frechet.moments(y))},
    )
    protocol = PROTOCOLS["torch_fidelity"].model_copy(update={"kid_subset_size": 20})
    (name,) = protocol.extractors
    found = measure(
        protocol, {name: {"2048": x}}, {name: real}, rng.normal(size=(5, 6)), torch.device("cpu")
    )
    assert tuple(found) == protocol.metrics and all(
        np.isfinite(e.standard_error) for e in found.values()
    )


def test_the_classifier_protocol_by_hand_is_the_evaluate_stage(tmp_path):
    """The numbers of a suite's own evaluate stage, from its samples as any file."""
    plan = tiny_plan(tmp_path)
    stage = stage_of(plan, "evaluate", "td")
    run_until(plan, tmp_path / "results", stage)
    parents = plan.stages[stage].parents
    samples = tmp_path / "results/stages" / parents["sample"] / "samples.npz"
    result = invoke(
        "evaluate",
        "--samples",
        samples,
        "--protocol",
        "classifier",
        "--reference",
        tmp_path / "results/stages" / parents["reference"],
        "--out",
        tmp_path / "x.csv",
    )
    assert result.exit_code == 0, result.output + str(result.exception)
    theirs = pd.read_csv(tmp_path / "results/stages" / stage / "metrics.csv")
    ours = read_metrics(tmp_path / "x.csv")
    assert ours.value.tolist() == theirs.value.tolist() and ours.se.tolist() == theirs.se.tolist()
    evaluate = ["evaluate", "--protocol", "classifier", "--samples"]
    assert "a reference stage" in refusal(invoke(*evaluate, samples, "--reference", tmp_path))
    with np.load(samples) as arrays:
        labels = np.where(arrays["labels"] == 1, 0, arrays["labels"])
        np.savez(tmp_path / "few.npz", **dict(arrays) | {"labels": labels})
    reference = tmp_path / "results/stages" / parents["reference"]
    sentence = refusal(invoke(*evaluate, tmp_path / "few.npz", "--reference", reference))
    assert "has no image of class 1" in sentence and "give samples of every class" in sentence


# bad input


def test_without_weights_a_sentence_says_which_file_from_where_to_put_where(
    folder, table, tmp_path, monkeypatch
):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    for protocol, file in (
        ("clean_fid", "weights-inception-2015-12-05-6726825d.pth"),
        ("clip_score", "ViT-L-14.pt"),
    ):
        sentence = refusal(
            invoke(
                "evaluate",
                "--samples",
                folder,
                "--protocol",
                protocol,
                "--cache",
                tmp_path / "cache",
            )
        )
        assert (
            file in sentence
            and "https://" in sentence
            and str(tmp_path / "cache/weights" / file) in sentence
        )
    assert not (tmp_path / "cache").exists()


def test_no_network_is_touched_when_paths_are_given(folder, table, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert clip(folder, table, tmp_path / "cache").exit_code == 0


def test_the_public_digest_is_asked_for(folder, table, tmp_path):
    common = (
        "evaluate",
        "--samples",
        folder,
        "--protocol",
        "clean_fid",
        "--cache",
        tmp_path / "cache",
    )
    sentence = refusal(invoke(*common, "--weights", f"inception={inception_weights()}"))
    assert (
        sha256(inception_weights()) in sentence and weights.PUBLIC["inception"].sha256 in sentence
    )
    assert "--allow other-weights" in sentence
    assert "there is no such file" in refusal(
        invoke(*common, "--weights", "inception=/nowhere.pth")
    )
    assert "write inception=PATH" in refusal(invoke(*common, "--weights", "/nowhere.pth"))
    assert "a folder; give the file weights-inception" in refusal(
        invoke(*common, "--weights", f"inception={tmp_path}")
    )
    assert "must be timm's, with config.json" in refusal(
        invoke(
            *common,
            "--protocol",
            "fd_dinov2",
            "--weights",
            f"dinov2={tmp_path}",
            "--weights",
            f"inception={inception_weights()}",
            "--allow",
            "other-weights",
        )
    )


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("shape", "not the weights of torch-fidelity's Inception"),
        ("text", "not a file of weights"),
        ("pickle", "not a file of weights"),
    ],
)
def test_weights_of_something_else(folder, tmp_path, kind, sentence):
    """Also a pickle that would run code: it is not run."""
    path = tmp_path / "weights.pth"
    if kind == "shape":
        torch.save({"fc.weight": torch.zeros(3, 3)}, path)
    elif kind == "text":
        path.write_text("nothing")
    else:

        class Evil:
            def __reduce__(self):
                return Path.touch, (tmp_path / "ran",)

        torch.save({"x": Evil()}, path)
    result = invoke(
        "evaluate",
        "--samples",
        folder,
        "--protocol",
        "clean_fid",
        "--reference",
        folder,
        "--weights",
        f"inception={path}",
        "--allow",
        "other-weights",
        "--cache",
        tmp_path / "cache",
    )
    assert sentence in refusal(result) and not (tmp_path / "ran").exists()
    assert not (tmp_path / "cache").exists()


def test_clips_that_do_not_serve(folder, table, tmp_path):
    """A tower of another library, which could fetch weights by itself; weights that give NaN."""

    def refused(other: Path) -> str:
        return refusal(
            invoke(
                "evaluate",
                "--samples",
                folder,
                "--protocol",
                "clip_score",
                "--prompts",
                table,
                "--cache",
                tmp_path / "cache",
                "--weights",
                f"clip={other}",
                "--allow",
                "other-weights",
            )
        )

    other = shutil.copytree(clip_weights(), tmp_path / "clip")
    state = load_file(other / "open_clip_model.safetensors")
    state["visual.proj"][:] = 3e38  # finite, but what it gives is not
    save_file(state, other / "open_clip_model.safetensors")
    assert "gives features that are not finite, first for the image '0000'" in refused(other)
    config = json.loads((other / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["timm_model_name"] = "resnet50"
    (other / "open_clip_config.json").write_text(json.dumps(config))
    assert "a tower of another library" in refused(other) and not list(
        tmp_path.glob("cache/features/*")
    )


def test_a_hub_that_cannot_be_reached_is_said_at_once(folder, table, tmp_path, monkeypatch):
    def refuse(*arguments, **more):
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for given, sentence in (
        ("hf-hub:a/b/", "write hf-hub:OWNER/NAME/FILE"),
        ("hf-hub:a/b/c", "cannot be had from the hub"),
    ):
        started = time.monotonic()
        assert sentence in refusal(
            clip(
                folder,
                table,
                tmp_path / "cache",
                "--weights",
                f"inception={given}",
                "--protocol",
                "clean_fid",
                "--reference",
                folder,
            )
        )
        assert time.monotonic() - started < 10


HEADERS = {"npz header": "(", "npz negative": (-1, 64, 64, 3), "npz huge": (10**11, 64, 64, 3)}


def png(header: bytes, pixels: bytes) -> bytes:
    """A PNG file of these chunks."""
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)
        for kind, data in chunks
    )


def broken_samples(kind: str, folder: Path) -> Path:
    images = pictures(N, 11)
    if kind == "missing":
        return folder / "absent"
    if kind.startswith("npz"):
        arrays = {
            "npz float": {"arr_0": images / np.float32(255)},
            "npz first": {"arr_0": images.transpose(0, 3, 1, 2)},
            "npz grey": {"arr_0": images[..., :1]},
            "npz name": {"x": images},
            "npz empty": {"arr_0": images[:0]},
            "npz nan": {"arr_0": np.where(images == 0, np.nan, images / 255)},
            "npz labels": {"arr_0": images, "labels": np.arange(3)},
            "npz object": {"arr_0": np.array([{}, {}])},
            "npz twice": {"arr_0": images, "ids": np.array(["a"] * N)},
        }.get(kind, {"arr_0": images})
        path = folder / "x.npz"
        np.savez(path, **arrays)
        content = bytearray(path.read_bytes())
        if kind == "npz flipped":
            content[len(content) // 2] ^= 255
        if kind == "npz encrypted":
            content[6] |= 1
            content[content.index(b"PK\1\2") + 8] |= 1
        path.write_bytes(content)
        if kind in HEADERS:
            header = (
                f"{{'descr': '|u1', 'fortran_order': False, 'shape': {HEADERS[kind]}, }}\n".encode()
            )
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(
                    "arr_0.npy", b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header
                )
        if kind == "npz ids":
            (folder / "shards").mkdir()
            np.savez(folder / "shards/a.npz", arr_0=images[:7])
            np.savez(folder / "shards/b.npz", arr_0=images[7:], ids=[f"{row}" for row in range(7)])
            return folder / "shards"
        if kind == "npz truncated":
            path.write_bytes(path.read_bytes()[:1000])
        return path
    samples = write_folder(folder / "samples", images)
    file = samples / "0003.png"
    if kind == "empty":
        shutil.rmtree(samples)
        samples.mkdir()
    if kind == "few":
        for path in sorted(samples.iterdir())[1:]:
            path.unlink()
    if kind == "truncated":
        file.write_bytes(file.read_bytes()[:3000])
    if kind == "text":
        file.write_text("not an image")
    if kind in ("L", "RGBA", "P", "1", "CMYK"):
        target = file.with_suffix(".jpg") if kind == "CMYK" else file
        Image.open(file).convert(kind).save(target)
        if target != file:
            file.unlink()
    if kind == "I;16":
        Image.fromarray(images[3, ..., 0].astype(np.uint16)).save(file)
    if kind == "sizes":
        Image.fromarray(images[3, :40]).save(file)
    if kind == "twice":
        Image.fromarray(images[3]).save(file.with_suffix(".jpg"))
    if kind == "no bytes":
        file.write_bytes(b"")
    if kind == "gif":
        Image.fromarray(images[3]).save(file, "GIF")
    if kind in ("bomb", "16 bits"):
        side, bits = (10**4, 8) if kind == "bomb" else (8, 16)
        file.write_bytes(
            png(side.to_bytes(4) * 2 + bytes((bits, 2, 0, 0, 0)), bytes(8 * (1 + 8 * 6)))
        )
    if kind == "link":
        (samples / "gone.png").symlink_to(folder / "nowhere.png")
    if kind == "loop":
        (samples / "loop").symlink_to(samples)
    if kind == "name":
        os.rename(file, os.fsencode(samples) + b"/\xff.png")
    if kind == "both":
        np.savez(samples / "x.npz", arr_0=images)
    return samples


BROKEN = [
    ("missing", "does not exist"),
    ("empty", "holds no image file (PNG, JPEG"),
    ("few", "too few images, 1"),
    ("truncated", "broken image"),
    ("text", "not a readable image"),
    ("L", "a grey image (mode L), not RGB; give --allow conversion"),
    ("1", "a grey image (mode 1)"),
    ("I;16", "a grey image (mode I;16)"),
    ("RGBA", "an image with transparency"),
    ("P", "(mode P), not RGB"),
    ("CMYK", "(mode CMYK), not RGB"),
    ("twice", "appears with two suffixes"),
    ("both", "holds both image files and npz files"),
    ("npz float", "arr_0 is float32, not uint8"),
    ("npz nan", "with values not finite, not uint8"),
    ("npz first", "it looks channels-first"),
    ("npz grey", "grey images (one channel)"),
    ("npz name", "has no arr_0"),
    ("npz empty", "not (N, H, W, 3)"),
    ("npz labels", "labels is int64 of shape (3,), not one whole number for each of 14"),
    ("npz truncated", "not a readable npz"),
    ("no bytes", "not a readable image (empty)"),
    ("gif", "a palette image (mode P)"),
    ("bomb", "by its header more than 89,478,485 pixels"),
    ("16 bits", "an image of 16 bits a channel"),
    ("link", "gone.png: not a readable image (a link to nothing"),
    ("loop", "loop: a link to a folder"),
    ("name", "a name that is not UTF-8"),
    ("npz flipped", "Bad CRC-32"),
    ("npz header", "not a readable npz"),
    ("npz negative", "not a readable npz"),
    ("npz huge", "not a readable npz"),
    ("npz encrypted", "is encrypted"),
    ("npz ids", "some of its npz files hold ids"),
    ("npz object", "not a readable npz"),
    ("npz twice", "the id 'a' appears more than once"),
]


@pytest.mark.parametrize(("kind", "sentence"), BROKEN, ids=[kind for kind, _ in BROKEN])
def test_broken_samples_are_refused_in_one_sentence_and_nothing_is_written(
    tmp_path, table, kind, sentence
):
    samples = broken_samples(kind, tmp_path)
    result = clip(samples, table, tmp_path / "cache", "--out", tmp_path / "out/x.csv")
    assert sentence in refusal(result)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("cache/features/*/*"))


def test_sizes_must_be_alike_unless_the_protocol_crops(tmp_path, table):
    samples = broken_samples("sizes", tmp_path)
    assert "images of 2 sizes (13 of 64x64, but also 64x40)" in refusal(
        inception(samples, "clean_fid", tmp_path / "cache", "--reference", samples)
    )
    assert clip(samples, table, tmp_path / "cache").exit_code == 0
    assert open_images(samples, allow=("mixed-sizes",)).sizes == {(64, 64): 13, (40, 64): 1}


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_conversion_when_it_is_allowed_is_pillows(tmp_path, mode):
    images = open_images(broken_samples(mode, tmp_path), allow=("conversion",))
    np.testing.assert_array_equal(
        images.load(3), np.asarray(Image.open(tmp_path / "samples/0003.png").convert("RGB"))
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("--protocol", "clean_fidd"),
            "--protocol = 'clean_fidd': unknown protocol; did you mean 'clean_fid'?",
        ),
        (("--protocol", "clean_fid"), "clean_fid needs a reference; give --reference"),
        (("--protocol", "clean_fid", "--reference", "/nowhere"), "/nowhere: does not exist"),
        (
            ("--protocol", "adm_imagenet256_50k"),
            "holds 14 images, adm_imagenet256_50k wants 50000; give --n 14",
        ),
        (
            ("--protocol", "torch_fidelity"),
            "too few images, 14; torch_fidelity needs at least 1000 for KID's subsets",
        ),
        (
            ("--protocol", "torch_fidelity", "--n", "9", "--kid-subset-size", "5"),
            "at least 10 for the 10 parts of the inception",
        ),
        (
            ("--protocol", "clean_fid", "--reference", "a", "--reference", "b"),
            "there is another for all protocols",
        ),
        (
            ("--protocol", "clean_fid", "--device", "meta"),
            "--device = meta: unknown device; use cpu",
        ),
        (
            ("--protocol", "clean_fid", "--weights", "inception=x"),
            "there are others for inception; give one",
        ),
        (("--protocol", "mjhq30k", "--n", "14"), "no weights for clip: get ViT-L-14.pt"),
        (
            ("--protocol", "clean_fid", "--kid-subset-size", "5"),
            "--kid-subset-size = 5: none of clean_fid has such a setting",
        ),
        (
            ("--protocol", "clean_fid", "--resolution", "5"),
            "--resolution = 5: none of clean_fid has such a setting",
        ),
        (
            ("--protocol", "clean_fid", "--out", "x.txt"),
            "--out = x.txt: give a file that ends in .csv or .json",
        ),
        (
            ("--protocol", "classifier"),
            "classifier: needs a reference; give --reference results/stages/reference/<id>",
        ),
        (
            ("--protocol", "classifier", "--protocol", "clean_fid"),
            "classifier: goes alone; give one --protocol",
        ),
        (
            ("--protocol", "classifier", "--reference", "x"),
            ": a folder; classifier takes one npz file with arr_0 (N, H, W, C) uint8 and labels",
        ),
    ],
)
def test_requests_that_make_no_sense(folder, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    result = invoke(
        "evaluate",
        "--samples",
        folder,
        "--cache",
        tmp_path / "cache",
        "--weights",
        f"inception={inception_weights()}",
        "--allow",
        "other-weights",
        *arguments,
    )
    assert sentence in refusal(result) and not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "clip_score needs a prompt for each image; give --prompts"),
        ("{", "not a JSON file"),
        ("[]", "must hold a mapping"),
        ('{"0000": {"prompt": "a"}}', "has no prompt for '0001'"),
        ('{"0000": {"prompt": 3}}', "has no prompt for '0000'"),
    ],
)
def test_prompts_that_are_missing(folder, tmp_path, content, sentence):
    if content is not None:
        (tmp_path / "prompts.json").write_text(content)
    more = () if content is None else ("--prompts", tmp_path / "prompts.json")
    result = invoke(
        "evaluate",
        "--samples",
        folder,
        "--protocol",
        "clip_score",
        "--cache",
        tmp_path / "cache",
        "--weights",
        f"clip={clip_weights()}",
        "--allow",
        "other-weights",
        *more,
    )
    assert sentence in refusal(result) and not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "give either --source or --dataset"),
        (("--source", "/nowhere"), "/nowhere: does not exist"),
        (("--dataset", "digitz:test"), "unknown data set; did you mean 'digits'?"),
        (("--dataset", "digits:dev"), "write digits:train or test"),
        (("--dataset", "digits:test"), "grey images, not RGB"),
    ],
)
def test_references_of_nothing(tmp_path, arguments, sentence):
    result = invoke(
        "reference",
        "--protocol",
        "clean_fid",
        "--cache",
        tmp_path / "cache",
        "--weights",
        f"inception={inception_weights()}",
        "--allow",
        "other-weights",
        *arguments,
    )
    assert sentence in refusal(result) and not (tmp_path / "cache").exists()


def test_a_table_that_cannot_be_written(folder, table, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert "is not a folder" in refusal(
        clip(folder, table, tmp_path / "cache", "--out", tmp_path / "file/x.csv")
    )
    # where the influences of mine.csv would go
    np.savez(tmp_path / "mine.npz", arr_0=pictures(2, 1))
    content = (tmp_path / "mine.npz").read_bytes()
    sentence = refusal(clip(folder, table, tmp_path / "cache", "--out", tmp_path / "mine.csv"))
    assert "mine.npz: is there, and hdbench has not written it" in sentence
    assert (tmp_path / "mine.npz").read_bytes() == content and not (tmp_path / "cache").exists()


def test_other_commands_do_not_import_the_evaluation_libraries():
    code = (
        "import sys, hdbench.cli, hdbench.stages; "
        "print([m for m in ('torch_fidelity', 'cleanfid', 'open_clip', 'torchvision') if m in "
        "sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ)
    )
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_a_torchscript_archive_is_read_as_clean_fids(tmp_path):
    """clean-fid's own file has the network under `layers`: the features of the plain weights."""

    class Archive(torch.nn.Module):
        def __init__(self, layers):
            super().__init__()
            self.layers = layers

        def forward(self, x):
            return self.layers(x)

    plain = Inception(
        weights.find("inception", str(inception_weights()), tmp_path, True), torch.device("cpu")
    )
    body = torch.nn.Sequential(*plain.body[:4])  # enough of it to be traced in no time
    buffer = io.BytesIO()
    torch.jit.save(
        torch.jit.trace(Archive(body), torch.zeros(1, 3, 299, 299), check_trace=False), buffer
    )
    (tmp_path / "inception-2015-12-05.pt").write_bytes(buffer.getvalue())
    found = weights.find("inception", str(tmp_path / "inception-2015-12-05.pt"), tmp_path, True)
    network, x = Inception(found, torch.device("cpu")), torch.rand(2, 3, 299, 299)
    torch.testing.assert_close(network(x, ("2048",))["2048"], body(x).flatten(1))
    assert network.classifier is None
