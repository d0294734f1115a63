"""Features of the encoders, and the distances on them, beside public implementations.

Equal small random weights on both sides: the publisher's DINOv2 as transformers has it with its own
code's stretching of positions, FDr6's steps on networks that timm reads by itself, and open_clip.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.linalg
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.numpy import load_file

from hdbench.cli import main
from hdbench.evaluation import images as samples
from hdbench.evaluation.extractors import EXTRACTORS, Extractor, Setup
from hdbench.evaluation.extractors.encoders import FdrClip, TimmEncoder, stretched
from hdbench.evaluation.extractors.inception import InceptionExtractor
from hdbench.evaluation.weights import find
from hdbench.metrics.records import read_metrics
from tests.support.material import (
    ENCODERS,
    clip_weights,
    encoder_weights,
    material,
    pictures,
    write_folder,
)

CPU = torch.device("cpu")


def extractor(name: str) -> Extractor:
    row = EXTRACTORS[name]
    folder = encoder_weights(row.network) if row.network in ENCODERS else clip_weights()
    weights = find(row.network, str(folder), material(), True)
    setup = Setup(device=CPU)
    return row(row.load(weights, setup), weights, tuple(row.dimensions), setup)


def features(name: str, images: np.ndarray) -> np.ndarray:
    ours = extractor(name)
    layer = next(iter(ours.dimensions))
    return ours([ours.prepare(image) for image in images], None)[layer]


def cubic(x: np.ndarray) -> np.ndarray:
    """The kernel of bicubic interpolation with a = -0.75."""
    x = np.abs(x)
    near = 1.25 * x**3 - 2.25 * x**2 + 1
    far = -0.75 * x**3 + 3.75 * x**2 - 6 * x + 3
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def stretching(old: int, new: int, scale: float) -> np.ndarray:
    """The matrix (new, old) that a bicubic interpolation of one axis is; borders repeat."""
    at = (np.arange(new) + 0.5) / scale - 0.5
    taps = np.floor(at).astype(int)[:, None] + np.arange(-1, 3)
    matrix = np.zeros((new, old))
    rows = np.arange(new)[:, None].repeat(4, 1)
    np.add.at(matrix, (rows, taps.clip(0, old - 1)), cubic(at[:, None] - taps))
    return matrix


def test_positions_of_dinov2_are_stretched_as_its_own_code_does():
    """By a factor that is a tenth of a patch larger than the ratio of the sides."""
    positions = torch.randn(1, 1 + 37 * 37, 5, generator=torch.Generator().manual_seed(0))
    matrix = stretching(37, 16, 16.1 / 37)
    grid = positions[0, 1:].reshape(37, 37, 5).double().numpy()
    expected = np.einsum("ia,jb,abd->ijd", matrix, matrix, grid).reshape(256, 5)
    ours = stretched(positions, 16)
    np.testing.assert_allclose(ours[0, 1:], expected, atol=2e-5)
    torch.testing.assert_close(ours[:, 0], positions[:, 0])
    unscaled = stretching(37, 16, 16 / 37)
    other = np.einsum("ia,jb,abd->ijd", unscaled, unscaled, grid).reshape(256, 5)
    assert np.abs(other - expected).max() > 1e-3
    torch.testing.assert_close(stretched(positions, 37), positions)


def test_dinov2_is_the_publishers_network_after_dgm_evals_preprocessing():
    from safetensors.torch import load_file
    from torchvision import transforms
    from transformers import Dinov2Config, Dinov2Model

    tensors = load_file(encoder_weights("dinov2") / "model.safetensors")
    side = 224 // 14
    network = Dinov2Model(
        Dinov2Config(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=224,
            patch_size=14,
        )
    ).eval()
    state = {
        "embeddings.cls_token": tensors["cls_token"],
        "embeddings.mask_token": torch.zeros(1, 32),
        "embeddings.position_embeddings": stretched(tensors["pos_embed"], side),
        "layernorm.weight": tensors["norm.weight"],
        "layernorm.bias": tensors["norm.bias"],
    }
    for kind in ("weight", "bias"):
        state[f"embeddings.patch_embeddings.projection.{kind}"] = tensors[
            f"patch_embed.proj.{kind}"
        ]
        for block in range(2):
            theirs = f"encoder.layer.{block}"
            ours = f"blocks.{block}"
            parts = tensors[f"{ours}.attn.qkv.{kind}"].chunk(3)
            for name, tensor in zip("qkv", parts, strict=True):
                state[f"{theirs}.attention.{name}_proj.{kind}"] = tensor
            for name, other in (
                ("norm1", "norm1"),
                ("norm2", "norm2"),
                ("attention.o_proj", "attn.proj"),
                ("mlp.fc1", "mlp.fc1"),
                ("mlp.fc2", "mlp.fc2"),
            ):
                state[f"{theirs}.{name}.{kind}"] = tensors[f"{ours}.{other}.{kind}"]
            for scale in (1, 2):
                state[f"{theirs}.layer_scale{scale}.lambda1"] = tensors[f"{ours}.ls{scale}.gamma"]
    network.load_state_dict(state)
    transform = transforms.Compose(
        [
            transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    images = pictures(3, 41)
    with torch.no_grad():
        x = torch.stack([transform(Image.fromarray(image)) for image in images])
        expected = network(x).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(features("dinov2", images), expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(
    ("name", "side", "mean", "std", "dynamic"),
    [
        ("fdr_convnextv2", 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), False),
        ("fdr_dinov2", 256, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), True),
        ("fdr_mae", 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), True),
        ("fdr_siglip2", 224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), True),
    ],
)
def test_features_of_fdr_are_those_of_its_own_steps(name, side, mean, std, dynamic):
    import timm

    sizes = {"dynamic_img_size": True, "dynamic_img_pad": True} if dynamic else {}
    folder = encoder_weights(EXTRACTORS[name].network)
    network = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0, **sizes)
    images = pictures(3, 42, 96)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    x = torch.nn.functional.interpolate(
        x, size=(side, side), mode="bicubic", align_corners=False, antialias=True
    )
    x = (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    with torch.no_grad():
        y = network.eval().forward_features(x)
        if y.ndim == 4:
            expected = y.mean(dim=[2, 3])
        elif network.num_prefix_tokens:
            expected = y[:, 0]
        else:
            expected = network.attn_pool(y)
    assert expected.std(0).min() > 1e-4
    np.testing.assert_allclose(features(name, images), expected, rtol=1e-5, atol=1e-5)


def test_clip_of_fdr_is_openais_tower_up_to_the_last_projection(monkeypatch):
    """At the network's own side no position is resized; timm's GELU is not OpenAI's quick one."""
    import open_clip

    monkeypatch.setattr(FdrClip, "side", 32)
    clip = extractor("clip").loaded.network
    tower = open_clip.CLIP(
        embed_dim=16,
        quick_gelu=False,
        vision_cfg={"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        text_cfg={"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    ).eval()
    tower.load_state_dict(clip.state_dict())
    tower.visual.proj = None
    images = pictures(3, 43, 32)
    mean = torch.tensor((0.48145466, 0.4578275, 0.40821073))[:, None, None]
    std = torch.tensor((0.26862954, 0.26130258, 0.27577711))[:, None, None]
    with torch.no_grad():
        x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
        expected = tower.visual((x - mean) / std).numpy()
    np.testing.assert_allclose(features("fdr_clip", images), expected, rtol=1e-4, atol=1e-5)


def test_features_of_cmmd_are_those_of_transformers_clip():
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    network = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=128,
            projection_dim=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=32,
            patch_size=16,
            hidden_act="quick_gelu",
        )
    ).eval()
    tensors = {
        name.removeprefix("visual."): tensor
        for name, tensor in extractor("clip_cmmd").loaded.network.state_dict().items()
        if name.startswith("visual.")
    }
    prefix = "vision_model."
    layer = f"{prefix}encoder.layers.0."
    block = "transformer.resblocks.0."
    state = {
        f"{prefix}embeddings.class_embedding": tensors["class_embedding"],
        f"{prefix}embeddings.patch_embedding.weight": tensors["conv1.weight"],
        f"{prefix}embeddings.position_embedding.weight": tensors["positional_embedding"],
        "visual_projection.weight": tensors["proj"].T,
    }
    for kind in ("weight", "bias"):
        state[f"{prefix}pre_layrnorm.{kind}"] = tensors[f"ln_pre.{kind}"]
        state[f"{prefix}post_layernorm.{kind}"] = tensors[f"ln_post.{kind}"]
        qkv = tensors[f"{block}attn.in_proj_{kind}"].chunk(3)
        for name, tensor in zip("qkv", qkv, strict=True):
            state[f"{layer}self_attn.{name}_proj.{kind}"] = tensor
        for name, other in (
            ("self_attn.out_proj", "attn.out_proj"),
            ("layer_norm1", "ln_1"),
            ("layer_norm2", "ln_2"),
            ("mlp.fc1", "mlp.c_fc"),
            ("mlp.fc2", "mlp.c_proj"),
        ):
            state[f"{layer}{name}.{kind}"] = tensors[f"{block}{other}.{kind}"]
    network.load_state_dict(state, strict=False)
    assert set(dict(network.named_parameters())) <= set(state)
    images = pictures(3, 44, 80)[:, :, :60]
    squares = [
        Image.fromarray(image).crop((0, 10, 60, 70)).resize((32, 32), Image.Resampling.BICUBIC)
        for image in images
    ]
    x = np.stack([np.asarray(image).astype(np.float32) for image in squares]) / 255.0
    x = (x - (0.48145466, 0.4578275, 0.40821073)) / (0.26862954, 0.26130258, 0.27577711)
    with torch.no_grad():
        pixels = torch.from_numpy(x.astype(np.float32)).permute(0, 3, 1, 2)
        expected = network(pixel_values=pixels).image_embeds.numpy()
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    np.testing.assert_allclose(features("clip_cmmd", images), expected, rtol=1e-4, atol=1e-5)


# the metrics through the public command


N, REAL = 40, 50
NORMS = {
    "inception_tensorflow": 1.68,
    "fdr_convnextv2": 56.87,
    "fdr_dinov2": 14.19,
    "fdr_mae": 0.04,
    "fdr_siglip2": 0.60,
    "fdr_clip": 5.60,
}


def of_inception(self: InceptionExtractor, prepared: list, texts) -> dict[str, np.ndarray]:
    """Twelve pixels in place of the network, which would take most of the time."""
    pixels = torch.stack(prepared).flatten(1)[:, :: 64 * 16].numpy() / np.float32(64)
    return {layer: pixels[:, :12].astype(np.float32) for layer in self.layers}


@pytest.fixture(scope="module")
def folders() -> tuple[Path, Path]:
    return (
        write_folder(material() / "encoders/samples", pictures(N, 45)),
        write_folder(material() / "encoders/real", pictures(REAL, 46)),
    )


def evaluate(folders: tuple[Path, Path], out: Path, *more: object):
    weights = {role: encoder_weights(role) for role in ENCODERS}
    weights |= {"clip": clip_weights(), "clip_336": clip_weights()}
    weights["inception"] = next(clip_weights().glob("*.safetensors"))  # which nothing reads
    options = [f"--weights={role}={path}" for role, path in weights.items()]
    arguments = ["--samples", folders[0], "--reference", folders[1], "--out", out, *options, *more]
    arguments += ["--cache", out.parent / "cache", "--allow", "other-weights", "--n", N]
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """As dgm-eval has it."""
    sigma, other = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = np.real(scipy.linalg.eigvals(sigma @ other).astype(complex) ** 0.5).sum()
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(sigma + other) - 2 * root


@pytest.mark.slow
def test_new_protocols_measure_what_the_public_ones_do_in_one_pass(folders, tmp_path, monkeypatch):
    decoded = Counter()
    decode = samples.decode
    monkeypatch.setattr(
        samples, "decode", lambda file: decoded.update([file.parent.name]) or decode(file)
    )
    monkeypatch.setattr(InceptionExtractor, "__call__", of_inception)
    loaded = SimpleNamespace(layout="library", classifier=np.ones((5, 12)))
    monkeypatch.setattr(InceptionExtractor, "load", lambda weights, setup: loaded)
    forwards = Counter()
    forward = TimmEncoder.__call__

    def counted(self, prepared, texts):
        forwards[self.name] += len(prepared)
        return forward(self, prepared, texts)

    monkeypatch.setattr(TimmEncoder, "__call__", counted)
    names = ("fd_dinov2", "fdr6", "mind", "cmmd", "imagenet256_wide")
    options = [f"--protocol={name}" for name in names]
    # the inception score's logits need the true network
    monkeypatch.setattr("hdbench.metrics.inception_score.InceptionScore.measure", lambda *_: {})
    result = evaluate(folders, tmp_path / "x.csv", *options, "--table", tmp_path / "all")
    assert result.exit_code == 0, result.output + str(result.exception)
    assert decoded == {"samples": N, "real": REAL}
    assert sorted(path.name for path in tmp_path.glob("all.*")) == [
        f"all.{kind}" for kind in ("csv", "html", "md", "tex")
    ]
    assert forwards == dict.fromkeys((*list(NORMS)[1:], "dinov2"), N + REAL)
    frames = {name: read_metrics(tmp_path / f"x.{name}.csv").set_index("metric") for name in names}
    sets = [pictures(N, 45), pictures(REAL, 46)]
    seen = {name: [features(name, images) for images in sets] for name in list(NORMS)[1:]}
    seen["inception_tensorflow"] = [
        torch.from_numpy(images).permute(0, 3, 1, 2).flatten(1)[:, :: 64 * 16][:, :12].numpy()
        / np.float32(64)
        for images in sets
    ]
    ratios = {name: frechet(*seen[name]) / norm for name, norm in NORMS.items()}
    held_out = ("fdr_convnextv2", "fdr_dinov2", "fdr_clip")
    expected = {
        "fdr6": np.mean(list(ratios.values())),
        "fdr3": np.mean([ratios[name] for name in held_out]),
        "fd_dinov2": frechet(*(features("dinov2", images) for images in sets)),
        "mind": sliced(*seen["inception_tensorflow"]),
        "cmmd": biased_mmd(*(features("clip_cmmd", images) for images in sets)),
    }
    for metric, value in expected.items():
        for frame in (frames[metric if metric != "fdr3" else "fdr6"], frames["imagenet256_wide"]):
            row = frame.loc[f"{metric}_{N}"]
            assert row.value == pytest.approx(value, rel=1e-4) and row.se > 0, metric
    frame = frames["fdr6"]
    for name, ratio in ratios.items():
        kind = name.removeprefix("fdr_").split("_")[0]
        assert frame.value[f"fdr_{kind}_{N}"] == pytest.approx(ratio, rel=1e-3)


@pytest.mark.slow
def test_a_reference_of_several_networks_is_a_folder_with_one_of_each(tmp_path, monkeypatch):
    """As `hdbench reference` builds it, or statistics by extractor as others publish them."""
    monkeypatch.setattr(InceptionExtractor, "__call__", of_inception)
    monkeypatch.setattr(InceptionExtractor, "dimensions", {"2048": 12})
    loaded = SimpleNamespace(layout="library", classifier=None)
    monkeypatch.setattr(InceptionExtractor, "load", lambda weights, setup: loaded)
    fake, real = (write_folder(tmp_path / str(seed), pictures(6, seed)) for seed in (1, 2))
    common = ["--protocol=fdr6", "--allow=other-weights", f"--cache={tmp_path / 'cache'}"]
    common += [f"--weights={role}={encoder_weights(role)}" for role in ENCODERS]
    common += [f"--weights=clip={clip_weights()}"]
    common += [f"--weights=inception={next(clip_weights().glob('*.safetensors'))}"]
    runner = CliRunner()
    built = tmp_path / "built"
    arguments = ["reference", f"--source={real}", f"--out={built}", *common]
    result = runner.invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert {path.name for path in built.iterdir()} == set(NORMS)
    published = tmp_path / "published"
    published.mkdir()
    for name in NORMS:
        arrays = load_file(built / name / "statistics.safetensors")
        layer = next(iter(EXTRACTORS[name].statistics))
        mu, sigma = (arrays[f"{layer}.{key}"] for key in ("mu", "sigma"))
        np.savez(published / f"{name}.npz", mu=mu, sigma=sigma)
        monkeypatch.setattr(EXTRACTORS[name], "dimensions", {layer: len(mu)})
    values = []
    for reference in (real, built, published):
        out = tmp_path / f"{reference.name}.csv"
        options = [f"--samples={fake}", f"--reference={reference}", f"--out={out}", "--n=6"]
        result = runner.invoke(main, ["evaluate", *options, *common])
        assert result.exit_code == 0, result.output
        values.append(read_metrics(out).set_index("metric").value)
    np.testing.assert_array_equal(values[0], values[1])
    np.testing.assert_allclose(values[0], values[2], rtol=1e-6)
    np.savez(published / "fdr_mae.npz", mu=np.zeros(3), sigma=np.eye(3))
    options = [f"--samples={fake}", f"--reference={published}", "--n=6"]
    result = runner.invoke(main, ["evaluate", *options, *common])
    assert result.exit_code == 2 and "those of fdr_mae must be finite, (24,)" in result.output


def sliced(x: np.ndarray, y: np.ndarray) -> float:
    """MIND of its definition, in float64, with the draws of torch-fidelity."""
    generator = torch.Generator().manual_seed(2020)
    y = y[torch.randperm(len(y), generator=generator)[: len(x)].numpy()]
    u = torch.randn(1000, x.shape[1], generator=generator).double().numpy()
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    distances = (np.sort(x @ u.T, axis=0) - np.sort(y @ u.T, axis=0)) ** 2
    return 3 * x.shape[1] * distances.mean()


def biased_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """CMMD of its definition."""
    kernels = [
        np.exp(-((a[:, None].astype(float) - b[None]) ** 2).sum(-1) / 200).mean()
        for a, b in ((x, x), (y, y), (x, y))
    ]
    return 1000 * (kernels[0] + kernels[1] - 2 * kernels[2])
