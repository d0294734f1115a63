"""Prompts encoded once, by a SANA pipeline, into a table whose rows are labels.

The table is a folder of shards `conditions-00000-of-00030.safetensors`, in order: `tokens` (T, D),
the embeddings of the prompts without their padding, `lengths` (n,) int64, tokens of each, and
`length`, L; in the header `digest`, of the prompts and the configuration.  Its last row is the
empty prompt, with which guidance contrasts the others.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from hdbench.core import distributed
from hdbench.core.config import Config, OutsidePath
from hdbench.core.errors import UserError, reason
from hdbench.core.files import write_together
from hdbench.networks.autoencoders import check_keys, read_headers, variant
from hdbench.networks.tensors import check_values

if TYPE_CHECKING:
    from diffusers import SanaPipeline


SHARDS = "conditions-?????-of-?????.safetensors"
PUBLIC = "Efficient-Large-Model/Sana_1600M_1024px_diffusers"


class TextConfig(Config):
    """How prompts become conditions."""

    path: OutsidePath = Field(
        description="folder of a SANA pipeline of diffusers, with `tokenizer` and `text_encoder`"
    )
    length: int = Field(default=300, ge=2, description="L, tokens of a condition")
    complex_human_instruction: bool = Field(
        default=True, description="put SANA's instruction before each prompt but the empty one"
    )
    dtype: Literal["bfloat16", "float32"] = Field(
        default="bfloat16", description="of the text encoder and of the table"
    )
    batch: int = Field(default=16, ge=1, description="prompts encoded at once")
    prompts_per_shard: int = Field(default=1024, ge=1)

    @property
    def tokens(self) -> int:
        """The most tokens of a prompt."""
        return self.length


class Conditions:
    """The table, memory-mapped: row c is a prompt, the last row the empty one.

    `length` is L and `width` D.  A copy is the same table, so that copies of a network share it.
    """

    def __init__(self, folder: Path):
        """UserError where the folder is missing, is not a table, or has not all of its shards."""
        files = sorted(folder.glob(SHARDS))
        if not files:
            raise UserError(f"{folder}: no table of encoded prompts; encode them first")
        if [path.name for path in files] != names(len(files)):
            raise UserError(
                f"{folder}: not all shards of one table of encoded prompts; "
                "run the same command again"
            )
        try:
            shards = [load_file(path) for path in files]  # maps the files
            self.tokens = [shard["tokens"] for shard in shards]
            lengths = [shard["lengths"] for shard in shards]
            self.length = int(shards[0]["length"])
            self.width = self.tokens[0].shape[1]
        except (SafetensorError, OSError, KeyError) as error:
            raise UserError(
                f"{folder}: not a table of encoded prompts ({error}); "
                "delete it and encode them again"
            ) from None
        self.lengths = torch.cat(lengths)
        # first token of each row in its shard
        self.starts = torch.cat([counts.cumsum(0) - counts for counts in lengths])
        self.shards = torch.repeat_interleave(
            torch.arange(len(lengths)), torch.tensor([len(counts) for counts in lengths])
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """c (B,) int64 -> embeddings (B, L, D), 0 beyond a prompt's tokens, and mask (B, L) bool.

        Both are on c's device; UserError for a label that is not a row.
        """
        tokens, mask = self.gather(c.cpu())
        places = mask.flatten().nonzero()[:, 0].to(c.device)  # on the host, which need not wait
        embeddings = tokens.new_zeros(*mask.shape, self.width, device=c.device)
        embeddings.flatten(0, 1)[places] = tokens.to(c.device)
        return embeddings, mask.to(c.device)

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens (T, D) of rows (B,), one after another, and their mask (B, L), on the host."""
        if wrong := rows[(rows < 0) | (rows >= len(self))].tolist():
            raise UserError(
                f"label {wrong[0]}: the table of encoded prompts has {len(self)} rows, 0 to "
                f"{len(self) - 1}"
            )
        places = torch.arange(self.length)
        mask = places < self.lengths[rows, None]
        wanted = (self.starts[rows, None] + places)[mask]
        shards = self.shards[rows, None].expand_as(mask)[mask]
        tokens = self.tokens[0].new_empty(len(wanted), self.width)
        for shard in shards.unique().tolist():
            inside = shards == shard
            tokens[inside] = self.tokens[shard][wanted[inside]]
        return tokens, mask

    def __deepcopy__(self, memo: dict) -> Conditions:
        return self


def names(shards: int) -> list[str]:
    """The file names of a table of so many shards."""
    return [f"conditions-{shard:05}-of-{shards:05}.safetensors" for shard in range(shards)]


def encode(
    prompts: Sequence[str],
    config: TextConfig,
    folder: Path,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> list[str]:
    """Write the table of the prompts and of the empty one into `folder`; the names of its files.

    `progress` takes prompts done and prompts in all, of this rank.  Shard k is rank k %
    world_size's; one that is there, of the same prompts and configuration, is kept.  How many
    prompts are cut goes to standard error.  UserError without the encoder.
    """
    pipeline = load(config, device)
    instruction = (
        inspect.signature(type(pipeline).__call__).parameters["complex_human_instruction"].default
    )
    instruction = instruction if config.complex_human_instruction else None
    rank = distributed.rank()
    size = config.prompts_per_shard
    rows = len(prompts) + 1
    if rank == 0 and (cut := count_cut(pipeline, prompts, instruction, config.length)):
        print(
            f"hdbench: {cut} of {len(prompts)} prompts are cut at {config.length} tokens",
            file=sys.stderr,
            flush=True,
        )
    starts = range(0, rows, size)
    files = names(len(starts))
    mine = starts[rank :: distributed.world_size()]
    for stray in {path.name for path in folder.glob(SHARDS)} - {*files}:
        (folder / stray).unlink(missing_ok=True)
    done = 0
    total = sum(min(size, rows - start) for start in mine)
    for start in mine:
        path = folder / files[start // size]
        texts = prompts[start : start + size]
        digest = hashlib.sha256(json.dumps([config.model_dump(), list(texts)]).encode()).hexdigest()
        progress(done, total)
        if not written(path, digest):
            batches = [
                (texts[row : row + config.batch], instruction)
                for row in range(0, len(texts), config.batch)
            ]
            if start + size >= rows:
                batches.append(([""], None))
            tokens = [row for batch in batches for row in embed(pipeline, *batch, config.length)]
            table = {
                "tokens": torch.cat(tokens),
                "lengths": torch.tensor([len(row) for row in tokens]),
                "length": torch.tensor(config.length),
            }
            write_together({path: save(table, {"digest": digest})})
        done += min(size, rows - start)
    progress(done, total)
    return files


def written(path: Path, digest: str) -> bool:
    """Whether there is a shard with this digest in its header."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() == {"digest": digest}
    except (SafetensorError, OSError):
        return False


@torch.no_grad()
def embed(
    pipeline: SanaPipeline, texts: Sequence[str], instruction: list[str] | None, length: int
) -> list[Tensor]:
    """For each text its embeddings (tokens, D), at most `length` tokens, on the CPU."""
    embeddings, mask, *_ = pipeline.encode_prompt(
        list(texts),
        do_classifier_free_guidance=False,
        device=pipeline.text_encoder.device,
        max_sequence_length=length,
        complex_human_instruction=instruction,
    )
    # padding is on the right
    return [row[:count].cpu() for row, count in zip(embeddings, mask.sum(1).tolist(), strict=True)]


def count_cut(
    pipeline: SanaPipeline, prompts: Sequence[str], instruction: list[str] | None, length: int
) -> int:
    """How many prompts have more tokens than the pipeline's `encode_prompt` takes."""
    prefix = "\n".join(instruction or [])
    limit = len(pipeline.tokenizer.encode(prefix)) + length - 2 if prefix else length
    texts = [prefix + text for text in pipeline._text_preprocessing(list(prompts))]
    return sum(len(ids) > limit for ids in pipeline.tokenizer(texts).input_ids)


def load(config: TextConfig, device: torch.device) -> SanaPipeline:
    """The pipeline with tokenizer and text encoder alone; UserError where one is missing."""
    from diffusers import SanaPipeline  # optional: diffusers
    from transformers import AutoTokenizer, Gemma2Model  # optional: transformers

    tokenizer, encoder = (Path(config.path, folder) for folder in ("tokenizer", "text_encoder"))
    for folder in (tokenizer, encoder):
        if not folder.is_dir():
            raise UserError(
                f"{folder}: there is no such folder; put a SANA pipeline of diffusers at "
                f"{config.path}, such as {PUBLIC} of the Hugging Face hub"
            )
    try:
        components = {
            "tokenizer": AutoTokenizer.from_pretrained(
                tokenizer, local_files_only=True, trust_remote_code=False
            )
        }
        components["text_encoder"], about = Gemma2Model.from_pretrained(
            encoder,
            variant=variant(encoder),
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            dtype=getattr(torch, config.dtype),
        )
    except Exception as error:  # transformers' errors have no common base but this
        raise UserError(
            f"{config.path}: its tokenizer or Gemma 2 cannot be read ({reason(error)}); "
            "get it again"
        ) from None
    check_keys(encoder, missing=about["missing_keys"])
    read_headers(encoder)  # their types, which loading has cast
    check_values(components["text_encoder"].state_dict(), encoder)
    components["text_encoder"].to(device).eval()
    return SanaPipeline(vae=None, transformer=None, scheduler=None, **components)
