"""Exported students sample by their card's lines, without hdbench, as they do here."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file

from hdbench.cli import main
from hdbench.core import files
from hdbench.core.errors import UserError
from hdbench.flow.path import generate
from hdbench.networks import autoencoders
from hdbench.networks.config import TransformerConfig
from hdbench.networks.transformer import Transformer
from hdbench.report.collect import collect
from hdbench.stages import artifact
from hdbench.stages.context import WEIGHTS
from hdbench.suite.plan import Plan
from hdbench.tools.export import write
from hdbench.tools.export.conversion import sana_to_diffusers, to_diffusers
from hdbench.tools.export.sampling import sampling_lines, sana_lines
from tests.support.tiny import run_until, stage_of, tiny_plan, write_suite

ARM = "hd_awd_logit"
TAKES = "export takes a student that was trained for one step, of a network that diffusers has"
VARIANTS = {  # how the network is told time and position, and what it gives
    "own": {},
    "grid of 16": {"patch": 1},
    "diffusers' positions": {"position_side": 8},
    "reversed": {"reversed_time": True},
    "exact GELU": {"gelu": "erf"},
    "epsilon": {"prediction": "epsilon", "time_features": 256, "position_side": 8},
    "latents": {},
}
STRANGER = """
import json, os, sys
sys.modules["hdbench"] = None
import torch
for folder in sys.argv[1:]:
    os.chdir(folder)
    found = {}
    exec(open("lines.py").read(), found)
    torch.save({name: found[name] for name in ("eps", "labels", "x", "images")}, "found.pt")
"""


def with_random_weights(network: Transformer, seed: int = 0) -> Transformer:
    """Every weight random: nothing is gated away."""
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters(), start=seed):
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 10
            parameter.copy_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
                / fan_in**0.5
            )
    return network.requires_grad_(False)


def variant(name: str) -> Transformer:
    config = TransformerConfig(
        **({"width": 32, "depth": 2, "heads": 2, "patch": 2} | VARIANTS[name])
    )
    return with_random_weights(
        Transformer(config, image_size=16, channels=4, classes=7, mean_velocity=True)
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Plan, Path, Path]:
    """A plan, its file and its results: one arm measured, one trained; weights then random."""
    folder = tmp_path_factory.mktemp("export")
    path, results = write_suite(folder), folder / "results"
    plan = tiny_plan(folder)
    run_until(plan, results, stage_of(plan, "evaluate", ARM))
    run_until(plan, results, stage_of(plan, "trajectory", "td"))
    collect(plan, results, partial=True)
    for arm, kind in ((ARM, "refine"), ("td", "trajectory")):
        made, manifest = artifact.load(results, stage_of(plan, kind, arm))
        generator = torch.Generator().manual_seed(1)
        save_file(
            {
                name: tensor + 0.2 * torch.randn(tensor.shape, generator=generator)
                for name, tensor in load_file(made / WEIGHTS).items()
            },
            made / WEIGHTS,
        )
        manifest["payload"][WEIGHTS] = hashlib.sha256((made / WEIGHTS).read_bytes()).hexdigest()
        (made / files.MANIFEST).write_text(json.dumps(manifest))
    return plan, path, results


def invoke(*arguments: object):
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


def code_of(card: str) -> str:
    (block,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return block


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory) -> dict[str, Path]:
    """Folders of two arms and of each variant, with what their lines make without hdbench."""
    plan, suite, results = trained
    folder = tmp_path_factory.mktemp("folders")
    for arm in (ARM, "td"):
        result = invoke("--suite", suite, "--results", results, "--arm", arm, "--out", folder / arm)
        assert (result.exit_code, {Path(line).name for line in result.output.split("\n")[:-1]}) == (
            0,
            {"README.md", "config.json", "diffusion_pytorch_model.safetensors"},
        ), result.output
        (folder / arm / "lines.py").write_text(code_of((folder / arm / "README.md").read_text()))
    for name in VARIANTS:
        data = (
            SimpleNamespace(stored="latents", autoencoder=autoencoder(folder / "vae"))
            if name == "latents"
            else SimpleNamespace(stored="memory")
        )
        model, scale = to_diffusers(network := variant(name))
        model.save_pretrained(folder / name)
        (folder / name / "lines.py").write_text(sampling_lines(network, scale, data))
    folders = {path.parent.name: path.parent for path in folder.glob("*/lines.py")}
    subprocess.run([sys.executable, "-c", STRANGER, *folders.values()], cwd=folder, check=True)
    return folders


def autoencoder(folder: Path) -> autoencoders.AutoencoderConfig:
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 2,
        scaling_factor=0.5,
        shift_factor=0.1,
    ).save_pretrained(folder)
    return autoencoders.AutoencoderConfig(
        name="kl", path=str(folder), channels=4, factor=2, scale=0.5, shift=0.1
    )


def compare(folder: Path, network: Transformer, decode=lambda x: x) -> None:
    """Images to 1e-5, and unclamped to 1e-5 of their scale (157 where noise is predicted)."""
    found = torch.load(folder / "found.pt")
    with torch.no_grad():
        x = generate(network, found["eps"], found["labels"])
        assert (generate(network, found["eps"], 0 * found["labels"]) - x).std() > 0.01
        x = decode(x)
    assert len(found["labels"].unique()) > 5
    torch.testing.assert_close(found["x"], x, atol=1e-5 * max(1.0, x.std().item()), rtol=0)
    assert torch.equal(found["images"], found["x"].clamp(-1, 1))


@pytest.mark.slow
@pytest.mark.parametrize(("arm", "kind"), [(ARM, "refine"), ("td", "trajectory")])
def test_lines_of_the_card_make_the_images_of_the_student(trained, exported, arm, kind):
    plan, _, results = trained
    path, manifest = artifact.load(results, stage_of(plan, kind, arm))
    network = Transformer(
        TransformerConfig(**manifest["config"]["network"]),
        image_size=8,
        channels=1,
        classes=10,
        mean_velocity=True,
    )
    network.load_state_dict(load_file(path / WEIGHTS))
    compare(exported[arm], network.requires_grad_(False))


def test_anybody_may_read_the_files_and_the_lines_save_a_picture(exported):
    weights = exported[ARM] / "diffusion_pytorch_model.safetensors"
    (exported[ARM] / "new").touch()
    assert weights.stat().st_mode == (exported[ARM] / "new").stat().st_mode
    (exported[ARM] / "new").unlink()
    picture = np.asarray(Image.open(exported[ARM] / "samples.png"))
    images = torch.load(exported[ARM] / "found.pt")["images"]
    expected = (127.5 * (images[3, 0] + 1)).round().numpy()
    assert picture.shape == (8, 80) and np.array_equal(picture[:, 24:32], expected)
    assert "\n    pip install torch diffusers" in (exported[ARM] / "README.md").read_text()


@pytest.mark.slow
def test_lines_of_a_text_to_image_card_make_the_images_of_the_student(tmp_path):
    """SANA's student, its prompts encoded by the pipeline's own text encoder."""
    from hdbench.networks.config import SanaConfig
    from hdbench.networks.sana import SanaNetwork
    from hdbench.networks.text import Conditions, TextConfig, encode
    from tests.support.pipelines import CHANNELS, FACTOR, LATENT_SIDE, TRANSFORMER, sana_pipeline

    prompts = ["a red bird on a branch", "two cups of tea"]
    text = TextConfig(
        path=str(sana_pipeline()), length=32, dtype="float32", complex_human_instruction=False
    )
    encode(prompts, text, tmp_path, torch.device("cpu"), lambda done, total: None)
    config = SanaConfig(
        width=16, depth=2, heads=2, cross_heads=4, caption_width=TRANSFORMER["caption_channels"]
    )
    network = SanaNetwork(
        config,
        image_size=LATENT_SIDE,
        channels=CHANNELS,
        conditions=Conditions(tmp_path),
        mean_velocity=True,
    )
    with_random_weights(network).eval()
    kind = autoencoders.AutoencoderConfig(
        name="dc", path=str(sana_pipeline()), channels=CHANNELS, factor=FACTOR, scale=0.41407
    )
    sana_to_diffusers(network).save_pretrained(tmp_path)
    (tmp_path / "lines.py").write_text(sana_lines(network, text, kind))
    stranger = STRANGER.replace('"labels", "x"', '"x", "z"')
    subprocess.run([sys.executable, "-c", stranger, str(tmp_path)], cwd=tmp_path, check=True)
    found = torch.load(tmp_path / "found.pt")
    with torch.no_grad():
        z = generate(network, found["eps"], torch.tensor([0, 1]))
        x = autoencoders.load(kind, torch.device("cpu")).decode(z)
    assert (generate(network, found["eps"], torch.tensor([1, 0])) - z).std() > 1e-3
    torch.testing.assert_close(found["z"], z, atol=1e-5 * max(1.0, z.std().item()), rtol=0)
    torch.testing.assert_close(found["x"], x, atol=1e-5 * max(1.0, x.std().item()), rtol=0)
    assert torch.equal(found["images"], found["x"].clamp(-1, 1))


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_time_position_and_prediction_fold(exported, name):
    decode = (
        autoencoders.load(autoencoder(exported[name].parent / "vae"), torch.device("cpu")).decode
        if name == "latents"
        else lambda x: x
    )
    compare(exported[name], variant(name), decode)
    lines = (exported[name] / "lines.py").read_text()
    own_positions = ("own", "reversed", "exact GELU", "latents")
    assert ("get_2d_sincos_pos_embed" in lines) == (name in own_positions)
    assert ("AutoencoderKL" in lines) == (name == "latents")


def test_every_weight_is_set():
    """Two exports are the same to the bit, whatever numbers diffusers begins with."""
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append(to_diffusers(variant("own"))[0].state_dict())
    assert all(torch.equal(states[0][name], tensor) for name, tensor in states[1].items())


def test_card_says_what_the_student_is_and_how_good(trained, exported):
    plan, _, results = trained
    card = (exported[ARM] / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert (
        front["library_name"] == "diffusers"
        and front["license"] == "apache-2.0"
        and "digits" in front["tags"]
    )
    for text in (
        f"of the arm `{ARM}` of hdbench's suite `tiny`",
        stage_of(plan, "refine", ARM),
        "\n# MeanFlow → DMD + AWD-logit†, one step\n",
        "from scratch by flow_matching; guidance 1.5",
        "1,797 real 8x8 handwritten digits",
        "† Reconstruction: the paper gives no formula",
        "| Chains ",
        "1 of 1",
        "N = 64 images a set",
    ):
        assert text in card, text
    settings = yaml.safe_load(re.search(r"```yaml\n(.*?)```", card, re.DOTALL)[1])
    assert settings["refine"] == plan.arms[ARM].refine.model_dump(mode="json")
    assert (
        settings["trajectory"]["objective"]["name"] == "meanflow"
        and settings["network"]["width"] == 16
    )
    shown = dict(re.findall(r"^\| ([^|]*?) +\| ([^|]*?) +\|$", card, re.MULTILINE))
    measured = artifact.load(results, stage_of(plan, "evaluate", ARM))[0] / "metrics.csv"
    value = float(re.search(r"^fd_test,([^,]*),", measured.read_text(), re.MULTILINE)[1])
    mean, half = (float(part.replace(",", "")) for part in shown["FD test 64 ↓"].split(" ± "))
    assert mean == pytest.approx(value, rel=0.05) and half > 0
    assert shown["Protocol"].startswith("classifier[splits=chain]:")


def test_card_without_metrics_and_without_an_adaptive_head(exported):
    """What was not collected is "-"; nothing is a reconstruction that is none."""
    card = (exported["td"] / "README.md").read_text()
    shown = dict(re.findall(r"^\| ([^|]*?) +\| ([^|]*?) +\|$", card, re.MULTILINE))
    assert (
        shown["FD test 64 ↓"] == shown["Precision ↑"] == shown["Protocol"] == "-"
        and shown["Chains"] == "0 of 1"
    )
    assert "Reconstruction" not in card and "refine:" not in card


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--arm", "real_test"), "--arm = 'real_test': its images are real; " + TAKES),
        (("--arm", "teacher"), "--arm = 'teacher': it samples from the teacher; " + TAKES),
        (("--arm", "many"), "--arm = 'many': it samples in 2, 4 steps, not in one; " + TAKES),
        (("--arm", "hd_pach"), "--arm = 'hd_pach': unknown arm; did you mean 'hd_patch'?"),
        (("--arm", "td", "--seed", 3), "--seed = 3: suite tiny has the seeds 0"),
    ],
)
def test_what_cannot_be_exported(tmp_path, arguments, sentence):
    suite = write_suite(tmp_path, {"arms.many": {"refine": None, "steps": [2, 4]}})
    result = invoke(
        "--suite", suite, "--results", tmp_path / "results", "--out", tmp_path / "out", *arguments
    )
    assert (result.exit_code, result.output) == (2, f"hdbench: {sentence}\n")
    assert not (tmp_path / "out").exists()


def test_other_faults_are_sentences_too(trained, tmp_path):
    """Not trained yet, a network that diffusers does not have, a place that cannot be written."""
    _, suite, results = trained
    result = invoke(
        "--suite", suite, "--results", results, "--arm", "cd", "--out", tmp_path / "out"
    )
    assert (
        result.exit_code == 2
        and "does not exist yet; make it with `hdbench stage trajectory --id" in result.output
    )
    wide = write_suite(tmp_path, {"network.mlp_ratio": 2.0})
    result = invoke("--suite", wide, "--results", results, "--arm", "td", "--out", tmp_path / "out")
    assert result.exit_code == 2 and "its network's mlp_ratio is not diffusers' 4" in result.output
    (tmp_path / "file").write_text("")
    result = invoke(
        "--suite", suite, "--results", results, "--arm", "td", "--out", tmp_path / "file/out"
    )
    assert (
        result.exit_code == 2
        and "cannot be written" in result.output
        and not (tmp_path / "out").exists()
    )


def test_a_full_disk_leaves_no_half_folder(tmp_path):
    """Nor files of an earlier export that are half new."""

    class Full:
        def save_pretrained(self, folder: Path) -> None:
            (folder / "config.json").write_text("{}")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for earlier in (False, True):
        out = tmp_path / "a" / "b"
        if earlier:
            out.mkdir(parents=True)
            (out / "config.json").write_text("earlier")
        with pytest.raises(UserError, match="cannot be written .No space left on device."):
            write(Full(), "card", out)
        assert (tmp_path / "a").exists() == earlier
    assert [path.name for path in out.iterdir()] == ["config.json"]
    assert (out / "config.json").read_text() == "earlier"
