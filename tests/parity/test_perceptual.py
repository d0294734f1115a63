"""`hdbench evaluate`: LPIPS to the teacher, PickScore and HPSv2, by independent arithmetic."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from hdbench.cli import main
from hdbench.evaluation.extractors.preference import HpsV2
from hdbench.metrics.records import read_metrics
from tests.support.material import clip_weights, material, pictures, prompts, write_folder
from tests.unit.test_cli import leaves_this_process_alone  # noqa: F401, a fixture

N = 6
NAMES = [f"{row:04}" for row in range(N)]
LONG = " ".join(["elephant"] * 90)  # over 77 tokens


def evaluate(samples: Path, protocol: str, cache: Path, *more: object):
    arguments = ["evaluate", "--samples", samples, "--protocol", protocol, "--cache", cache, *more]
    return CliRunner().invoke(main, [*map(str, arguments), "--allow", "other-weights"])


def refusal(result) -> str:
    """The one sentence of a command that refused."""
    assert result.exit_code == 2, result.output + str(result.exception)
    return result.output.splitlines()[-1].removeprefix("hdbench: ")


def values(result, table: Path):
    assert result.exit_code == 0, result.output + str(result.exception)
    return read_metrics(table).set_index("metric")


def alexnet_features() -> torch.nn.Module:
    """torchvision's convolutions, uninitialised: its classifier takes long to make."""
    from torchvision.models import alexnet

    with torch.device("meta"):
        return alexnet(weights=None).features.to_empty(device="cpu")


@functools.cache
def alexnet_weights() -> Path:
    """The convolutions of torchvision's AlexNet, random; large, so that all layers are active."""
    features = alexnet_features()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for parameter in features.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    path = material() / "alexnet.pth"
    torch.save({f"features.{name}": t for name, t in features.state_dict().items()}, path)
    return path


@functools.cache
def pickscore_weights() -> Path:
    """A tiny CLIP as a folder of transformers."""
    from transformers import CLIPConfig, CLIPModel

    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
             "num_attention_heads": 2, "hidden_act": "gelu"}  # fmt: skip
    config = CLIPConfig(
        text_config=tower, vision_config=tower | {"image_size": 32, "patch_size": 8},
        projection_dim=12, logit_scale_init_value=3.0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        network = CLIPModel(config)
    network.save_pretrained(folder := material() / "pickscore")
    return folder


def two_folders(folder: Path) -> tuple[Path, Path, np.ndarray, np.ndarray]:
    a, b = pictures(N, 21), pictures(N, 22)
    b[0] = a[0]
    return write_folder(folder / "a", a), write_folder(folder / "b", b), a, b


# LPIPS


def lpips_by_hand(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Equation 1 of arXiv 1801.03924 in float64, with torchvision's own AlexNet."""
    import lpips

    network = alexnet_features().double().eval()
    tensors = torch.load(alexnet_weights(), weights_only=True)
    network.load_state_dict({name.removeprefix("features."): t for name, t in tensors.items()})
    linear = torch.load(Path(lpips.__file__).parent / "weights/v0.1/alex.pth", "cpu")
    shift = torch.tensor([-0.030, -0.088, -0.188], dtype=torch.float64)[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450], dtype=torch.float64)[:, None, None]
    total = np.zeros(len(a))
    x = torch.from_numpy(np.concatenate([a, b])).permute(0, 3, 1, 2).double() / 127.5 - 1
    x = (x - shift) / scale
    weights = iter(linear.values())
    for layer in network:
        x = layer.forward(x) if not isinstance(layer, torch.nn.ReLU) else F.relu(x)
        if isinstance(layer, torch.nn.ReLU):
            unit = x / (x.norm(dim=1, keepdim=True) + 1e-10)
            squares = (unit[: len(a)] - unit[len(a) :]).square()
            total += (squares * next(weights).double()).sum(1).mean((1, 2)).detach().numpy()
    assert next(weights, None) is None
    return total


@pytest.mark.slow
def test_lpips_and_pixels_to_the_teacher_by_hand(tmp_path):
    student, teacher, a, b = two_folders(tmp_path)
    options = ("--weights", f"alexnet={alexnet_weights()}", "--out", tmp_path / "out.csv")
    result = evaluate(student, "fidelity", tmp_path, "--reference", teacher, *options)
    rows = values(result, tmp_path / "out.csv")
    by_hand = lpips_by_hand(a, b)
    assert by_hand[0] == 0 and by_hand[1:].min() > 0.01
    assert rows.value["teacher_lpips_6"] == pytest.approx(by_hand.mean(), rel=1e-5)
    error = by_hand.std(ddof=1) / N**0.5
    assert rows.se["teacher_lpips_6"] == pytest.approx(error, rel=1e-4)
    squares = np.square((a.astype(float) - b) / 255).mean((1, 2, 3))
    assert rows.value["teacher_mse_6"] == pytest.approx(squares.mean(), rel=1e-5)
    assert rows.protocol.str.startswith("fidelity[alexnet=").all()


def test_the_teacher_itself_has_distance_zero_and_pairs_go_by_name(tmp_path):
    _, teacher, _, b = two_folders(tmp_path)
    more = write_folder(tmp_path / "more", np.concatenate([b, pictures(3, 1)])[::-1].copy(),
                        [f"{row:04}" for row in range(N + 3)][::-1])  # fmt: skip
    options = ("--weights", f"alexnet={alexnet_weights()}", "--out", tmp_path / "out.csv")
    result = evaluate(teacher, "fidelity", tmp_path, "--reference", more, *options)
    assert (values(result, tmp_path / "out.csv")[["value", "se"]] == 0).all(axis=None)


@pytest.mark.parametrize(
    ("size", "names", "more", "sentence"),
    [
        (64, None, (), "fidelity needs a reference; give --reference with the teacher's samples"),
        (64, NAMES[:-1], (), "lacks 1 of 6 images of"),
        (32, NAMES, (), "images of 32x32 and 64x64; pairs must be of one size, at least 32x32"),
        (64, NAMES, ("--protocol", "clip_score"), "fidelity: goes alone; give one --protocol"),
    ],
)
def test_pairs_that_do_not_fit_are_one_sentence(tmp_path, size, names, more, sentence):
    samples = write_folder(tmp_path / "samples", pictures(N, 1))
    if names:
        folder = write_folder(tmp_path / "b", pictures(len(names), 2, size), names)
        more = ("--reference", folder, *more)
    if "clip_score" in more:
        table = prompts(tmp_path / "prompts.json", NAMES)
        more = (*more, "--weights", f"clip={clip_weights()}", "--prompts", table)
    options = ("--weights", f"alexnet={alexnet_weights()}", *more)
    assert sentence in refusal(evaluate(samples, "fidelity", tmp_path / "cache", *options))
    assert not (tmp_path / "cache").exists()


# scores of prompts


def prompted(folder: Path, size: int = 64) -> tuple[Path, Path, np.ndarray, list[str]]:
    array = pictures(N, 31, size)
    samples = write_folder(folder / "samples", array)
    table = prompts(folder / "prompts.json", NAMES)
    texts = json.loads(table.read_text())
    texts[NAMES[2]]["prompt"] = LONG
    table.write_text(json.dumps(texts))
    return samples, table, array, [texts[name]["prompt"] for name in NAMES]


@pytest.mark.slow
def test_pickscore_is_that_of_its_authors_example(tmp_path):
    """Tokens and images by transformers' own processors, padded prompts with their masks."""
    import open_clip
    from transformers import CLIPModel, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    samples, table, array, texts = prompted(tmp_path, 48)
    options = ("--prompts", table, "--weights", f"pickscore={pickscore_weights()}")
    result = evaluate(samples, "pickscore", tmp_path, *options, "--out", tmp_path / "out.csv")
    row = values(result, tmp_path / "out.csv").loc["pickscore_6"]
    assert (
        "note: 1 of 6 prompts are longer than the text tower takes, and were cut" in result.output
    )

    bpe = open_clip.SimpleTokenizer()
    merges = [tuple(pair) for pair in bpe.bpe_ranks]
    vocabulary = {
        token.replace("<start_of_text>", "<|startoftext|>").replace(
            "<end_of_text>", "<|endoftext|>"
        ): i
        for token, i in bpe.encoder.items()
    }
    tokenize = CLIPTokenizer(vocab=vocabulary, merges=merges)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    network = CLIPModel.from_pretrained(pickscore_weights()).eval()
    with torch.no_grad():
        pixels = processor([Image.fromarray(image) for image in array], return_tensors="pt")
        images = F.normalize(network.get_image_features(**pixels).pooler_output, dim=-1)
        tokens = tokenize(texts, padding=True, truncation=True, max_length=77, return_tensors="pt")
        prompts_ = F.normalize(network.get_text_features(**tokens).pooler_output, dim=-1)
        scores = (network.logit_scale.exp() * (prompts_ * images).sum(1)).numpy()
    assert np.ptp(scores) > 0.1
    assert row.value == pytest.approx(scores.mean(), rel=1e-5)
    assert row.se == pytest.approx(scores.std(ddof=1) / N**0.5, rel=1e-4)


@pytest.mark.parametrize("shape", [(64, 64), (40, 64), (32, 32)])
def test_hpsv2_pads_as_its_authors_code_does(tmp_path, monkeypatch, shape):
    import open_clip
    from torchvision.transforms import functional as vision

    samples, table, array, texts = prompted(tmp_path)
    array = array[:, : shape[0], : shape[1]].copy()
    write_folder(samples, array)
    configuration = json.loads((clip_weights() / "open_clip_config.json").read_text())["model_cfg"]
    (tmp_path / "models").mkdir()
    (tmp_path / "models/tiny-hps.json").write_text(json.dumps(configuration))
    open_clip.add_model_config(tmp_path / "models")
    monkeypatch.setattr(HpsV2, "architecture", "tiny-hps")
    network = open_clip.CLIP(**configuration).eval()
    trained = {"epoch": 3, "name": "hps", "state_dict": network.state_dict()}
    torch.save(trained, tmp_path / "hps.pt")
    options = ("--prompts", table, "--weights", f"hpsv2={tmp_path / 'hps.pt'}")
    result = evaluate(samples, "hpsv2", tmp_path, *options, "--out", tmp_path / "out.csv")
    row = values(result, tmp_path / "out.csv").loc["hpsv2_6"]

    def preprocess(image: np.ndarray) -> torch.Tensor:
        x = vision.to_tensor(image)
        height = round(32 * shape[0] / max(shape))
        if shape != (32, 32):
            x = F.interpolate(x[None], (height, 32), mode="bicubic", antialias=True)[0]
        x = F.pad(x, (0, 0, (32 - height) // 2, 32 - height - (32 - height) // 2))
        mean, std = (torch.tensor(c)[:, None, None] for c in (
            open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))  # fmt: skip
        return (x - mean) / std

    with torch.no_grad():
        x = torch.stack([preprocess(image) for image in array])
        tokens = open_clip.SimpleTokenizer()(texts)
        images, prompts_, _ = network(x, tokens)  # unit vectors
        scores = 100 * (images @ prompts_.T).diagonal().double().numpy()
    assert row.value == pytest.approx(scores.mean(), rel=1e-4)
    assert row.se == pytest.approx(scores.std(ddof=1) / N**0.5, rel=1e-3)


@pytest.mark.parametrize("protocol", ["pickscore", "hpsv2"])
def test_without_prompts_or_weights_a_sentence_says_what_to_do(tmp_path, monkeypatch, protocol):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    samples = write_folder(tmp_path / "samples", pictures(N, 1))
    said = refusal(evaluate(samples, protocol, tmp_path / "cache"))
    assert said.startswith(f"no weights for {protocol}: get ") and "huggingface.co" in said
    folder = {"pickscore": pickscore_weights, "hpsv2": clip_weights}[protocol]()
    options = ("--weights", f"{protocol}={folder}")
    said = refusal(evaluate(samples, protocol, tmp_path / "cache", *options))
    assert said.startswith(f"{protocol} needs a prompt for each image; give --prompts")
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    table = prompts(tmp_path / "prompts.json", NAMES)
    options = ("--weights", f"{protocol}={tmp_path / 'other.safetensors'}", "--prompts", table)
    monkeypatch.setattr(HpsV2, "architecture", "RN50")
    tiny = json.loads((pickscore_weights() / "config.json").read_text())
    monkeypatch.setattr("hdbench.evaluation.extractors.preference.VIT_H_14", tiny)
    said = refusal(evaluate(samples, protocol, tmp_path / "cache", *options))
    assert "other.safetensors: not the weights of" in said
    assert not (tmp_path / "cache").exists()


def test_other_weights_of_alexnet_are_one_sentence(tmp_path):
    student, teacher, _, _ = two_folders(tmp_path)
    torch.save({"features.0.weight": torch.zeros(64, 3, 11, 11)}, tmp_path / "half.pth")
    options = ("--reference", teacher, "--weights", f"alexnet={tmp_path / 'half.pth'}")
    said = refusal(evaluate(student, "fidelity", tmp_path / "cache", *options))
    assert "half.pth: not the weights of torchvision's AlexNet (Missing key(s)" in said
