"""What a suite needs from outside: found, missing or wrong, with where to get and put it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
import yaml
from click.testing import CliRunner
from safetensors.torch import save_file

from hdbench.cli import main
from hdbench.evaluation.weights import PUBLIC
from hdbench.suite.load import load_plan
from hdbench.tools.doctor import sources as public_sources
from tests.support import shipped
from tests.support.material import inception_weights, pictures, write_folder
from tests.support.pipelines import (
    CAPTION_WIDTH,
    CHANNELS,
    FACTOR,
    LATENT_SIDE,
    kl_autoencoder,
    sana_pipeline,
)
from tests.support.sit_reference import random_reference
from tests.support.tiny import REPOSITORY, write_suite

SOURCES = REPOSITORY / "workflow/sources.yaml"


@pytest.fixture(autouse=True)
def in_repository(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


def run(*arguments: object) -> tuple[int, list[str]]:
    found = CliRunner().invoke(main, ["doctor", *map(str, arguments)])
    assert found.exception is None or isinstance(found.exception, SystemExit), found.output
    return found.exit_code, found.output.splitlines()


def states(lines: list[str]) -> dict[str, str]:
    """State by what is needed."""
    return {
        line[9:].split("  ")[0]: line.split()[0]
        for line in lines
        if line.split()[0] in ("ok", "missing", "broken")
    }


def change(tmp_path: Path, suite: str, **changes: object) -> Path:
    """A suite that extends another."""
    path = tmp_path / f"{suite}_here.yaml"
    path.write_text(yaml.safe_dump({"extends": suite, **changes}))
    return path


SIZES = {"width": 32, "depth": 1, "heads": 2, "patch": 2}
SIDE = 256 // FACTOR
AUTOENCODER = {
    "path": str(kl_autoencoder(CHANNELS, FACTOR)),
    "channels": CHANNELS,
    "factor": FACTOR,
}
NETWORK = SIZES | {"position_side": SIDE // 2}  # of imagenet256, as `sit` writes it


def halved(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


SANA = {"width": 16, "depth": 2, "heads": 2, "cross_heads": 4, "caption_width": CAPTION_WIDTH}


def sit(path: Path, extra: str | None = None) -> Path:
    """A SiT of one block for imagenet256 with the tests' autoencoder."""
    tensors = random_reference(
        image_size=SIDE, channels=CHANNELS, classes=1000, **SIZES
    ).state_dict() | ({extra: torch.zeros(1)} if extra else {})
    named = {f"ema.{key}": tensor for key, tensor in tensors.items()}
    if path.suffix == ".safetensors":
        save_file(named, path)
    else:
        torch.save(tensors, path)
    return path


@pytest.mark.parametrize("suite", shipped.SUITES)
def test_every_suite_says_what_it_needs_or_that_it_needs_nothing(suite, tmp_path):
    code, lines = run("--suite", suite, "--results", tmp_path)
    if load_plan(suite).suite.data.name != "images":
        nothing = "nothing from outside: its data are made and its networks trained in the DAG."
        assert code == 0 and lines == [f"{suite} needs {nothing}"]
        return
    found = states(lines)
    missing = [line for line in lines if line.startswith("missing")]
    suite = load_plan(suite).suite
    outside = {"data", "reference", "inception"}
    outside |= {"teacher"} if suite.teacher.checkpoint else set()
    outside |= {"autoencoder"} if suite.data.autoencoder else set()
    assert code == 1 and set(found) >= outside and missing
    assert all(
        "; licence: " in line and ("from https://" in line or "of your own" in line)
        for line in missing
    )
    assert f"; put the other {len(missing)} at" in lines[-1]


@pytest.mark.parametrize(
    "url, command",
    [
        ("https://huggingface.co/a/b", "hf download a/b --local-dir 'in a/place'"),
        (
            "https://huggingface.co/datasets/a/b",
            "hf download a/b --repo-type dataset --local-dir 'in a/place'",
        ),
        (
            "https://huggingface.co/datasets/a/b/resolve/main/meta_data.json",
            "curl -L --create-dirs -o 'in a/place' "
            "https://huggingface.co/datasets/a/b/resolve/main/meta_data.json",
        ),
        (
            "https://x.com/S.pt?k=1&d",
            "curl -L --create-dirs -o 'in a/place' 'https://x.com/S.pt?k=1&d'",
        ),
        ("https://image-net.org/download.php", None),
        ("https://x.com/images.zip", None),  # is not what the suite reads, before it is unpacked
    ],
)
def test_what_can_be_fetched_has_its_command(url, command):
    source = public_sources.Source(name="it", serves=("sit",), url=url, licence="MIT", checked=True)
    assert source.command("in a/place") == command


def test_a_wrong_suite_is_code_2():
    assert run("--suite", "imagenet25")[0] == 2


def test_imagenet_with_everything_there(tmp_path):
    data, npz = (
        write_folder(tmp_path / "data", pictures(1, 0, 8)),
        tmp_path / "VIRTUAL_imagenet256_labeled.npz",
    )
    np.savez(npz, mu=np.zeros(2), sigma=np.eye(2))
    alexnet = tmp_path / "alexnet-owt-7be5be79.pth"
    torch.save(torchvision.models.alexnet().state_dict(), alexnet)
    suite = change(
        tmp_path,
        "imagenet256",
        data={"source": str(data), "autoencoder": AUTOENCODER},
        network=NETWORK,
        base={"refine": {"objective": {"gan": {"blocks": [1], "parameters": 2000}}}},
        teacher={"checkpoint": {"path": str(sit(tmp_path / "SiT-XL-2-256x256.safetensors"))}},
        evaluation={
            "reference": str(npz),
            "weights": {"inception": str(inception_weights()), "alexnet": str(alexnet)},
        },
    )
    code, lines = run("--suite", suite)
    assert code == 0 and set(states(lines).values()) == {"ok"} and len(states(lines)) == 6
    assert lines[-1] == "imagenet256_here: 6 of 6 things that it needs from outside are there"
    (line,) = [line for line in lines if line.startswith("ok       teacher")]
    assert "names, shapes and types fit, values not read: SiT-XL/2" in line
    assert "licence: MIT" in line
    code, lines = run("--suite", suite, "--verify")
    faults = {what: state for what, state in states(lines).items() if state != "ok"}
    # of other sizes than the public ones
    assert code == 1 and faults == dict.fromkeys(("teacher", "reference"), "broken")
    assert any("it has <0.01 GB; get SiT-XL/2" in line for line in lines)


def test_public_weights_are_compared_by_sha256(tmp_path):
    place = tmp_path / "evaluation/weights/weights-inception-2015-12-05-6726825d.pth"
    place.parent.mkdir(parents=True)
    shutil.copy(inception_weights(), place)
    assert states(run("--suite", "imagenet256", "--results", tmp_path)[1])["inception"] == "ok"
    (line,) = [
        line
        for line in run("--suite", "imagenet256", "--results", tmp_path, "--verify")[1]
        if "inception" in line
    ]
    assert (
        line.startswith("broken")
        and "not 6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2" in line
    )


def test_networks_beside_the_protocol_are_looked_for(tmp_path):
    suite = change(tmp_path, "mjhq", evaluation={"metrics": ["teacher_mse", "pickscore", "hpsv2"]})
    lines = run("--suite", suite, "--results", tmp_path)[1]
    for role, file, licence in (("alexnet", "alexnet-owt-7be5be79.pth", "BSD-3-Clause"),
                                ("pickscore", "PickScore_v1", "MIT"),
                                ("hpsv2", "HPS_v2.1_compressed.pt", "Apache-2.0")):  # fmt: skip
        (line,) = [line for line in lines if line.startswith(f"missing  {role}")]
        assert file in line and f"licence: {licence}" in line and PUBLIC[role].url in line


def test_a_sana_pipeline_is_looked_at_part_by_part(tmp_path):
    folder = tmp_path / "Sana"
    shutil.copytree(sana_pipeline(), folder)
    prompts = tmp_path / "meta_data.json"
    prompts.write_text(json.dumps({"a": {"prompt": "a cat", "category": "animals"}}))
    suite = change(
        tmp_path,
        "mjhq_1024",
        data={
            "resolution": LATENT_SIDE * FACTOR,
            "autoencoder": AUTOENCODER | {"path": str(folder)},
        },
        text={"path": str(folder)},
        network=SANA,
        base={"refine": {"objective": {"gan": {"blocks": [1], "parameters": 2000}}}},
        teacher={"checkpoint": {"path": str(folder)}},
        evaluation={"prompts": str(prompts)},
    )
    found = states(run("--suite", suite)[1])
    assert {
        found[what] for what in ("teacher", "autoencoder", "text encoder", "prompts", "package")
    } == {"ok"}
    assert {found[what] for what in ("baseline sprint", "data", "reference")} == {"missing"}
    (folder / "text_encoder/model.safetensors").write_bytes(b"\0" * 8)
    (folder / "vae/config.json").write_text('{"_class_name": "AutoencoderKL"}')
    next((folder / "transformer").glob("*.safetensors")).unlink()
    prompts.write_text("[]")
    code, lines = run("--suite", suite)
    found, text = states(lines), "\n".join(lines)
    assert code == 1 and {
        found[what] for what in ("teacher", "autoencoder", "text encoder", "prompts")
    } == {"broken"}
    for said in (
        "transformer: its weights cannot be read as .safetensors (no such file is there)",
        "holds AutoencoderKL, not AutoencoderDC",
        "text_encoder/model.safetensors: not a file of weights",
        "meta_data.json holds no mapping",
    ):
        assert said in text


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.with_suffix(".pt").write_bytes(b"<html>"), "not a file of weights"),
        (lambda path: path.with_suffix(".pt").mkdir(), "a folder, not a file"),
        (
            lambda path: sit(path.with_suffix(".safetensors"), "projectors.0.weight"),
            "looks like a SiT of REPA",
        ),
        (
            lambda path: save_file({"x": torch.zeros(1)}, path.with_suffix(".safetensors")),
            "not a SiT: it lacks ",
        ),
        (lambda path: torch.save([torch.ones(2)], path.with_suffix(".pt")), "holds a list of 1"),
        (lambda path: torch.save(torch.nn.Linear(2, 2), path.with_suffix(".pt")), "of objects"),
        (lambda path: torch.save({"x": torch.ones(2)}, path.with_suffix(".pt")), "it lacks "),
        (lambda path: halved(sit(path.with_suffix(".pt"))), "its end is missing"),
    ],
)
def test_a_checkpoint_of_another_family(tmp_path, make, said):
    make(tmp_path / "SiT-XL-2-256x256")
    path = next(tmp_path.glob("SiT*"))
    (line,) = [
        line
        for line in run(
            "--suite", change(tmp_path, "imagenet256", teacher={"checkpoint": {"path": str(path)}})
        )[1]
        if " teacher " in line
    ]
    assert line.startswith("broken") and said in line and "get SiT-XL/2" in line


@pytest.mark.parametrize(
    ("content", "said"), [(None, "an empty folder"), (b"x" * 600, "is not a tar")]
)
def test_data_of_a_wrong_kind(tmp_path, content, said):
    source = tmp_path / "imagenet"
    source.mkdir()
    if content:
        (source / "0.tar").write_bytes(content)
    suite = change(
        tmp_path, "imagenet256", data={"source": str(source / "*.tar") if content else str(source)}
    )
    (line,) = [line for line in run("--suite", suite)[1] if " data " in line]
    assert line.startswith("broken") and said in line


def test_a_reference_without_statistics(tmp_path):
    np.savez(tmp_path / "x.npz", labels=np.zeros(2))
    suite = change(tmp_path, "imagenet256", evaluation={"reference": str(tmp_path / "x.npz")})
    (line,) = [line for line in run("--suite", suite)[1] if " reference " in line]
    assert (
        line.startswith("broken")
        and "has neither statistics (mu, sigma) nor images (arr_0), but labels" in line
    )
    (tmp_path / "x.npz").write_bytes(b"<html>")
    assert states(run("--suite", suite)[1])["reference"] == "broken"


def test_a_device_is_looked_for_when_it_is_asked_for(tmp_path):
    code, lines = run("--suite", write_suite(tmp_path), "--device", "cuda")
    assert (code, states(lines)["device"]) == (
        (0, "ok") if torch.cuda.is_available() else (1, "broken")
    )


def test_networks_of_a_wide_protocol_are_looked_for(tmp_path):
    reference = tmp_path / "statistics"
    reference.mkdir()
    (reference / "fdr_mae.npz").touch()
    evaluation = {"protocol": "fdr6", "reference": str(reference)}
    suite = change(tmp_path, "imagenet256", evaluation=evaluation)
    lines = run("--suite", suite)[1]
    networks = {"inception", "convnextv2", "dinov2", "mae", "siglip2", "clip"}
    assert {name for name, state in states(lines).items() if state == "missing"} >= networks
    (line,) = [line for line in lines if " dinov2 " in line]
    assert "dinov2_vitl14_pretrain.pth" in line and "Apache-2.0" in line


def test_a_checklist_has_a_command_for_each_thing_that_is_missing(tmp_path):
    """Their shell is parsed here, not executed."""
    code, lines = run("--suite", "imagenet256", "--results", tmp_path, "--fix-list")
    text = "\n".join(lines)
    assert code == 1 and lines[0].startswith("imagenet256: from here to the first job")
    assert "curl -L --create-dirs -o weights/SiT-XL-2-256x256.pt 'https://www.dl" in text
    assert "hf download stabilityai/sd-vae-ft-ema --local-dir weights/sd-vae-ft-ema" in text
    assert "mkdir -p data/imagenet/train/${tar%.tar} && tar -xf $tar -C data/imagenet" in text
    assert f"SHA-256 {PUBLIC['inception'].sha256}" in text and "no SHA-256 is known" in text
    assert (
        "snakemake --cores all --resources gpus=8 all_ablations --config suite=imagenet256" in text
    )
    assert sum(line.startswith("[ ]") for line in lines) >= 10 and " are free" in text
    for line in lines:
        if "curl " in line or "for tar in " in line:
            shell = line[line.index("curl" if "curl" in line else "for tar") :]
            assert subprocess.run(["bash", "-n", "-c", shell]).returncode == 0


def test_a_checklist_ticks_what_is_there(tmp_path):
    data = write_folder(tmp_path / "data", pictures(1, 0, 8))
    suite = change(tmp_path, "imagenet256", data={"source": str(data)})
    _, lines = run("--suite", suite, "--fix-list")
    assert f"[x] data: {data}" in lines and not any("ILSVRC2012" in line for line in lines)


def test_sources_are_complete():
    sources = public_sources.read_sources(SOURCES).sources
    assert {kind for source in sources for kind in source.serves} == {
        "sit",
        "dit",
        "sana",
        "kl",
        "dc",
        "text",
        "images",
        "adm_imagenet256_50k",
        "torch_fidelity",
        "fd_dinov2",
        "mind",
        "cmmd",
        "fdr6",
        "imagenet256_wide",
        "mjhq30k",
        "prompts",
        *PUBLIC,
    }
    assert all(source.address or "of your own" in source.name for source in sources)
    assert all(str(source).endswith(public_sources.MARK) != source.checked for source in sources)


@pytest.mark.parametrize(
    ("change_", "sentence"),
    [
        ({"urll": "x"}, "unknown key; did you mean 'url'?"),
        ({"url": "x"}, "leave them out"),
        ({"sha256": "x"}, "sources.0.sha256"),
    ],
)
def test_mistakes_in_the_sources(tmp_path, change_, sentence):
    entry = {"name": "x", "serves": ["clip"], "public": "clip", "licence": "MIT", "checked": True}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"sources": [entry | change_]}))
    code, lines = run("--suite", "demo", "--config", tmp_path / "s.yaml")
    assert code == 2 and sentence in lines[0]
