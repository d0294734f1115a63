"""Files of weights as people have them: read, with a line that says how, or refused.

The corpus is made by code.  Every case is read as its stage reads it, and on the meta device, as
`hdbench doctor` does: there it is refused in the same words, unless only its values are wrong.
"""

from __future__ import annotations

import functools
import json
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hdbench.core.errors import UserError
from hdbench.core.files import Fingerprint
from hdbench.networks import autoencoders
from hdbench.networks.checkpoints import NEEDED, read
from hdbench.networks.tensors import read_tensors
from hdbench.networks.transformer import TransformerConfig
from tests.support.pipelines import CHANNELS, FACTOR, changed, kl_autoencoder
from tests.support.sit_reference import random_reference

DATA = {"image_size": 8, "channels": 3, "classes": 5}
CONFIG = TransformerConfig(
    width=32, depth=2, heads=2, patch=2, time_features=256, position_side=4, **NEEDED["sit"]
)
Tensors = dict[str, Tensor]


@functools.cache
def sit() -> Tensors:
    return dict(random_reference().state_dict())


def plus_one() -> Tensors:
    return {key: x + 1 for key, x in sit().items()}


def prefixed(*prefixes: str, tensors: Tensors | None = None) -> Tensors:
    return {"".join(prefixes) + key: x for key, x in (tensors or sit()).items()}


def converted(path: Path, meta: bool = False) -> Tensors:
    with torch.device("meta" if meta else "cpu"):
        return read(path, "sit", CONFIG, **DATA)


def saved(content: Any, folder: Path, suffix: str) -> Path:
    path = folder / f"it{suffix}"
    save_file(content, path) if suffix == ".safetensors" else torch.save(content, path)
    return path


def compiled_inside(tensors: Tensors) -> Tensors:
    """As where torch.compile took each block."""
    return {
        key.replace("blocks.0.", "blocks.0._orig_mod."): tensor for key, tensor in tensors.items()
    }


# what it holds, and what the line says
TAKEN: dict[str, tuple[Callable[[], Any], str]] = {
    "plain": (sit, ""),
    "ordered": (lambda: OrderedDict(sit()), ""),
    "of DiT's trainer": (
        lambda: {"model": plus_one(), "ema": sit(), "opt": {"state": {}}, "args": Namespace(a=1)},
        "its ema, without args, model, opt",
    ),
    "a number as ema": (lambda: {"ema": 0.999, "model": sit()}, "its model, without ema"),
    "an empty ema": (lambda: {"ema": {}, "model": sit()}, "its model, without ema"),
    "counters beside": (
        lambda: {"ema": sit() | {"num_updates": torch.tensor(7), "decay": 0.999}},
        "its ema, without num_updates, decay",
    ),
    "counters outside": (
        lambda: {"state_dict": sit(), "num_updates": 7, "best": None},
        "its state_dict, without best, num_updates",
    ),  # fmt: skip
    "counters among them": (
        lambda: sit() | {"num_updates": torch.tensor([7]), "epoch": 3},
        "without num_updates, epoch",
    ),
    "of DataParallel": (lambda: prefixed("module."), "without the prefix module."),
    "of torch.compile": (lambda: prefixed("_orig_mod."), "without the prefix _orig_mod."),
    "of both": (
        lambda: {"model": prefixed("_orig_mod.", "module.")},
        "its model, without the prefix _orig_mod. and module.",
    ),  # fmt: skip
    "of both in the other order": (
        lambda: prefixed("module.", "_orig_mod."),
        "without the prefix _orig_mod. and module.",
    ),
    "compiled blocks": (lambda: compiled_inside(sit()), "without the prefix _orig_mod."),
    "of AveragedModel": (
        lambda: prefixed("module.") | {"n_averaged": torch.tensor(10)},
        "without the prefix module., without n_averaged",
    ),
    "wrapped twice": (
        lambda: {"state_dict": {"ema": sit(), "model": plus_one()}},
        "its state_dict.ema, without model",
    ),  # fmt: skip
    "of Lightning": (
        lambda: {"state_dict": prefixed("model."), "epoch": 3, "hyper_parameters": {"lr": 1e-4}},
        "its state_dict.model, without epoch, hyper_parameters",
    ),
    "under another name": (lambda: {"generator": sit(), "epoch": 3}, "its generator"),
    "float16": (lambda: {key: x.half() for key, x in sit().items()}, "from float16"),
    "bfloat16": (lambda: {key: x.bfloat16() for key, x in sit().items()}, "from bfloat16"),
    "float64": (lambda: {key: x.double() for key, x in sit().items()}, "from float64"),
}


@pytest.mark.parametrize("case", TAKEN)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_as_people_have_them(case, suffix, tmp_path, capsys):
    """The same tensors as of the plain file, and on standard error one line that says how."""
    content, line = TAKEN[case][0](), TAKEN[case][1]
    flat = all(isinstance(value, Tensor) for value in content.values())
    if suffix == ".safetensors" and not flat:
        pytest.skip("such a file holds tensors alone")
    path = saved(content, tmp_path, suffix)
    tensors = converted(path)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == bool(line) and (not line or line in said[0])
    loose = {"atol": 1e-2, "rtol": 1e-2} if "float" in case else {"atol": 0, "rtol": 0}
    for key, wanted in converted(saved(sit(), tmp_path, ".pth")).items():
        torch.testing.assert_close(tensors[key], wanted, **loose)
    shapes = {key: (x.shape, x.dtype) for key, x in tensors.items()}
    assert {k: (x.shape, x.dtype) for k, x in converted(path, meta=True).items()} == shapes


# what is refused before any value is read, and in which words


def bytes_of(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    return bytes_of(path, content[: int(share * len(content))])


def whole_module(folder: Path) -> Path:
    torch.save(nn.Linear(2, 2), folder / "it.pt")
    return folder / "it.pt"


def holding_itself(**beside: Any) -> dict[str, Any]:
    """A trainer's mapping that is its own model."""
    state: dict[str, Any] = dict(beside)
    state["model"] = state
    return state


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a list": (lambda d: saved([torch.ones(2)], d, ".pt"), "holds a list of 1, not one mapping"),
    "a tensor": (lambda d: saved(torch.ones(2), d, ".pt"), "holds a Tensor, not one mapping"),
    "a module": (whole_module, r"objects \(torch.nn.modules.linear.Linear\), which could run"),
    "nothing": (lambda d: saved({}, d, ".pt"), "holds nothing, not one mapping"),
    "numbers": (lambda d: saved({"epoch": 3, "loss": 0.1}, d, ".pt"), "holds epoch, loss, not one"),
    "an optimiser": (
        lambda d: saved({"opt": {"state": {0: {"exp_avg": torch.ones(2)}}}}, d, ".pt"),
        "not one mapping of names to tensors",
    ),
    "shadow tensors without names": (
        lambda d: saved({"ema": {"decay": 0.9, "shadow_params": [*sit().values()]}}, d, ".pt"),
        "its ema holds decay, shadow_params, not one mapping",
    ),
    "a list as ema": (
        lambda d: saved({"ema": [*sit().values()], "model": sit()}, d, ".pt"),
        "its ema holds a list of",
    ),
    "two networks": (
        lambda d: saved({"generator": sit(), "discriminator": sit()}, d, ".pt"),
        "holds generator, discriminator, not one mapping",
    ),
    "numbers as names": (lambda d: saved({0: torch.ones(2)}, d, ".pt"), "holds 0, not one mapping"),
    "an empty file": (lambda d: bytes_of(d / "it.pt", b""), "but empty; get it again"),
    "a page": (lambda d: bytes_of(d / "it.pt", b"<!DOCTYPE html>"), "but text, such as a web page"),
    "a pointer": (
        lambda d: bytes_of(d / "it.pt", b"version https://git-lfs.github.com/spec/v1\n"),
        "run `git lfs pull`",
    ),
    "random bytes": (lambda d: bytes_of(d / "it.pt", bytes(range(7, 200))), "not a file of weight"),
    "half a .pt": (lambda d: cut(saved(sit(), d, ".pt"), 0.5), "its end is missing; get it again"),
    "nearly all of a .pt": (lambda d: cut(saved(sit(), d, ".pt"), 0.99), "its end is missing"),
    "half a .safetensors": (
        lambda d: cut(saved(sit(), d, ".safetensors"), 0.5),
        "not a file of weights",
    ),
    "a .pt called .safetensors": (
        lambda d: saved(sit(), d, ".pt").rename(d / "it.safetensors"),
        "not a file of weights",
    ),
    "a network without a block": (
        lambda d: saved({k: x for k, x in sit().items() if "blocks.1.mlp" not in k}, d, ".pt"),
        "it lacks blocks.1.mlp.fc1.weight",
    ),
    "an unknown prefix": (
        lambda d: saved(prefixed("net."), d, ".pt"),
        "all of its names begin with net.",
    ),
    "one network twice": (
        lambda d: saved(sit() | prefixed("_orig_mod."), d, ".pt"),
        "differ in _orig_mod. alone",
    ),
    "another size": (
        lambda d: saved(random_reference(width=64).state_dict(), d, ".pt"),
        "set network.width to 64",
    ),
    "int8": (
        lambda d: saved({k: (9 * x).to(torch.int8) for k, x in sit().items()}, d, ".safetensors"),
        r"no plain floating-point numbers .* is int8\)",
    ),
    "one int8": (
        lambda d: saved(sit() | {"pos_embed": sit()["pos_embed"].to(torch.int8)}, d, ".pt"),
        r"1 of its .* \(pos_embed is int8\)",
    ),
    "int64": (lambda d: saved({k: (9 * x).long() for k, x in sit().items()}, d, ".pt"), "is int64"),
    "bool": (lambda d: saved({k: x > 0 for k, x in sit().items()}, d, ".pt"), "is bool"),
    "float8": (
        lambda d: saved({k: x.to(torch.float8_e4m3fn) for k, x in sit().items()}, d, ".pt"),
        "is float8_e4m3fn",
    ),
    "complex": (
        lambda d: saved({k: torch.complex(x, x) for k, x in sit().items()}, d, ".pt"),
        "is complex64",
    ),
    "itself": (lambda d: saved(holding_itself(), d, ".pt"), "or holds itself"),
    "itself beside weights": (
        lambda d: saved(holding_itself(w=torch.ones(2)), d, ".pt"),
        "or holds itself",
    ),
    "of a stride of 0": (
        lambda d: saved({"w": torch.ones(1).expand(10**6, 10**6)}, d, ".pt"),
        "w is fewer values, repeated",
    ),
    "nested": (
        lambda d: saved({"w": torch.nested.nested_tensor([torch.ones(2)])}, d, ".pt"),
        "w is nested|not a file of weights",
    ),
    "sparse": (
        lambda d: saved({k: x.to_sparse() for k, x in sit().items()}, d, ".pt"),
        "is sparse_coo|not a file of weights",
    ),
    "no rows": (lambda d: saved({k: x[:0] for k, x in sit().items()}, d, ".pt"), "is empty"),
    "no axes": (
        lambda d: saved({k: x.sum() for k, x in sit().items()}, d, ".pt"),
        "of another number of axes",
    ),
    "a folder": (lambda d: d, "a folder, not a file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_network_is_refused_in_one_sentence_without_values_too(case, tmp_path):
    make, sentence = REFUSED[case]
    path = make(tmp_path)
    for meta in (False, True):
        with pytest.raises(UserError, match=sentence) as error:
            converted(path, meta)
        assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
        assert "; " in str(error.value)


# values


def changed_in(name: str, change: Callable[[Tensor], Any]) -> Tensors:
    tensors = {key: x.clone() for key, x in sit().items()}
    change(tensors[name])
    return tensors


def put(value: float) -> Callable[[Tensor], None]:
    return lambda x: x.view(-1)[:1].fill_(value)


WORTHLESS = {
    "no values": (lambda: {k: x.to("meta") for k, x in sit().items()}, "is without values"),
    "a NaN": (lambda: changed_in("blocks.0.attn.qkv.weight", put(torch.nan)), "1 of 3072 values"),
    "an infinity": (lambda: changed_in("blocks.1.mlp.fc1.bias", put(torch.inf)), "1 of 128 value"),
    "minus infinity": (lambda: changed_in("pos_embed", put(-torch.inf)), "pos_embed has 1 of 512"),
    "NaN in half precision": (
        lambda: {k: x.half().fill_(torch.nan) for k, x in sit().items()},
        "not finite",
    ),
    "zeros": (lambda: {k: 0 * x for k, x in sit().items()}, "matrices have one value alone"),
    "ones": (lambda: {k: 0 * x + 1 for k, x in sit().items()}, "matrices have one value alone"),
    "zeros but for positions": (
        lambda: {k: x if k == "pos_embed" else 0 * x for k, x in sit().items()},
        "16 of its 17 matrices",
    ),
}


@pytest.mark.parametrize("case", WORTHLESS)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_values_that_no_training_gives_are_refused(case, suffix, tmp_path):
    make, sentence = WORTHLESS[case]
    if case == "no values" and suffix == ".safetensors":
        pytest.skip("such a file always has them")
    with pytest.raises(UserError, match=sentence):
        converted(saved(make(), tmp_path, suffix))


# shards


def shards(folder: Path, tensors: Tensors, suffix: str = ".safetensors") -> Path:
    """Two files and their index."""
    names = sorted(tensors)
    places = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{number:05}-of-00002{suffix}"
        content = {name: tensors[name] for name in part}
        save_file(content, folder / file) if "safe" in suffix else torch.save(
            content, folder / file
        )
        places |= dict.fromkeys(part, file)
    index = folder / f"model{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_shards_are_read_by_their_index_or_folder(suffix, tmp_path):
    index = shards(tmp_path, prefixed("module."), suffix)
    wanted = converted(saved(sit(), tmp_path, ".pth"))
    for path in (index, tmp_path):
        tensors = converted(path)
        assert tensors.keys() == wanted.keys() == converted(path, meta=True).keys()
        assert all(torch.equal(tensors[key], wanted[key]) for key in wanted)


def test_an_index_stands_for_the_content_of_its_shards(tmp_path):
    index = shards(tmp_path, sit())
    record = Fingerprint(str(index)).record()
    content = (tmp_path / "model-00001-of-00002.safetensors").read_bytes()
    bytes_of(tmp_path / "other.safetensors", content)
    assert not Fingerprint(str(index)).differs(record)
    changed_content = content[:-1] + bytes([content[-1] ^ 1])
    bytes_of(tmp_path / "model-00001-of-00002.safetensors", changed_content)
    assert Fingerprint(str(index)).differs(record)


BROKEN_SHARDS = {
    "one is missing": (
        lambda d: (d / "model-00002-of-00002.safetensors").unlink(),
        "its shard model-00002-of-00002.safetensors is missing",
    ),
    "one is cut": (lambda d: cut(d / "model-00001-of-00002.safetensors", 0.7), "not a file of wei"),
    "the index is no index": (
        lambda d: (d / "model.safetensors.index.json").write_text("[]"),
        "not an index of shards",
    ),
    "the index names another folder's": (
        lambda d: (d / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"x": "../x.safetensors"}})
        ),
        "shards are files beside their index",
    ),
    "the index names more": (
        lambda d: save_file({"x": torch.ones(1)}, d / "model-00002-of-00002.safetensors"),
        "it and its shards differ in",
    ),
}


@pytest.mark.parametrize("case", BROKEN_SHARDS)
def test_shards_that_do_not_fit_their_index(case, tmp_path):
    index = shards(tmp_path, sit())
    breaks, sentence = BROKEN_SHARDS[case]
    breaks(tmp_path)
    for meta in (False, True):
        with pytest.raises(UserError, match=sentence):
            converted(index, meta)


def test_one_shard_alone_is_told_of_its_index(tmp_path):
    shards(tmp_path, sit())
    with pytest.raises(UserError, match=r"one of 2 shards; give model.safetensors.index.json"):
        converted(tmp_path / "model-00001-of-00002.safetensors")


# other readers of a user's weights


def test_integers_that_are_no_weights_stay(tmp_path):
    """Batch norm's counter, CLIP's positions and Swin's index."""
    integers = {"bn.num_batches_tracked": torch.tensor(3),
                "text.position_ids": torch.arange(77)[None],
                "attn.relative_position_index": torch.ones(4, 4).long()}  # fmt: skip
    path = saved({"w": torch.randn(2, 2)} | integers, tmp_path, ".pt")
    assert read_tensors(path).keys() == {"w", *integers}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x: x.fill_(torch.nan), "values that are not finite"),
        (lambda x: x.zero_(), "matrices have one value alone"),
    ],
)
def test_an_autoencoder_without_worth_is_refused(change, sentence, tmp_path):
    def spoil(config, tensors):
        for tensor in tensors.values():
            change(tensor)

    with pytest.raises(UserError, match=sentence):
        autoencoders.load(autoencoder(changed(kl_autoencoder(), tmp_path / "it", spoil)), CPU)


CPU = torch.device("cpu")


def autoencoder(folder: Path) -> autoencoders.AutoencoderConfig:
    return autoencoders.AutoencoderConfig(
        name="kl", path=str(folder), channels=CHANNELS, factor=FACTOR, scale=0.18215
    )


def test_an_autoencoder_of_integers_is_refused_from_its_header(tmp_path):
    def round_all(config, tensors):
        tensors.update({key: (9 * x).to(torch.int8) for key, x in tensors.items()})

    folder = changed(kl_autoencoder(), tmp_path / "it", round_all)
    for device in ("cpu", "meta"):
        with torch.device(device), pytest.raises(UserError, match="is int8"):
            autoencoders.load(autoencoder(folder), torch.device(device))


def test_an_autoencoders_settings_are_compared_with_its_weights_before_memory_is_taken(tmp_path):
    def widen(config, _):
        config["latent_channels"] = 10**6

    folder = changed(kl_autoencoder(), tmp_path / "it", widen)
    for device in ("cpu", "meta"):
        with torch.device(device), pytest.raises(UserError, match=r"of its config\.json"):
            autoencoders.load(autoencoder(folder), torch.device(device))


@pytest.mark.parametrize(
    "settings",
    [
        {"down_block_types": ["NoBlock"] * 3},
        {"layers_per_block": 10**9},
        {"layers_per_block": "2"},
        {"block_out_channels": None},
        {"norm_num_groups": 3},
    ],
)
def test_an_autoencoders_settings_that_make_none_are_refused_in_one_sentence(settings, tmp_path):
    folder = changed(kl_autoencoder(), tmp_path / "it", lambda config, _: config.update(settings))
    for device in ("cpu", "meta"):
        with (
            torch.device(device),
            pytest.raises(UserError, match=r"its config\.json makes no AutoencoderKL"),
        ):
            autoencoders.load(autoencoder(folder), torch.device(device))
