"""Lines of a model card that make and save images from the folder, without hdbench."""

from __future__ import annotations

from pathlib import Path

from hdbench.datasets.base import Dataset
from hdbench.networks.autoencoders import AutoencoderConfig
from hdbench.networks.sana import SanaNetwork
from hdbench.networks.text import TextConfig
from hdbench.networks.transformer import Transformer

HERE = "  # this folder, or its name on the hub"
INSTRUCTION = (
    'inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default'
)
SAVING = (  # images side by side
    "row = (127.5 * (images + 1)).round().byte().permute(2, 0, 3, 1).flatten(1, 2)  # (H, B W, C)",
    'Image.fromarray(row.squeeze(-1).numpy()).save("samples.png")',
)


def install_line(text: bool) -> str:
    """The command that installs what the lines need."""
    packages = ["torch", "diffusers", "accelerate", "pillow", *(["transformers"] if text else [])]
    return f"pip install {' '.join(packages)}"


def noise_line(count: int, channels: int, side: int) -> str:
    generator = "generator=torch.Generator().manual_seed(0)"
    return f"eps = torch.randn({count}, {channels}, {side}, {side}, {generator})"


def sana_lines(network: SanaNetwork, text: TextConfig, autoencoder: AutoencoderConfig) -> str:
    """Python that samples a text-to-image student, with the pipeline that encoded its prompts."""
    imports = ["import torch"]
    instruction = "None"
    if text.complex_human_instruction:
        imports = ["import inspect", "", "import torch"]
        instruction = INSTRUCTION
    return "\n".join(
        [
            *imports,
            "from diffusers import SanaPipeline, SanaTransformer2DModel",
            "from PIL import Image",
            "",
            f'model = SanaTransformer2DModel.from_pretrained("."){HERE}',
            f'pipeline = SanaPipeline.from_pretrained("{text.path}", transformer=model)',
            'prompts = ["a red bird on a branch", "two cups of tea"]',
            f"instruction = {instruction}",
            noise_line(2, network.channels, network.grid * network.config.patch),
            "with torch.no_grad():",
            "    tokens, mask, *_ = pipeline.encode_prompt(",
            "        prompts, do_classifier_free_guidance=False,",
            f"        max_sequence_length={text.length}, complex_human_instruction=instruction)",
            "    z = eps - model(eps, tokens.float(), torch.zeros(2),  # at any time",
            "                    encoder_attention_mask=mask).sample",
            f"    x = pipeline.vae.decode(z / {autoencoder.scale} + {autoencoder.shift}).sample",
            "images = x.clamp(-1, 1)",
            *SAVING,
        ]
    )


def sampling_lines(network: Transformer, scale: float, data: Dataset) -> str:
    """Python that samples a class-conditional student; `scale` is s of `to_diffusers`."""
    grid = network.grid
    n = min(network.classes, 10)
    classes = ["DiTTransformer2DModel"]
    imports = []
    positions = []
    decoding = []
    if network.config.position_side != grid:  # diffusers' own positions are 0 to grid - 1
        imports.append("from diffusers.models.embeddings import get_2d_sincos_pos_embed")
        positions = position_lines(network)
    if data.stored == "latents" and data.autoencoder:
        kind = {"kl": "AutoencoderKL", "dc": "AutoencoderDC"}[data.autoencoder.name]
        classes.insert(0, kind)
        decoding = decoding_lines(data.autoencoder, kind)
    noise = "" if scale == 1 else f"{scale!r} * "
    return "\n".join(
        [
            "import torch",
            f"from diffusers import {', '.join(classes)}",
            *imports,
            "from PIL import Image",
            "",
            f'model = DiTTransformer2DModel.from_pretrained("."){HERE}',
            *positions,
            f"labels = torch.arange({n})  # classes are 0 to {network.classes - 1}",
            noise_line(n, network.channels, grid * network.config.patch),
            "with torch.no_grad():",
            f"    x = {noise}eps - model(eps, torch.zeros({n}), labels).sample  # at any time",
            *decoding,
            "images = x.clamp(-1, 1)",
            *(SAVING if decoding or network.channels in (1, 3) else ()),
        ]
    )


def position_lines(network: Transformer) -> list[str]:
    """The network's position embedding in place of diffusers'."""
    config = network.config
    sizes = f"{config.width}, {network.grid}, base_size={config.position_side}"
    return [
        f'positions = get_2d_sincos_pos_embed({sizes}, output_type="pt")',
        "model.pos_embed.pos_embed = positions.float().unsqueeze(0)",
    ]


def decoding_lines(autoencoder: AutoencoderConfig, kind: str) -> list[str]:
    """From latents to images."""
    subfolder = ', subfolder="vae"' if Path(autoencoder.path, "vae").is_dir() else ""
    return [
        f'    autoencoder = {kind}.from_pretrained("{autoencoder.path}"{subfolder})',
        f"    x = autoencoder.decode(x / {autoencoder.scale} + {autoencoder.shift}).sample",
    ]
