"""Tiny random pipelines and autoencoders in the public format of diffusers, made once a session."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SanaTransformer2DModel,
    SCMScheduler,
)
from safetensors.torch import load_file, save_file

from hdbench.networks.text import Conditions, names
from tests.support.material import material

LATENT_SIDE, CHANNELS, FACTOR, CAPTION_WIDTH = 8, 4, 4, 16  # an image has 32 x 32 pixels
TRANSFORMER = {
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "sample_size": LATENT_SIDE,
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "num_cross_attention_heads": 4,
    "cross_attention_head_dim": 4,
    "cross_attention_dim": 16,
    "caption_channels": CAPTION_WIDTH,
}
SPRINT = TRANSFORMER | {"guidance_embeds": True, "qk_norm": "rms_norm_across_heads"}


def made(seed: int, kind: type, **config) -> torch.nn.Module:
    """A frozen model with every weight random; biases and scales too, which start at 0 and 1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(**config).eval().requires_grad_(False)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.2 * torch.randn(parameter.shape)
    return model


@functools.cache
def kl_autoencoder(channels: int = CHANNELS, factor: int = FACTOR) -> Path:
    """A folder with an AutoencoderKL."""
    levels, folder = factor.bit_length(), material() / f"kl-{channels}-{factor}"
    model = made(
        0,
        AutoencoderKL,
        latent_channels=channels,
        block_out_channels=(8,) * levels,
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
    )
    model.save_pretrained(folder)
    return folder


def tiny_dc(channels: int, factor: int) -> AutoencoderDC:
    levels = factor.bit_length()
    return made(
        1,
        AutoencoderDC,
        latent_channels=channels,
        attention_head_dim=4,
        scaling_factor=0.41407,
        encoder_block_out_channels=(8,) * levels,
        decoder_block_out_channels=(8,) * levels,
        encoder_block_types=("ResBlock",) * (levels - 1) + ("EfficientViTBlock",),
        decoder_block_types=("ResBlock",) * (levels - 1) + ("EfficientViTBlock",),
        encoder_layers_per_block=(1,) * levels,
        decoder_layers_per_block=(1,) * levels,
        encoder_qkv_multiscales=((),) * (levels - 1) + ((5,),),
        decoder_qkv_multiscales=((),) * (levels - 1) + ((5,),),
    )


@functools.cache
def dc_autoencoder(channels: int = CHANNELS, factor: int = FACTOR) -> Path:
    """A folder with an AutoencoderDC."""
    folder = material() / f"dc-{channels}-{factor}"
    tiny_dc(channels, factor).save_pretrained(folder)
    return folder


@functools.cache
def sana_pipeline() -> Path:
    """A folder with a SanaPipeline: DC-AE, Gemma 2, a tokenizer of bytes, unshifted Euler steps."""
    from diffusers import SanaPipeline

    pipeline = SanaPipeline(
        transformer=made(2, SanaTransformer2DModel, **TRANSFORMER),
        vae=tiny_dc(CHANNELS, FACTOR),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        **text_parts(),
    )
    pipeline.save_pretrained(material() / "sana")
    return material() / "sana"


@functools.cache
def sana_sprint_pipeline() -> Path:
    """A folder with a SanaSprintPipeline."""
    from diffusers import SanaSprintPipeline

    pipeline = SanaSprintPipeline(
        transformer=made(3, SanaTransformer2DModel, **SPRINT),
        vae=tiny_dc(CHANNELS, FACTOR),
        scheduler=SCMScheduler(),
        **text_parts(),
    )
    pipeline.save_pretrained(material() / "sana-sprint")
    return material() / "sana-sprint"


def text_parts() -> dict:
    """Gemma 2 of one layer, and a tokenizer of single bytes with Gemma's special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import Gemma2Config, Gemma2Model, PreTrainedTokenizerFast

    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    vocabulary = {
        token: row
        for row, token in enumerate(special + sorted(pre_tokenizers.ByteLevel.alphabet()))
    }
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 2)]
    )
    named = {f"{token[1:-1]}_token": token for token in special}
    config = Gemma2Config(
        vocab_size=len(vocabulary),
        hidden_size=CAPTION_WIDTH,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    return {
        "tokenizer": PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named),
        "text_encoder": made(4, Gemma2Model, config=config),
    }


def random_conditions(rows: int, length: int = 6, width: int = CAPTION_WIDTH) -> Conditions:
    """A table of `rows` prompts of 1 to `length` tokens; the last, the empty prompt, has one."""
    folder = material() / f"conditions-{rows}-{length}-{width}"
    generator = torch.Generator().manual_seed(rows)
    lengths = torch.randint(1, length + 1, (rows,), generator=generator)
    lengths[-1] = 1
    tokens = torch.randn(int(lengths.sum()), width, generator=generator)
    folder.mkdir(exist_ok=True)
    save_file(
        {"tokens": tokens, "lengths": lengths, "length": torch.tensor(length)}, folder / names(1)[0]
    )
    return Conditions(folder)


def changed(source: Path, folder: Path, change: Callable[[dict, dict], object]) -> Path:
    """A copy of a model's folder after `change` of its configuration and its tensors."""
    shutil.copytree(source, folder)
    config, weights = folder / "config.json", folder / "diffusion_pytorch_model.safetensors"
    settings, tensors = json.loads(config.read_text()), load_file(weights)
    change(settings, tensors)
    config.write_text(json.dumps(settings))
    save_file(tensors, weights)
    return folder
