"""Weights by path or hub id: hashed before anything runs, read without running their code."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import torch

from hdbench.core.errors import UserError
from hdbench.core.files import sha256


class Public(NamedTuple):
    """A public file of weights; `file` is what it is called here, `kind` what a folder must be.

    Without a SHA-256, any file is taken and the protocol column names its digest.
    """

    file: str
    url: str
    sha256: str | None = None
    kind: str | None = None  # a key of FOLDERS


PUBLIC = {
    "inception": Public(
        "weights-inception-2015-12-05-6726825d.pth",
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    ),
    "clip": Public(
        "ViT-L-14.pt",
        "https://openaipublic.azureedge.net/clip/models/b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt",
        "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
        "open_clip",
    ),
    "clip_336": Public(
        "ViT-L-14-336px.pt",
        "https://openaipublic.azureedge.net/clip/models/3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02/ViT-L-14-336px.pt",
        "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
        "open_clip",
    ),
    "dinov2": Public(
        "dinov2_vitl14_pretrain.pth",
        "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
        kind="timm",
    ),
    "convnextv2": Public(
        "convnextv2_base.fcmae_ft_in22k_in1k.safetensors",
        "https://huggingface.co/timm/convnextv2_base.fcmae_ft_in22k_in1k/resolve/main/model.safetensors",
        kind="timm",
    ),
    "mae": Public(
        "vit_large_patch16_224.mae.safetensors",
        "https://huggingface.co/timm/vit_large_patch16_224.mae/resolve/main/model.safetensors",
        kind="timm",
    ),
    "siglip2": Public(
        "vit_so400m_patch16_siglip_256.v2_webli.safetensors",
        "https://huggingface.co/timm/vit_so400m_patch16_siglip_256.v2_webli/resolve/main/model.safetensors",
        kind="timm",
    ),
    "alexnet": Public(
        "alexnet-owt-7be5be79.pth", "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
    ),
    "pickscore": Public(
        "PickScore_v1.safetensors",
        "https://huggingface.co/yuvalkirstain/PickScore_v1/resolve/main/model.safetensors",
        kind="transformers",
    ),
    "hpsv2": Public(
        "HPS_v2.1_compressed.pt",
        "https://huggingface.co/xswu/HPSv2/resolve/main/HPS_v2.1_compressed.pt",
        kind="open_clip",
    ),
}
FOLDERS = {  # what each has
    "open_clip": "open_clip_config.json",
    "timm": "config.json",
    "transformers": "config.json",
}


class Weights(NamedTuple):
    """A file, or a library's folder; its SHA-256, and whether that is the public file's."""

    role: str
    path: Path
    sha256: str
    public: bool

    @property
    def file(self) -> Path:
        """The file, or the only one of tensors in the folder."""
        return next(self.path.glob("*.safetensors")) if self.path.is_dir() else self.path


def places(role: str, cache: Path) -> list[Path]:
    """Where the role's public file is looked for, in this order."""
    folders = (cache / "weights", Path(torch.hub.get_dir()) / "checkpoints")
    return [folder / PUBLIC[role].file for folder in folders]


def find(role: str, given: str | None, cache: Path, allowed: bool) -> Weights:
    """The weights of a role: `given`, or the public file at one of its places.

    Raises UserError where there is none, it cannot be read, or its digest is not the public one's
    and that is not `allowed`.
    """
    public = PUBLIC[role]
    if given is None:
        path = next((place for place in places(role, cache) if place.is_file()), None)
        if path is None:
            raise UserError(
                f"no weights for {role}: get {public.file} from {public.url} and put it at "
                f"{places(role, cache)[0]}, or give --weights {role}=PATH"
            )
    else:
        path = _from_hub(role, given) if given.startswith("hf-hub:") else Path(given)
    if path.is_dir():
        return _folder(role, path, allowed)
    if not path.is_file():
        raise UserError(
            f"--weights {role}={path}: there is no such file; get {public.file} from {public.url}"
        )
    digest = sha256(path)
    if public.sha256 not in (None, digest) and not allowed:
        raise UserError(
            f"{path}: its SHA-256 is {digest}, not {public.sha256} of the public {public.file}; "
            "use that file, or give --allow other-weights, and the protocol column will name the "
            "digest"
        )
    return Weights(role, path, digest, digest == public.sha256)


def file_in(role: str, folder: Path) -> Path:
    """The file of tensors in a library's folder; UserError where it is no such folder."""
    files = sorted(folder.glob("*.safetensors"))
    kind = PUBLIC[role].kind
    if kind is None:
        raise UserError(f"--weights {role}={folder}: a folder; give the file {PUBLIC[role].file}")
    if not (folder / FOLDERS[kind]).is_file() or len(files) != 1:
        raise UserError(
            f"--weights {role}={folder}: a folder of weights must be {kind}'s, with "
            f"{FOLDERS[kind]} and one .safetensors file (it has {len(files)})"
        )
    return files[0]


def _folder(role: str, path: Path, allowed: bool) -> Weights:
    file = file_in(role, path)
    if not allowed:
        raise UserError(
            f"--weights {role}={path}: not the public {PUBLIC[role].file}; give --allow "
            "other-weights to use it, and the protocol column will name its digest"
        )
    digests = [sha256(path / FOLDERS[str(PUBLIC[role].kind)]), sha256(file)]
    return Weights(role, path, hashlib.sha256("".join(digests).encode()).hexdigest(), False)


def _from_hub(role: str, given: str) -> Path:
    """`hf-hub:owner/name/file` from the Hugging Face hub or its local cache."""
    from huggingface_hub import (  # optional: huggingface_hub
        get_hf_file_metadata,
        hf_hub_download,
        hf_hub_url,
    )

    owner, name, file = [*given.removeprefix("hf-hub:").split("/", 2), "", ""][:3]
    if not (owner and name and file):
        raise UserError(f"--weights {role}={given}: write hf-hub:OWNER/NAME/FILE")
    repository = f"{owner}/{name}"
    problem = ""
    try:
        # one attempt, where the download makes five
        get_hf_file_metadata(hf_hub_url(repository, file), timeout=10)
    except Exception as error:  # the hub's errors have no common base but this
        problem = type(error).__name__
    try:
        return Path(hf_hub_download(repository, file, local_files_only=bool(problem)))
    except Exception as error:
        raise UserError(
            f"--weights {role}={given}: cannot be had from the hub "
            f"({problem or type(error).__name__}), nor from its local cache; download the file "
            f"elsewhere and give --weights {role}=PATH"
        ) from None
