"""A one-step student as a folder of diffusers, which samples without hdbench: weights, configuration and a model card.

x = eps - u(eps, 0, 1, c) needs the network at t = 1 and r = 0 alone.  There the embeddings of t and of t - r are constants,
so they go into a bias of diffusers' own `DiTTransformer2DModel` or `SanaTransformer2DModel`, and the time that it is given does
not matter.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
import yaml
from diffusers import DiTTransformer2DModel, ModelMixin, SanaTransformer2DModel
from safetensors.torch import load_file
from tabulate import tabulate

from hdbench.core import files
from hdbench.core.errors import UserError
from hdbench.metrics.records import COLUMNS, Interval, read_metrics
from hdbench.networks.autoencoders import AutoencoderConfig
from hdbench.networks.config import TransformerConfig
from hdbench.networks.sana import SanaNetwork, arguments
from hdbench.networks.text import Conditions, TextConfig
from hdbench.networks.transformer import Transformer
from hdbench.report.columns import columns_of
from hdbench.report.document import for_people
from hdbench.report.numbers import Entry, Numbers, metrics_file
from hdbench.report.tables import FOOTNOTES, caption, explanations, marks
from hdbench.stages import artifact
from hdbench.stages.context import WEIGHTS, shape
from hdbench.suite.arms import describe
from hdbench.suite.plan import Plan, find_stage
from hdbench.suite.schema import ClipText
from hdbench.suite.stage import Stage


def export(plan: Plan, results: Path, arm: str, seed: int | None, out: Path) -> list[Path]:
    """Write the student of an arm and a chain (None: the first) into the folder `out`; the paths.

    UserError for an arm that has no one-step student or is not trained yet, or whose network diffusers does not have.
    """
    stage = student_stage(plan, arm, seed)
    path, manifest = artifact.load(results, stage.id)
    data = plan.suite.data
    table = (
        Conditions(artifact.load(results, stage.parents["text"])[0]) if plan.suite.text else None
    )
    network = plan.suite.network.build(**shape(data), mean_velocity=True, conditions=table)
    network.load_state_dict(load_file(path / WEIGHTS))
    if plan.suite.text:
        model, lines = (
            sana_to_diffusers(network),
            sana_lines(network, plan.suite.text, data.autoencoder),
        )
    else:
        model, scale = to_diffusers(network)
        lines = sampling_lines(network, scale, data)
    text = card(plan, results, arm, stage, manifest["environment"], lines, model)
    try:
        out.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(out)
    except OSError as error:
        raise UserError(
            f"--out = {out}: cannot be written ({error.strerror}); choose another folder"
        ) from None
    files.write_atomic(out / "README.md", text)
    return sorted(out.iterdir())


def student_stage(plan: Plan, name: str, seed: int | None) -> Stage:
    """The last training stage of an arm that samples in one step."""
    arm = plan.arms.get(name)
    fault = arm and (
        "its images are real"
        if arm.real
        else "it is a public network"
        if arm.baseline
        else "it samples from the teacher"
        if not (arm.trajectory or arm.refine)
        else f"it samples in {', '.join(map(str, arm.steps))} steps, not in one"
        if 1 not in arm.steps
        else "its text encoder is the suite's own, which diffusers does not have"
        if isinstance(plan.suite.text, ClipText)
        else "its network's mlp_ratio is not diffusers' 4"
        if isinstance(plan.suite.network, TransformerConfig) and plan.suite.network.mlp_ratio != 4
        else None
    )
    if fault:
        raise UserError(
            f"--arm = {name!r}: {fault}; export takes a student that was trained for one step, of a network that "
            "diffusers has"
        )
    return find_stage(plan, "refine" if arm and arm.refine else "trajectory", name, seed, None)


@torch.no_grad()
def to_diffusers(network: Transformer) -> tuple[DiTTransformer2DModel, float]:
    """A model and a number s such that x = s eps - model(eps, any time, c) is the network's one step, up to rounding.

    Where the network gives u, s = 1.  Where it gives eps_hat, u = a eps + b eps_hat at t = 1: b goes into the last layer, and
    s = 1 - a.
    """
    config, p, one, zero = network.config, network.config.patch, torch.ones(1), torch.zeros(1)
    a, b = 0.0, 1.0
    if network.noise_to_velocity:
        u = [
            network.noise_to_velocity.velocity(z, 1 - z, one)
            for z in (one.view(1, 1, 1, 1), zero.view(1, 1, 1, 1))
        ]
        a, b = (value.item() for value in u)
    model = DiTTransformer2DModel(
        num_attention_heads=config.heads,
        attention_head_dim=config.width // config.heads,
        in_channels=network.channels,
        out_channels=network.channels,
        num_layers=config.depth,
        sample_size=network.grid * p,
        patch_size=p,
        num_embeds_ada_norm=network.classes,
        norm_eps=1e-6,
    ).eval()
    model.pos_embed.proj.weight.copy_(
        network.patch_embed.weight.unflatten(1, (network.channels, p, p))
    )
    model.pos_embed.proj.bias.copy_(network.patch_embed.bias)
    model.proj_out_1.load_state_dict(network.out_modulation.state_dict())
    for theirs, ours in (
        (model.proj_out_2.weight, network.out.weight),
        (model.proj_out_2.bias, network.out.bias),
    ):
        theirs.copy_(
            b * ours.unflatten(0, (network.channels, p * p)).transpose(0, 1).flatten(0, 1)
        )  # (c, p, p) -> (p, p, c)
    times = sum(network.embed_times(zero, one))[0]
    for block, own in zip(model.transformer_blocks, network.blocks, strict=True):
        for part in ("weight", "bias"):
            for layer, tensor in zip(
                (block.attn1.to_q, block.attn1.to_k, block.attn1.to_v),
                getattr(own.qkv, part).chunk(3),
            ):
                getattr(layer, part).copy_(tensor)
        block.attn1.to_out[0].load_state_dict(own.proj.state_dict())
        block.ff.load_state_dict(own.feed_forward.state_dict())
        block.norm1.linear.load_state_dict(own.modulation.state_dict())
        for parameter in block.norm1.emb.timestep_embedder.parameters():
            parameter.zero_()
        block.norm1.emb.timestep_embedder.linear_2.bias.copy_(times)
        block.norm1.emb.class_embedder.embedding_table.load_state_dict(
            network.label_embed.state_dict()
        )
    return model, 1 - a


@torch.no_grad()
def sana_to_diffusers(network: SanaNetwork) -> SanaTransformer2DModel:
    """A model such that x = eps - model(eps, prompts, any time) is the network's one step, up to rounding."""
    model = SanaTransformer2DModel(
        **arguments(network.config, network.grid * network.config.patch, network.channels)
    ).eval()
    model.load_state_dict(network.transformer.state_dict())
    _, times = network.embed_times(torch.zeros(1), torch.ones(1), torch.float32)
    embedder = model.time_embed.emb.timestep_embedder
    for parameter in embedder.parameters():
        parameter.zero_()
    embedder.linear_2.bias.copy_(times[0])
    return model


def sana_lines(network: SanaNetwork, text: TextConfig, autoencoder: AutoencoderConfig) -> str:
    """Python that makes images in [-1, 1] from the folder and the pipeline that encoded the prompts, by diffusers alone."""
    side, imports, instruction = network.grid * network.config.patch, ["import torch"], "None"
    if text.complex_human_instruction:
        imports = ["import inspect", "", "import torch"]
        instruction = 'inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default'
    return "\n".join(
        [
            *imports,
            "from diffusers import SanaPipeline, SanaTransformer2DModel",
            "",
            'model = SanaTransformer2DModel.from_pretrained(".")  # this folder, or its name on the hub',
            f'pipeline = SanaPipeline.from_pretrained("{text.path}", transformer=model)',
            'prompts = ["a red bird on a branch", "two cups of tea"]',
            f"instruction = {instruction}",
            f"eps = torch.randn(2, {network.channels}, {side}, {side}, generator=torch.Generator().manual_seed(0))",
            "with torch.no_grad():",
            "    tokens, mask, *_ = pipeline.encode_prompt(prompts, do_classifier_free_guidance=False, "
            f"max_sequence_length={text.length},",
            "                                              complex_human_instruction=instruction)",
            "    z = eps - model(eps, tokens.float(), torch.zeros(2), encoder_attention_mask=mask).sample  # at any time",
            f"    x = pipeline.vae.decode(z / {autoencoder.scale} + {autoencoder.shift}).sample",
            "images = x.clamp(-1, 1)",
        ]
    )


def sampling_lines(network: Transformer, scale: float, data) -> str:
    """Python that makes images in [-1, 1] from the folder, with torch and diffusers alone; `scale` is of `to_diffusers`."""
    config, grid, channels = network.config, network.grid, network.channels
    n, side, autoencoder = (
        min(network.classes, 10),
        grid * config.patch,
        data.autoencoder if data.stored == "latents" else None,
    )
    imports, positions, decoding = ["from diffusers import DiTTransformer2DModel"], [], []
    if config.position_side != grid:  # diffusers' own positions are 0 to grid - 1
        imports += ["from diffusers.models.embeddings import get_2d_sincos_pos_embed"]
        positions = [
            f"positions = get_2d_sincos_pos_embed({config.width}, {grid}, base_size={config.position_side}, "
            'output_type="pt")',
            "model.pos_embed.pos_embed = positions.float().unsqueeze(0)",
        ]
    if autoencoder:
        kind = {"kl": "AutoencoderKL", "dc": "AutoencoderDC"}[autoencoder.name]
        part = ', subfolder="vae"' if Path(autoencoder.path, "vae").is_dir() else ""
        imports = [f"from diffusers import {kind}, DiTTransformer2DModel", *imports[1:]]
        decoding = [
            f'    autoencoder = {kind}.from_pretrained("{autoencoder.path}"{part})',
            f"    x = autoencoder.decode(x / {autoencoder.scale} + {autoencoder.shift}).sample",
        ]
    return "\n".join(
        [
            "import torch",
            *imports,
            "",
            'model = DiTTransformer2DModel.from_pretrained(".")  # this folder, or its name on the hub',
            *positions,
            f"labels = torch.arange({n})  # classes are 0 to {network.classes - 1}",
            f"eps = torch.randn({n}, {channels}, {side}, {side}, generator=torch.Generator().manual_seed(0))",
            "with torch.no_grad():",
            f"    x = {'' if scale == 1 else f'{scale!r} * '}eps - model(eps, torch.zeros({n}), labels).sample  # at any time",
            *decoding,
            "images = x.clamp(-1, 1)",
        ]
    )


def card(
    plan: Plan,
    results: Path,
    name: str,
    stage: Stage,
    environment: dict[str, str],
    lines: str,
    model: ModelMixin,
) -> str:
    """The model card: how to sample, what it was made from, and how good it is, as far as that was collected."""
    suite, arm, recipe, source = (
        plan.suite,
        plan.arms[name],
        plan.recipes.get(name),
        metrics_file(plan, results),
    )
    made = {
        "data": suite.data,
        "network": suite.network,
        "teacher": suite.teacher,
        "trajectory": arm.trajectory,
        "refine": arm.refine,
    }
    settings = yaml.safe_dump(
        {key: part.model_dump(mode="json") for key, part in made.items() if part},
        sort_keys=False,
        default_flow_style=None,
        width=110,
    )
    public = getattr(suite.teacher, "checkpoint", None)
    front = {
        "library_name": "diffusers",
        "license": "other" if public else "apache-2.0",
        "tags": [
            "text-to-image" if suite.text else "class-conditional",
            "one-step",
            "distillation",
            "hdbench",
            suite.data.name,
        ],
    }
    teacher = (
        f"the public {public.format} checkpoint `{Path(public.path).name}`, whose license holds for this model too"
        if public
        else f"trained from scratch by {suite.teacher.training.objective.name}"
    )
    numbers = Numbers(
        plan,
        read_metrics(source)
        if source.exists()
        else pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS),
        results,
    )
    entry = Entry(name, 1, 1)
    mark, table, notes = metrics(numbers, entry)
    about = (
        f"- Teacher: {teacher}; guidance {suite.teacher.guidance.scale:g}.\n"
        f"- Data: `{suite.data.name}`, {suite.data.title}"
        + (
            f"\n- Recipe: {recipe.title}, {recipe.source}. {recipe.differences.strip()}"
            if recipe
            else ""
        )
    )
    return f"""---
{yaml.safe_dump(front, sort_keys=False)}---

# {describe(plan, name)}{mark}, one step

Chain {stage.config.seed} of the arm `{name}` of hdbench's suite `{plan.stem}` ({suite.title}): `{stage.id}`, made with
{", ".join(f"{key} {environment[key]}" for key in ("torch", "diffusers", "commit"))}. Time is folded into the weights, so that
this is diffusers' own `{type(model).__name__}`.

## Sampling

```python
{lines}
```

## Teacher, data and training

{about}

```yaml
{settings}```

## Metrics

{caption(numbers, "This arm in one step", [entry])}

{table}

{notes}
"""


def metrics(numbers: Numbers, entry: Entry) -> tuple[str, str, str]:
    """Footnote marks of an entry, its numbers with intervals as a Markdown table ("-" where there are none), and notes."""
    columns = columns_of("main", numbers)
    cells = [column.cell(entry) for column in columns]
    rows = {
        "Protocol": ", ".join(sorted(set(numbers.of(entry).protocol) - {"cost"})) or "-",
        "Chains": "{} of {}".format(*numbers.chains(entry)),
    }
    rows |= {
        column.title: for_people(column, cell)
        for column, cell in zip(columns, cells)
        if isinstance(cell, Interval)
    }
    found = marks(numbers, entry, columns, cells)
    return (
        found,
        tabulate(rows.items(), headers=["Metric", "Value"], tablefmt="pipe", disable_numparse=True),
        "\n\n".join(
            [
                *(f"{mark} {FOOTNOTES[mark]}" for mark in found),
                *explanations(numbers, " ".join(rows)),
            ]
        ),
    )
