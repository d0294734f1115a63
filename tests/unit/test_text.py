"""Encoded prompts against the pipeline's own `encode_prompt`, and the table that holds them."""

from __future__ import annotations

import inspect
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from hdbench.core import distributed
from hdbench.core.errors import UserError
from hdbench.networks.text import Conditions, TextConfig, encode
from tests.support.pipelines import CAPTION_WIDTH, sana_pipeline

CPU, LENGTH = torch.device("cpu"), 16
PROMPTS = [
    "A cat",
    " Two Dogs",
    "a very long prompt of more tokens than the encoder takes",
    "hill",
    "HILL",
    "",
    "sea and sky ",
]


def configured(**changes) -> TextConfig:
    return TextConfig(
        **{
            "path": str(sana_pipeline()),
            "length": LENGTH,
            "dtype": "float32",
            "batch": 2,
            "prompts_per_shard": 3,
        }
        | changes
    )


def silent(done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Conditions:
    folder = tmp_path_factory.mktemp("table")
    encode(PROMPTS, configured(), folder, CPU, silent)
    return Conditions(folder)


@pytest.mark.parametrize("instructed", [True, False])
def test_rows_equal_the_pipelines_embeddings(tmp_path, instructed):
    """Every prompt, and the empty one that guidance contrasts them with; only padding, which the
    mask hides, is 0 instead.
    """
    from diffusers import SanaPipeline

    pipeline = SanaPipeline.from_pretrained(sana_pipeline())
    instruction = (
        inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
    )
    with torch.no_grad():
        expected, mask, null, null_mask = pipeline.encode_prompt(
            PROMPTS,
            True,
            max_sequence_length=LENGTH,
            complex_human_instruction=instruction if instructed else None,
        )
    encode(PROMPTS, configured(complex_human_instruction=instructed), tmp_path, CPU, silent)
    conditions = Conditions(tmp_path)
    found, found_mask = conditions[torch.arange(len(PROMPTS) + 1)]
    mask, expected = torch.cat([mask, null_mask[:1]]), torch.cat([expected, null[:1]])
    assert (
        len(conditions) == len(PROMPTS) + 1
        and conditions.width == CAPTION_WIDTH
        and torch.equal(found_mask.long(), mask)
    )
    torch.testing.assert_close(found, expected * mask[..., None], rtol=0, atol=1e-6)
    assert torch.equal(found[3], found[4]) and not torch.equal(found[0], found[1])


@pytest.mark.parametrize(
    ("prompts", "changes", "said"),
    [
        (
            PROMPTS,
            {"complex_human_instruction": False},
            "hdbench: 1 of 7 prompts are cut at 16 tokens\n",
        ),
        (
            ["x" * 15, "x" * 16],
            {"complex_human_instruction": False},
            "hdbench: 1 of 2 prompts are cut at 16 tokens\n",
        ),  # and <bos>
        (
            ["x" * 14, "x" * 15],
            {},
            "hdbench: 1 of 2 prompts are cut at 16 tokens\n",
        ),  # and the instruction's first and last
        (["x" * 14], {}, ""),
    ],
)
def test_prompts_that_are_cut_are_counted(tmp_path, capfd, prompts, changes, said):
    """A prompt is cut where its row stays the same without its last character."""
    encode(prompts, configured(**changes), tmp_path / "whole", CPU, silent)
    assert (
        "".join(line for line in capfd.readouterr().err.splitlines(True) if "hdbench" in line)
        == said
    )
    encode(
        [prompt.strip()[:-1] for prompt in prompts],
        configured(**changes),
        tmp_path / "shorter",
        CPU,
        silent,
    )
    whole, shorter = (
        Conditions(tmp_path / name)[torch.arange(len(prompts))][0] for name in ("whole", "shorter")
    )
    same = [
        bool((a - b).abs().max() < 1e-6)
        for a, b, prompt in zip(whole, shorter, prompts, strict=True)
        if prompt
    ]
    assert sum(same) == (int(said.split()[1]) if said else 0)


def test_lookup_takes_any_rows_in_any_order(table):
    c = torch.tensor([7, 0, 3, 0, 5, 2])
    embeddings, mask = table[c]
    assert (
        embeddings.shape == (6, LENGTH, CAPTION_WIDTH)
        and mask.shape == (6, LENGTH)
        and mask.dtype == torch.bool
    )
    for row, label in enumerate(c):
        alone, alone_mask = table[label[None]]
        assert torch.equal(embeddings[row], alone[0]) and torch.equal(mask[row], alone_mask[0])
    assert mask.sum(1).tolist() == [
        1,
        7,
        6,
        7,
        2,
        16,
    ]  # with the instruction, <bos> and its last character
    assert not embeddings[~mask].any() and (embeddings[mask] != 0).any(-1).all()


def test_table_has_the_dtype_that_is_asked_for(tmp_path, table):
    encode(PROMPTS[:1], configured(dtype="bfloat16"), tmp_path, CPU, silent)
    row, _ = Conditions(tmp_path)[torch.tensor([0])]
    assert row.dtype == torch.bfloat16
    torch.testing.assert_close(row.float(), table[torch.tensor([0])][0], rtol=0.1, atol=0.1)


def test_encoding_goes_on_where_it_stopped(tmp_path):
    """Shards of the same prompts and configuration stay as they are; others, and those of another
    table, go.
    """
    names, seen = encode(PROMPTS, configured(), tmp_path, CPU, silent), []
    first = {name: (tmp_path / name).read_bytes() for name in names}
    written = {name: (tmp_path / name).stat().st_mtime_ns for name in names}
    assert len(names) == 3 and sorted(path.name for path in tmp_path.iterdir()) == names
    (tmp_path / names[1]).write_bytes(first[names[1]][:50])
    with pytest.raises(UserError, match="not a table of encoded prompts"):
        Conditions(tmp_path)
    encode(PROMPTS, configured(), tmp_path, CPU, lambda done, total: seen.append((done, total)))
    assert first == {name: (tmp_path / name).read_bytes() for name in names} and seen == [
        (0, 8),
        (3, 8),
        (6, 8),
        (8, 8),
    ]
    assert [name for name in names if (tmp_path / name).stat().st_mtime_ns != written[name]] == [
        names[1]
    ]
    (tmp_path / names[1]).unlink()
    with pytest.raises(UserError, match="not all shards of one table"):
        Conditions(tmp_path)
    encode([*PROMPTS[:6], "another"], configured(), tmp_path, CPU, silent)
    assert [name for name in names if (tmp_path / name).read_bytes() != first[name]] == [names[2]]
    encode(PROMPTS, configured(prompts_per_shard=4), tmp_path, CPU, silent)
    assert len(Conditions(tmp_path)) == 8 and len(list(tmp_path.iterdir())) == 2


def test_ranks_share_the_shards(tmp_path, monkeypatch):
    encode(PROMPTS, configured(), tmp_path / "alone", CPU, silent)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    for rank, own in ((1, [1]), (0, [0, 1, 2])):
        monkeypatch.setattr(distributed, "rank", lambda: rank)
        names = encode(PROMPTS, configured(), tmp_path / "shared", CPU, silent)
        assert sorted(path.name for path in (tmp_path / "shared").iterdir()) == [
            names[shard] for shard in own
        ]
    for name in names:
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "shared" / name).read_bytes()


@pytest.mark.parametrize("label", [-1, 8])
def test_a_label_that_is_no_row_is_named(table, label):
    with pytest.raises(
        UserError, match=f"label {label}: the table of encoded prompts has 8 rows, 0 to 7"
    ):
        table[torch.tensor([0, label])]


def test_what_is_no_table_is_refused(tmp_path):
    with pytest.raises(UserError, match="no table of encoded prompts"):
        Conditions(tmp_path / "missing")
    save_file({"latents": torch.zeros(2)}, tmp_path / "conditions-00000-of-00001.safetensors")
    with pytest.raises(UserError, match="not a table of encoded prompts"):
        Conditions(tmp_path)


@pytest.mark.parametrize("part", ["tokenizer", "text_encoder"])
def test_missing_and_broken_encoders_are_refused(tmp_path, part):
    def attempt(message: str) -> None:
        with pytest.raises(UserError, match=message):
            encode(
                PROMPTS, configured(path=str(tmp_path / "sana")), tmp_path / "table", CPU, silent
            )

    attempt("tokenizer: there is no such folder; put a SANA pipeline")
    shutil.copytree(sana_pipeline(), tmp_path / "sana")
    for path in (tmp_path / "sana" / part).iterdir():
        path.unlink()
    attempt("its tokenizer or Gemma 2 cannot be read")
    shutil.rmtree(tmp_path / "sana" / part)
    attempt(f"{part}: there is no such folder")


def test_a_text_encoder_without_all_its_weights_is_refused(tmp_path):
    shutil.copytree(sana_pipeline(), tmp_path / "sana")
    weights = tmp_path / "sana/text_encoder/model.safetensors"
    tensors = load_file(weights)
    tensors.pop("norm.weight")
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(UserError, match=r"1 missing keys \(norm.weight\)"):
        encode(PROMPTS, configured(path=str(tmp_path / "sana")), tmp_path / "table", CPU, silent)
