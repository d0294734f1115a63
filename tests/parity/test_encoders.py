"""Features of the encoders, and the distances on them, beside public implementations.

Equal small random weights on both sides: the publisher's DINOv2 as transformers has it with its own
code's stretching of positions, FDr6's steps on networks that timm reads by itself, and open_clip.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from hdbench.evaluation.extractors import EXTRACTORS, Extractor, Setup
from hdbench.evaluation.extractors.encoders import stretched
from hdbench.evaluation.weights import find
from tests.support.material import ENCODERS, clip_weights, encoder_weights, material, pictures

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
