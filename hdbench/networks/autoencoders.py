"""Autoencoders between images and latents, and the reading of diffusers' folders."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from hdbench.core.config import Config, OutsidePath
from hdbench.core.errors import UserError, reason
from hdbench.core.files import from_json, read_text
from hdbench.networks.tensors import check_types, check_values, contents, is_meta, of_shards

if TYPE_CHECKING:
    from diffusers import AutoencoderDC, AutoencoderKL, ModelMixin


# the class, and weights of it
PUBLIC = {
    "kl": ("AutoencoderKL", "stabilityai/sd-vae-ft-ema"),
    "dc": ("AutoencoderDC", "mit-han-lab/dc-ae-f32c32-sana-1.1-diffusers"),
}


class AutoencoderConfig(Config):
    """Which autoencoder, and its own numbers, on which everything else relies."""

    name: Literal["kl", "dc"] = Field(
        description="AutoencoderKL (SD-VAE, of SiT and DiT) or AutoencoderDC (DC-AE, of SANA)"
    )
    path: OutsidePath = Field(
        description="folder in diffusers' format: the autoencoder's, or a pipeline's with `vae`"
    )
    channels: int = Field(ge=1, description="of the latents (SD-VAE 4, DC-AE 32)")
    factor: int = Field(ge=1, description="pixels to a latent cell's side (SD-VAE 8, DC-AE 32)")
    scale: float = Field(
        gt=0, description="of the latents that networks see (SD-VAE 0.18215, DC-AE 0.41407)"
    )
    shift: float = 0.0


class Autoencoder:
    """Images (B, 3, H, W) in [-1, 1] to latents (B, C, H / factor, W / factor), and back."""

    def __init__(self, config: AutoencoderConfig, model: AutoencoderKL | AutoencoderDC):
        self.config = config
        self.model: Any = model

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """(latent - shift) scale, in x's dtype; kl: latent = mean + sd * noise, or the mean."""
        encoded = self.model.encode(x.to(self.model.dtype))
        if self.config.name == "dc":
            latent = encoded.latent.to(x.dtype)
        else:
            latent = encoded.latent_dist.mean.to(x.dtype)
            if noise is not None:
                latent = latent + encoded.latent_dist.std.to(x.dtype) * noise
        return scaled(latent, self.config)

    def decode(self, z: Tensor) -> Tensor:
        """The image of latents as `encode` gives them, in z's dtype, not clamped."""
        latent = z / self.config.scale + self.config.shift
        return self.model.decode(latent.to(self.model.dtype)).sample.to(z.dtype)


def scaled(latent: Tensor, config: AutoencoderConfig) -> Tensor:
    """What networks see of latents (B, C, h, w) as an autoencoder gives them."""
    return (latent - config.shift) * config.scale


def load(
    config: AutoencoderConfig, device: torch.device, dtype: torch.dtype = torch.float32
) -> Autoencoder:
    """The frozen autoencoder; UserError where its weights are missing or of other numbers."""
    import diffusers  # optional: diffusers

    kind, public = PUBLIC[config.name]
    model = pretrained(getattr(diffusers, kind), config.path, "vae", public)
    stored = model.config
    levels = stored.block_out_channels if config.name == "kl" else stored.encoder_block_out_channels
    actual = {
        "channels": stored.latent_channels,
        "factor": 2 ** (len(levels) - 1),
        "scale": stored.scaling_factor,
        "shift": stored.get("shift_factor") or 0.0,
    }
    if wrong := [
        key
        for key, value in actual.items()
        if not math.isclose(value, getattr(config, key), rel_tol=1e-6)
    ]:
        raise UserError(
            f"{config.path}: not the autoencoder of this configuration; set "
            + ", ".join(
                f"autoencoder.{key} to {actual[key]} (not {getattr(config, key)})" for key in wrong
            )
        )
    # diffusers warns of any dtype
    model = model.to(device) if dtype == torch.float32 else model.to(device, dtype)
    return Autoencoder(config, model.requires_grad_(False))


def pretrained(kind: type[ModelMixin], given: str, component: str, public: str) -> ModelMixin:
    """The model in diffusers' folder `given`, or in `component` of a pipeline there.

    On the CPU, float32, in evaluation mode; `public` names weights to get.  UserError for what is
    missing or not this model's.  Under `torch.device("meta")` the weights' headers alone are read.
    """
    folder = Path(given, component) if Path(given, component).is_dir() else Path(given)
    if not folder.is_dir():
        raise UserError(
            f"{folder}: there is no such folder; put diffusers' {kind.__name__} there, such as "
            f"{public} of the Hugging Face hub"
        )
    try:
        name = from_json(read_text(folder / "config.json"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{folder}: no config.json of diffusers; give the folder of {kind.__name__}, such as "
            f"{public}, or a pipeline's with {component} inside"
        ) from None
    if name != kind.__name__:
        raise UserError(
            f"{folder}: holds {name}, not {kind.__name__}; give a folder such as {public}"
        )
    headers = read_headers(folder)
    model = of_settings(kind, folder, len(headers))
    model._fix_state_dict_keys_on_load(headers)  # as `from_pretrained` does
    check_shapes(folder, model.state_dict(), headers)  # before any memory is taken
    if is_meta():
        return model.eval()
    try:
        model, about = kind.from_pretrained(
            folder,
            variant=variant(folder),
            use_safetensors=True,
            local_files_only=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except Exception as error:  # diffusers' errors have no common base but this
        raise UserError(
            f"{folder}: its weights cannot be read as .safetensors ({reason(error)}); "
            "get them again"
        ) from None
    check_keys(folder, missing=about["missing_keys"], unexpected=about["unexpected_keys"])
    check_values(model.state_dict(), folder)
    return model


def of_settings(kind: Any, folder: Path, tensors: int) -> Any:
    """The model of a folder's config.json on the meta device, for weights of so many tensors.

    UserError for settings that make none, or more layers than there are tensors.
    """
    try:
        settings = kind.load_config(folder)
        for name, value in settings.items():
            if "layers" in name and max(value if isinstance(value, list) else [value]) > tensors:
                raise ValueError(f"{name} = {value}, of {tensors} tensors")
        with torch.device("meta"):
            return kind.from_config(settings)
    except Exception as error:  # of each layer's own
        raise UserError(
            f"{folder}: its config.json makes no {kind.__name__} ({reason(error)}); get the folder "
            "again"
        ) from None


def read_headers(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder's .safetensors files on the meta device, of checked types.

    Of several variants those of the one that is read.  UserError without a whole file, or where an
    index of shards names another.
    """
    kind = variant(folder)
    indices = sorted(folder.glob(f"*.safetensors.index{f'.{kind}' if kind else ''}.json"))
    files = [file for file in folder.glob("*.safetensors") if variant_of(file) == (kind or "")]
    if not indices and not files:
        raise UserError(
            f"{folder}: its weights cannot be read as .safetensors (no such file is there); "
            "get them again"
        )
    tensors: dict[str, Tensor] = {}
    with torch.device("meta"):
        for file in indices or files:
            tensors |= of_shards(file) if indices else contents(file)
        check_types(tensors, folder)
    return tensors


def check_shapes(folder: Path, model: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> None:
    """UserError where a folder's tensors are not a model's, by name and shape."""
    check_keys(
        folder, missing=model.keys() - stored.keys(), unexpected=stored.keys() - model.keys()
    )
    if wrong := [name for name, x in model.items() if x.shape != stored[name].shape]:
        raise UserError(
            f"{folder}: {wrong[0]} has the shape {list(stored[wrong[0]].shape)}, not "
            f"{list(model[wrong[0]].shape)} of its config.json; get the folder again"
        )


def check_keys(folder: Path, **problems: Iterable[str]) -> None:
    """UserError for the first problem ("missing", "unexpected") that has keys of weights."""
    for problem, keys in problems.items():
        if keys := sorted(keys):
            named = ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
            raise UserError(
                f"{folder}: its weights have {len(keys)} {problem} keys ({named}); "
                "get the folder again"
            )


def variant(folder: Path) -> str | None:
    """The variant of a folder's files, bf16 of model.bf16.safetensors; None if some have none."""
    variants = {variant_of(path) for path in folder.glob("*.safetensors")}
    return None if not variants or "" in variants else min(variants)


def variant_of(path: Path) -> str:
    """The variant in a file's name, or ""."""
    return re.sub(r"-\d+-of-\d+$", "", path.stem).partition(".")[2]
