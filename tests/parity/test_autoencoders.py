"""Autoencoders against diffusers' own on tiny random weights, and wrong folders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderDC, AutoencoderKL
from safetensors.torch import load_file
from torch import Tensor

from hdbench.core.errors import UserError
from hdbench.networks.autoencoders import AutoencoderConfig, load
from tests.support.pipelines import (
    CHANNELS,
    FACTOR,
    changed,
    dc_autoencoder,
    kl_autoencoder,
    sana_pipeline,
)

CPU = torch.device("cpu")
SCALES = {"kl": 0.18215, "dc": 0.41407}
FOLDERS = {"kl": kl_autoencoder, "dc": dc_autoencoder}


def configured(name: str, **changes) -> AutoencoderConfig:
    return AutoencoderConfig(
        **{
            "name": name,
            "path": str(FOLDERS[name]()),
            "channels": CHANNELS,
            "factor": FACTOR,
            "scale": SCALES[name],
        }
        | changes
    )


def images(seed: int = 0) -> Tensor:
    return torch.rand(2, 3, 32, 24, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@torch.no_grad()
def test_kl_latents_are_the_scaled_mean_plus_noise():
    """And decoding takes a latent back to where it came from."""
    autoencoder, own = load(configured("kl"), CPU), AutoencoderKL.from_pretrained(kl_autoencoder())
    noise = torch.randn(2, CHANNELS, 8, 6, generator=torch.Generator().manual_seed(1))
    posterior = own.encode(images()).latent_dist
    torch.testing.assert_close(autoencoder.encode(images()), 0.18215 * posterior.mean)
    z = autoencoder.encode(images(), noise)
    torch.testing.assert_close(
        z, 0.18215 * (posterior.mean + posterior.logvar.exp().sqrt() * noise)
    )
    assert z.shape == noise.shape and not torch.equal(z, autoencoder.encode(images(), 2 * noise))
    torch.testing.assert_close(autoencoder.decode(z), own.decode(z / 0.18215).sample)


@torch.no_grad()
def test_dc_latents_are_deterministic():
    autoencoder, own = load(configured("dc"), CPU), AutoencoderDC.from_pretrained(dc_autoencoder())
    z = autoencoder.encode(images(), torch.ones(2, CHANNELS, 8, 6))
    torch.testing.assert_close(z, 0.41407 * own.encode(images()).latent)
    assert z.shape == (2, CHANNELS, 8, 6) and torch.equal(z, autoencoder.encode(images()))
    torch.testing.assert_close(autoencoder.decode(z), own.decode(z / 0.41407).sample)


@torch.no_grad()
def test_pipelines_latents_decode_to_its_image():
    """The scale is the one that SANA's pipeline has between its network and its images."""
    from diffusers import SanaPipeline

    autoencoder, z = (
        load(configured("dc", path=str(sana_pipeline())), CPU),
        torch.randn(1, CHANNELS, 8, 8),
    )
    pipeline = SanaPipeline.from_pretrained(sana_pipeline())
    expected = pipeline.vae.decode(z / pipeline.vae.config.scaling_factor).sample
    torch.testing.assert_close(autoencoder.decode(z), expected)


@torch.no_grad()
def test_a_shift_is_taken_before_the_scale(tmp_path):
    """(latent - shift) scale, as in diffusers' pipelines with a shift_factor."""
    folder = changed(
        kl_autoencoder(), tmp_path / "vae", lambda config, tensors: config.update(shift_factor=0.5)
    )
    autoencoder, plain = (
        load(configured("kl", path=str(folder), shift=0.5), CPU),
        load(configured("kl"), CPU),
    )
    torch.testing.assert_close(autoencoder.encode(images()), plain.encode(images()) - 0.5 * 0.18215)
    z = plain.encode(images())
    torch.testing.assert_close(autoencoder.decode(z - 0.5 * 0.18215), plain.decode(z))


@torch.no_grad()
@pytest.mark.parametrize("name", FOLDERS)
def test_dtype_of_the_weights_is_not_that_of_what_comes_out(name):
    half, full = load(configured(name), CPU, torch.bfloat16), load(configured(name), CPU)
    z = half.encode(images())
    assert half.model.dtype == torch.bfloat16 and z.dtype == half.decode(z).dtype == torch.float32
    torch.testing.assert_close(z, full.encode(images()), rtol=0.1, atol=0.05)


def test_weights_are_frozen_and_gradients_pass():
    autoencoder, z = load(configured("kl"), CPU), torch.randn(1, CHANNELS, 4, 4, requires_grad=True)
    autoencoder.decode(z).sum().backward()
    assert z.grad.abs().max() > 0 and all(
        parameter.grad is None for parameter in autoencoder.model.parameters()
    )
    assert not autoencoder.model.training


@torch.no_grad()
@pytest.mark.parametrize(("name", "channels", "factor"), [("kl", 3, 8), ("dc", 2, 2)])
def test_other_sizes(name, channels, factor):
    folder = FOLDERS[name](channels, factor)
    autoencoder = load(configured(name, path=str(folder), channels=channels, factor=factor), CPU)
    z = autoencoder.encode(images())
    assert (
        z.shape == (2, channels, 32 // factor, 24 // factor)
        and autoencoder.decode(z).shape == images().shape
    )


# what a folder may have wrong


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": 0.41407}, r"set autoencoder.scale to 0.18215 \(not 0.41407\)"),
        ({"shift": 0.1}, r"set autoencoder.shift to 0.0 \(not 0.1\)"),
        (
            {"channels": 16, "factor": 8},
            r"set autoencoder.channels to 4 \(not 16\), autoencoder.factor to 4 \(not 8\)",
        ),
        (
            {"name": "dc"},
            "holds AutoencoderKL, not AutoencoderDC; give a folder such as mit-han-lab/dc-ae",
        ),
        (
            {"path": "nowhere"},
            "nowhere: there is no such folder; put diffusers' AutoencoderKL there, such as "
            "stabilityai",
        ),
        ({"path": str(Path(__file__).parent)}, "no config.json of diffusers; give"),
    ],
)
def test_what_differs_from_the_configuration_is_named(changes, message):
    configuration = configured("kl", path=str(kl_autoencoder())).model_copy(update=changes)
    with pytest.raises(UserError, match=message):
        load(configuration, CPU)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda config, tensors: [tensors.pop(key) for key in list(tensors) if "quant" in key],
            r"4 missing keys \(post_quant_conv.bias, post_quant_conv.weight, quant_conv.bias, "
            r"...\)",
        ),
        (
            lambda config, tensors: tensors.update(extra=torch.zeros(1)),
            r"1 unexpected keys \(extra\)",
        ),
        (
            lambda config, tensors: tensors.update({"quant_conv.bias": torch.zeros(3)}),
            "has the shape \\[3\\], not",
        ),
        (lambda config, tensors: config.pop("_class_name"), "no config.json of diffusers; give"),
    ],
)
def test_broken_folders_are_refused(tmp_path, change, message):
    folder = changed(kl_autoencoder(), tmp_path / "vae", change)
    with pytest.raises(UserError, match=message):
        load(configured("kl", path=str(folder)), CPU)


def test_only_safetensors_are_read(tmp_path):
    """A pickle could run code."""
    model = AutoencoderKL.from_pretrained(kl_autoencoder())
    model.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(UserError, match="cannot be read as .safetensors"):
        load(configured("kl", path=str(tmp_path)), CPU)


def test_weights_with_the_old_names_of_attention_are_read(tmp_path):
    """SD-VAE's public weights have them."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(config, tensors):
        for key in list(tensors):
            for new, name in old.items():
                if f"attentions.0.{new}." in key:
                    tensors[key.replace(new, name)] = tensors.pop(key)

    folder = changed(kl_autoencoder(), tmp_path / "vae", rename)
    assert "decoder.mid_block.attentions.0.query.weight" in load_file(
        folder / "diffusion_pytorch_model.safetensors"
    )
    found, expected = load(configured("kl", path=str(folder)), CPU), load(configured("kl"), CPU)
    with torch.no_grad():
        assert torch.equal(found.encode(images()), expected.encode(images()))
