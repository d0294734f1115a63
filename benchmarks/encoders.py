"""The public tools of FD-DINOv2, FDr6 and CMMD step by step, for benchmarks/evaluation.py.

Each reads the files, runs its network on samples and real images, and computes its distance, as its
own script does: dgm-eval, FD-Loss's evaluation of folders, cmmd-pytorch.  Networks are small ones
of timm and open_clip, the same that ours loads.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import scipy.linalg
import timm
import torch
from PIL import Image
from torchvision import transforms

from hdbench.metrics.fdr import VALIDATION
from tests.support.material import ENCODERS, clip_weights, encoder_weights

SCALE = 6  # of the widths of the tests' networks: DINOv2's is 192
BATCH = 32
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
PROTOCOLS = ("fd_dinov2", "fdr6", "mind", "cmmd")
FIVE = ("inception", "convnextv2", "dinov2", "mae", "siglip2")  # of FDr6's encoders
Network = Callable[[torch.Tensor], torch.Tensor]


def weights() -> dict[str, str]:
    """Of every role that these protocols have beside Inception and CLIP."""
    folders = {role: str(encoder_weights(role, SCALE)) for role in ENCODERS}
    return folders | {"clip_336": str(clip_weights())}


def features(folder: Path, transform: Callable, networks: dict[str, Network]) -> dict:
    """Features by name of the images of a folder, decoded once."""
    files = sorted(folder.glob("*.png"))
    rows = []
    for start in range(0, len(files), BATCH):
        images = [Image.open(file).convert("RGB") for file in files[start : start + BATCH]]
        x = torch.stack([transform(image) for image in images])
        with torch.no_grad():
            rows.append({name: network(x).double() for name, network in networks.items()})
    return {name: torch.cat([row[name] for row in rows]).numpy() for name in networks}


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """By the eigenvalues of the product of the covariances, as both tools have it by default."""
    sigma, other = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = np.real(scipy.linalg.eigvals(sigma @ other).astype(complex) ** 0.5).sum()
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(sigma + other) - 2 * root)


def local(role: str, **arguments) -> torch.nn.Module:
    folder = encoder_weights(role, SCALE)
    return timm.create_model(
        f"local-dir:{folder}", pretrained=True, num_classes=0, **arguments
    ).eval()


def fd_dinov2(samples: Path, real: Path) -> float:
    """dgm-eval's; timm's network in place of the publisher's, which differs in its positions."""
    network = local("dinov2", img_size=224)
    transform = transforms.Compose(
        [
            transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize(*IMAGENET),
        ]
    )
    x, y = (features(folder, transform, {"token": network}) for folder in (samples, real))
    return frechet(x["token"], y["token"])


def fdr6(samples: Path, real: Path, inception: Network) -> float:
    """FD-Loss's: every image decoded once for the six encoders."""

    def encoder(role: str, side: int, scaling: tuple, dynamic: bool = True) -> Network:
        sizes = {"dynamic_img_size": True, "dynamic_img_pad": True} if dynamic else {}
        network = local(role, **sizes)
        mean, std = (torch.tensor(row)[:, None, None] for row in scaling)

        def forward(x: torch.Tensor) -> torch.Tensor:
            size = (side, side)
            x = torch.nn.functional.interpolate(
                x, size=size, mode="bicubic", align_corners=False, antialias=True
            )
            y = network.forward_features((x - mean) / std)
            return y.mean((2, 3)) if y.ndim == 4 else network.pool(y)

        return forward

    networks = {
        "inception_tensorflow": inception,
        "fdr_convnextv2": encoder("convnextv2", 224, IMAGENET, dynamic=False),
        "fdr_dinov2": encoder("dinov2", 256, IMAGENET),
        "fdr_mae": encoder("mae", 224, IMAGENET),
        "fdr_siglip2": encoder("siglip2", 224, ((0.5,) * 3, (0.5,) * 3)),
    }
    sets = [features(folder, transforms.ToTensor(), networks) for folder in (samples, real)]
    norms = {view.partition(".")[0]: norm for view, norm in VALIDATION.items()}
    ratios = [frechet(sets[0][name], sets[1][name]) / norms[name] for name in networks]
    return float(np.mean(ratios))


def cmmd(samples: Path, real: Path) -> float:
    """cmmd-pytorch's."""
    network, _, _ = open_clip.create_model_and_transforms(f"local-dir:{clip_weights()}")
    side = network.visual.image_size[0]
    transform = transforms.Compose(
        [
            transforms.Resize((side, side), transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize(*CLIP),
        ]
    )

    def embed(x: torch.Tensor) -> torch.Tensor:
        return network.eval().encode_image(x, normalize=True)

    x, y = (features(folder, transform, {"image": embed})["image"] for folder in (samples, real))
    xx, yy, xy = (
        np.exp((2 * a @ b.T - (a**2).sum(1)[:, None] - (b**2).sum(1)) / 200).mean()
        for a, b in ((x, x), (y, y), (x, y))
    )
    return float(1000 * (xx + yy - 2 * xy))
