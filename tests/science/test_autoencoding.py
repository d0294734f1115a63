"""The autoencoder that a suite trains: its loss, the scale of its latents, and a chain in them."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch.distributions import Normal, kl_divergence

from hdbench.core.errors import UserError
from hdbench.core.files import MANIFEST, sha256
from hdbench.core.pixels import load_images, to_float, to_uint8
from hdbench.core.seeds import Draws
from hdbench.methods.base import Problem
from hdbench.methods.pretraining.autoencoding import Autoencoding, divergence
from hdbench.networks.convolutional import ConvolutionalAutoencoder, ConvolutionalConfig
from hdbench.report.ship import ship
from hdbench.stages import artifact, run
from hdbench.stages.context import LATENTS, WEIGHTS
from hdbench.suite.arms import describe
from hdbench.suite.load import load_plan
from tests.support.tiny import run_until, stage_of, tiny_plan, write_suite

TRAINED = {
    "network": {"width": 8, "factor": 2, "channels": 3},
    "training": {
        "objective": {"name": "autoencoding"},
        "steps": 30,
        "batch": 16,
        "learning_rate": 2.0e-3,
        "ema": 0.5,
    },
}


def network(**sizes) -> ConvolutionalAutoencoder:
    torch.manual_seed(0)
    config = ConvolutionalConfig(width=8, **{"factor": 4, "channels": 3} | sizes)
    return ConvolutionalAutoencoder(config, image_size=16, channels=2)


def test_the_divergence_is_that_of_two_normal_distributions():
    mean, log_variance = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64)
    q = Normal(mean, (log_variance / 2).exp())
    expected = kl_divergence(q, Normal(torch.zeros_like(mean), 1.0)).mean()
    torch.testing.assert_close(divergence(mean, log_variance), expected)


def test_the_loss_is_the_mean_error_of_a_draw_of_the_posterior_and_its_divergence():
    student = network()
    (update,) = Autoencoding(kl_weight=0.3).updates(Problem(student=student, learning_rate=1.0))
    x = torch.rand(20, 2, 16, 16) * 2 - 1
    drawn = update.draw(Draws(("here",), x, torch.zeros(20, dtype=torch.int64), 6))
    assert drawn["eps"].shape == (6, *student.latent_shape) == (6, 3, 4, 4)
    mean, log_variance = student.posterior(drawn["x"])
    y = Normal(mean, (log_variance / 2).exp()).icdf(Normal(0.0, 1.0).cdf(drawn["eps"]))
    error = (student.decoder(y) - drawn["x"]).abs().mean()
    expected = error + 0.3 * divergence(mean, log_variance)
    torch.testing.assert_close(update.loss(drawn)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_latents_have_unit_variance_and_decode_as_the_bottleneck_does(factor):
    student = network(factor=factor)
    images = torch.rand(30, 2, 16, 16) * 2 - 1
    mean, _ = student.posterior(images)
    student.calibrate(images)
    z = student.encode(images)
    assert z.shape == (30, 3, 16 // factor, 16 // factor)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(3))
    torch.testing.assert_close(student.decode(z), student.decoder(mean))
    assert student.decode(z[:0]).shape == (0, 2, 16, 16)


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A tiny suite with an autoencoder, and results of its teacher, a student and real images."""
    home = tmp_path_factory.mktemp("chain")
    real = {"trajectory": None, "refine": None, "real": "test", "autoencoded": True}
    suite = write_suite(home, {"autoencoder": TRAINED, "arms.real_auto": real})
    plan = load_plan(str(suite))
    for arm in ("hd_patch", "teacher", "real_auto"):
        run_until(plan, home / "results", stage_of(plan, "evaluate", arm))
    return suite, plan, home / "results"


@pytest.mark.slow
def test_networks_work_in_latents_of_unit_variance_and_samples_are_images(chain):
    _, plan, results = chain
    teacher = plan.stage(stage_of(plan, "teacher", "hd_patch"))
    assert teacher.config.shape.dimensions == (3, 4, 4)
    assert set(teacher.parents) == {"data", "latents"}
    folder = artifact.folder(results, teacher.parents["latents"])
    latents = load_file(folder / LATENTS)["latents"]
    assert latents.shape == (1347, 3, 4, 4)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)
    images, labels = load_images(
        artifact.folder(results, stage_of(plan, "sample", "hd_patch")) / "samples.npz"
    )
    assert images.shape == (64, 1, 8, 8) and labels.tolist() == [i % 10 for i in range(64)]


@pytest.mark.slow
def test_autoencoded_images_are_those_of_test_and_their_error_is_in_the_manifest(chain):
    _, plan, results = chain
    sample = plan.stage(stage_of(plan, "sample", "real_auto"))
    of_network = artifact.folder(results, sample.parents["autoencoder"])
    config = plan.stage(sample.parents["autoencoder"]).config
    trained = ConvolutionalAutoencoder(config.network, image_size=8, channels=1)
    trained.load_state_dict(load_file(of_network / WEIGHTS))
    real, _ = load_images(artifact.folder(results, sample.parents["source"]) / "test.npz")
    decoded, _ = load_images(artifact.folder(results, sample.id) / "samples.npz")
    restored = trained.decode(trained.encode(to_float(real)))
    assert (decoded.int() - to_uint8(restored[:64]).int()).abs().max() <= 1  # a rounding
    measured = pd.read_csv(
        artifact.folder(results, stage_of(plan, "evaluate", "real_auto")) / "metrics.csv"
    )
    assert {"fd_train", "fd_test"} <= set(
        measured.metric
    )  # they are not the test images themselves
    assert describe(plan, "real_auto") == "Real images (test, autoencoded)"
    error = json.loads((of_network / MANIFEST).read_text())["test_error"]
    assert error == pytest.approx(float((restored - to_float(real)).abs().mean()), rel=1e-4)


@pytest.mark.slow
def test_an_autoencoder_ships_with_its_teacher_and_is_taken_in_place_of_training(
    chain, tmp_path, monkeypatch
):
    suite, plan, results = chain
    shutil.copytree(results, tmp_path / "results")
    teacher = stage_of(plan, "teacher", "teacher")
    trained = next(stage for stage in plan.stages if stage.startswith("autoencoder/"))
    for stage in (teacher, trained):
        file = artifact.folder(tmp_path / "results", stage) / MANIFEST
        manifest = json.loads(file.read_text())
        manifest["environment"]["commit"] = "0" * 40
        file.write_text(json.dumps(manifest))
    files = ship(str(suite), tmp_path / "results", 0, tmp_path / "shipped")
    assert {str(path.parent.relative_to(tmp_path / "shipped")) for path in files} == {
        teacher,
        trained,
    }
    fresh = tmp_path / "fresh"
    run_until(plan, fresh, plan.stages[trained].parents["data"])
    monkeypatch.setattr(run, "STAGES", {})  # nothing could be trained
    run.run_stage(
        plan.stages[trained], fresh, torch.device("cpu"), 1e3, shipped=tmp_path / "shipped"
    )
    path, manifest = artifact.load(fresh, trained)
    assert manifest["shipped"]["folder"] == str(tmp_path / "shipped" / trained)
    assert sha256(path / WEIGHTS) == sha256(artifact.folder(results, trained) / WEIGHTS)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"arms.real_test.autoencoded": True}, "trains no autoencoder"),
        ({"autoencoder": TRAINED, "arms.td.autoencoded": True}, "autoencoded is of real images"),
        ({"autoencoder": TRAINED, "network.patch": 3}, "does not divide the latents' side 4"),
        (
            {"autoencoder": TRAINED | {"network": {"factor": 16}}},
            "factor = 16 does not divide the image side 8",
        ),
        ({"autoencoder": TRAINED | {"network": {"factor": 6}}}, "must be a power of two"),
        (
            {"autoencoder.training": TRAINED["training"] | {"objective": {"name": "meanflow"}}},
            "autoencoder.training.objective.name = 'meanflow': not for this stage",
        ),
    ],
)
def test_a_suite_whose_autoencoder_does_not_fit_is_refused(tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        tiny_plan(tmp_path, changes)
