"""Against torch-fidelity's, clean-fid's and open_clip's own functions; ADM's rules."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from hdbench.evaluation.evaluate import evaluate
from hdbench.evaluation.extractors import EXTRACTORS, Setup
from hdbench.evaluation.extractors.inception import InceptionExtractor
from hdbench.evaluation.features import Settings
from hdbench.evaluation.protocols import PROTOCOLS
from hdbench.evaluation.request import Request
from hdbench.evaluation.results import Evaluation
from hdbench.evaluation.weights import find
from hdbench.metrics import frechet
from tests.support.material import (
    clip_weights,
    inception_weights,
    material,
    pictures,
    prompts,
    write_folder,
)

SAMPLES, REAL = 20, 24
CPU = torch.device("cpu")
ALLOW = frozenset({"other-weights"})


def inception(kind: str, layers: tuple[str, ...], resolution: int | None = None):
    """Inception under the preprocessing, with the tests' weights."""
    row = EXTRACTORS[f"inception_{kind}"]
    setup = Setup(device=CPU, resolution=resolution)
    weights = find("inception", str(inception_weights()), material(), True)
    return row(row.load(weights, setup), weights, layers, setup)


@pytest.fixture(scope="module")
def folders() -> tuple[Path, Path]:
    return (
        write_folder(material() / "parity/samples", pictures(SAMPLES, 1)),
        write_folder(material() / "parity/real", pictures(REAL, 2)),
    )


@pytest.fixture(scope="module")
def evaluations(folders) -> dict[str, Evaluation]:
    """torch_fidelity, clean_fid and CLIP in one pass over the samples."""
    samples, real = folders
    table = prompts(material() / "parity/prompts.json", [f"{row:04}" for row in range(SAMPLES)])
    small = {"torch_fidelity": {"kid_subset_size": 15, "kid_subsets": 20}}
    protocols = tuple(
        PROTOCOLS[name].model_copy(update=small.get(name, {}))
        for name in ("torch_fidelity", "clean_fid", "clip_score")
    )
    found = evaluate(
        Request(
            samples=samples,
            protocols=protocols,
            references={"torch_fidelity": real, "clean_fid": real},
            prompts=table,
            weights={"inception": str(inception_weights()), "clip": str(clip_weights())},
            device=CPU,
            allow=ALLOW,
            settings=Settings(cache=material() / "parity/cache", batch=8),
        )
    )
    return {
        protocol.name: evaluation for protocol, evaluation in zip(protocols, found, strict=True)
    }


def features_of(evaluation_cache: Path, rows: int, preprocessing: str) -> np.ndarray:
    """The stored features of that many images."""
    from safetensors.numpy import load_file

    for manifest in (evaluation_cache / "features").glob("*/shard-0-of-1.json"):
        key = json.loads(manifest.read_text())["key"]
        if key["n"] == rows and key["extractor"].get("preprocessing") == preprocessing:
            return load_file(manifest.with_suffix(".safetensors"))["2048"]
    raise AssertionError("not stored")


def test_torch_fidelity(folders, evaluations):
    """Each metric of one calculate_metrics call, by its defaults but for KID's subsets."""
    from torch_fidelity import calculate_metrics

    expected = calculate_metrics(
        input1=str(folders[0]),
        input2=str(folders[1]),
        cuda=False,
        isc=True,
        fid=True,
        kid=True,
        prc=True,
        verbose=False,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(inception_weights()),
        batch_size=7,
        kid_subset_size=15,
        kid_subsets=20,
        cache=False,
        save_cpu_ram=True,
    )
    found = {
        metric: result.estimate.value
        for metric, result in evaluations["torch_fidelity"].results.items()
    }
    further = {"density", "coverage"}  # which torch-fidelity does not have
    assert found.keys() == {"fid", "kid", "inception_score", "precision", "recall"} | further
    for ours, theirs in (
        ("fid", "frechet_inception_distance"),
        ("kid", "kernel_inception_distance_mean"),
        ("inception_score", "inception_score_mean"),
        ("precision", "precision"),
        ("recall", "recall"),
    ):
        assert found[ours] == pytest.approx(expected[theirs], rel=1e-6), ours
    assert expected["frechet_inception_distance"] > 1 and expected["inception_score_mean"] > 1.001


@pytest.fixture
def sqrtm_of_any_scipy(monkeypatch):
    """clean-fid gives sqrtm an argument that scipy 1.18 dropped."""
    own = scipy.linalg.sqrtm

    def sqrtm(a, disp=True):
        root = own(a)
        return root if disp else (root, None)

    monkeypatch.setattr(scipy.linalg, "sqrtm", sqrtm)


def test_clean_fid(folders, evaluations, sqrtm_of_any_scipy):
    """clean-fid's compute_fid from files on, over 12 dimensions with regular covariances."""
    from cleanfid import fid

    network = inception("clean", ("2048",)).loaded
    samples = features_of(material() / "parity/cache", SAMPLES, "clean")
    alive = np.argsort(samples.std(0))[-12:].copy()

    def few_dimensions(x):
        features = network((x - 128) / 128, ("2048",))["2048"]
        return features[:, alive].double()  # or its means would be of float32

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = fid.compute_fid(
            str(folders[0]),
            str(folders[1]),
            mode="clean",
            num_workers=0,
            batch_size=6,
            device=CPU,
            verbose=False,
            custom_feat_extractor=few_dimensions,
        )
    evaluation = evaluations["clean_fid"]
    real = fid.get_folder_features(
        str(folders[1]), few_dimensions, num_workers=0, batch_size=6, device=CPU, verbose=False
    )
    found = frechet.distance(
        samples[:, alive], frechet.GaussianReference.of_statistics(*frechet.moments(real))
    )
    assert found == pytest.approx(expected, rel=1e-6)
    theirs = fid.get_folder_features(
        str(folders[0]), few_dimensions, num_workers=0, batch_size=6, device=CPU, verbose=False
    )
    np.testing.assert_array_equal(theirs, samples[:, alive])
    assert evaluation.results["fid"].estimate.value > 1


def test_clip_score(folders, evaluations):
    """A direct loop with open_clip's own loader, transform, tokenizer and normalisation."""
    import open_clip
    from PIL import Image

    network, _, transform = open_clip.create_model_and_transforms(f"local-dir:{clip_weights()}")
    network.eval()
    table, scores = json.loads((material() / "parity/prompts.json").read_text()), []
    for name in sorted(table):
        with torch.no_grad():
            image = network.encode_image(
                transform(Image.open(folders[0] / f"{name}.png"))[None], normalize=True
            )
            text = network.encode_text(open_clip.tokenize([table[name]["prompt"]]), normalize=True)
        scores.append(100 * (image @ text.T).item())
    assert evaluations["clip_score"].results["clip_score"].estimate.value == pytest.approx(
        np.mean(scores), rel=1e-6
    )
    assert np.std(scores) > 0


def test_one_pass_for_all_protocols(folders, monkeypatch):
    """Each file is decoded once, whatever the number of protocols."""
    from hdbench.evaluation import images as samples

    decoded = []
    monkeypatch.setattr(
        samples, "decode", lambda file, own=samples.decode: decoded.append(file) or own(file)
    )
    table = prompts(material() / "parity/prompts.json", [f"{row:04}" for row in range(SAMPLES)])
    monkeypatch.setattr(
        InceptionExtractor,
        "__call__",
        lambda self, prepared, texts: {
            layer: np.zeros((len(prepared), 4), np.float32) for layer in self.layers
        },
    )
    from hdbench.evaluation.features import extract
    from hdbench.evaluation.images import open_images

    images = open_images(folders[0])
    extractors = [inception(name, ("2048",), 32) for name in ("tensorflow", "clean", "pytorch_fid")]
    extract(images, extractors, None, Settings(cache=material() / "once", batch=6))
    assert len(decoded) == SAMPLES and len(set(decoded)) == SAMPLES and table.is_file()


def test_pytorch_fid_preprocessing():
    """SANA's transform and pytorch-fid's resizing and scaling, written out with their own calls."""
    import torchvision.transforms as T
    from PIL import Image

    extractor = inception("pytorch_fid", ("2048",), 48)
    network = extractor.loaded
    image = pictures(1, 5, 80)[0][:, :64]
    x = T.Compose([T.Resize(48), T.CenterCrop(48), T.ToTensor()])(Image.fromarray(image))[None]
    x = 2 * nn.functional.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False) - 1
    expected = network(x, ("2048",))["2048"].numpy()
    np.testing.assert_array_equal(extractor([extractor.prepare(image)], None)["2048"], expected)


def test_spatial_features_are_those_of_adm():
    """mixed_6/conv after its ReLU, seven channels, flattened as row, column, channel."""
    extractor = inception("tensorflow", ("2048", "spatial"))
    network = extractor.loaded
    found = extractor([extractor.prepare(image) for image in pictures(2, 6)], None)
    assert found["spatial"].shape == (2, 17 * 17 * 7) and found["2048"].shape == (2, 2048)
    *_, mixed_6c, mixed_6d = [
        module for module in network.body if type(module).__name__ == "InceptionC"
    ][:3]
    x = extractor.scaled(torch.from_numpy(pictures(2, 6)).permute(0, 3, 1, 2))
    for module in network.body:
        if module is mixed_6d:
            break
        x = module(x)
    branch = torch.relu(mixed_6d.branch1x1.bn(mixed_6d.branch1x1.conv(x)))
    np.testing.assert_allclose(
        found["spatial"].reshape(2, 17, 17, 7)[1, 3, 5], branch[1, :7, 3, 5].numpy(), rtol=1e-5
    )


def test_inception_score_of_consecutive_parts_is_adms():
    """ADM's evaluator: probabilities in order, 5,000 a part, the last part shorter."""
    from hdbench.metrics.inception_score import consecutive_splits, inception_score

    logits = np.random.default_rng(0).normal(size=(12_000, 6)).astype(np.float32)
    p = torch.softmax(torch.from_numpy(logits).double(), dim=1).numpy()
    scores = []
    for start in range(0, len(p), 5000):
        part = p[start : start + 5000]
        scores.append(np.exp((part * (np.log(part) - np.log(part.mean(0)))).sum(1).mean()))
    assert inception_score(logits, consecutive_splits(12_000)).value == pytest.approx(
        np.mean(scores), rel=1e-9
    )


def test_frechet_distance_of_singular_covariances_is_the_libraries_within_their_rounding():
    """N < d: torch-fidelity's rounding is all that differs; `library_distance` has it too."""
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    rng = np.random.default_rng(0)
    x, y = (
        rng.normal(size=(40, 128)) @ rng.normal(size=(128, 128)),
        rng.normal(size=(60, 128)) + 0.1,
    )
    (mu, sigma), reference = (
        frechet.moments(x),
        frechet.GaussianReference.of_statistics(*frechet.moments(y)),
    )
    theirs = fid_statistics_to_metric(
        {"mu": mu, "sigma": sigma}, {"mu": reference.mu, "sigma": reference.sigma}, False
    )["frechet_inception_distance"]
    assert frechet.library_distance(mu, sigma, reference) == pytest.approx(theirs, rel=1e-9)
    assert frechet.distance(x, reference) == pytest.approx(theirs, rel=1e-5)
