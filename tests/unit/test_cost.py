"""FLOPs, disk and memory against what the code does; published constants counted again."""

from __future__ import annotations

import gc
import re
import weakref
from collections import Counter
from functools import partial

import pytest
import torch
from click.testing import CliRunner
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from hdbench.cli import main
from hdbench.core.errors import UserError
from hdbench.core.files import write_together
from hdbench.core.seeds import Draws
from hdbench.evaluation.extractors import EXTRACTORS
from hdbench.evaluation.extractors.encoders import TimmEncoder
from hdbench.evaluation.extractors.preference import HpsV2
from hdbench.flow.path import guided
from hdbench.methods.base import Passes, Problem
from hdbench.methods.discriminators import build_head
from hdbench.networks.config import TransformerConfig
from hdbench.networks.flops import forward_flops
from hdbench.networks.transformer import Transformer
from hdbench.report.provenance import Run, ran
from hdbench.stages import artifact
from hdbench.stages.train import restricted_updates
from hdbench.stages.trainer import Trainer, trainable_parameters
from hdbench.suite.budget import cost_per_step
from hdbench.suite.load import load_plan
from hdbench.tools.cost.counting import Costs, by_precision
from hdbench.tools.cost.model import read_model
from hdbench.tools.cost.report import estimate, report, to_do
from hdbench.tools.cost.schedule import schedule
from hdbench.tools.memory.activations import activations
from hdbench.tools.memory.held import Memory
from tests.support import shipped
from tests.support.material import inception_weights
from tests.support.tiny import REPOSITORY, TINY, run_until, stage_of, tiny_plan, write_suite
from tests.workflow.test_workflow import (
    snakemake,
    workspace,  # noqa: F401, a fixture
)

MODEL = REPOSITORY / "workflow/cost.yaml"


@pytest.fixture(autouse=True)
def in_repository(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


@pytest.fixture(scope="module")
def model():
    return read_model(MODEL)


def flops_of(function, *arguments) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        function(*arguments)
    return counter.get_total_flops()


def parameters(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# time


def test_training_costs_the_codes_own_count_of_forwards(tmp_path, model):
    plan = tiny_plan(tmp_path)
    costs, data = Costs(plan, model), plan.suite.data
    for stage in plan.stages.values():
        if stage.kind in ("trajectory", "refine"):
            training = stage.training
            forward = forward_flops(
                plan.suite.network, data.image_size, data.channels, data.classes, True
            )
            assert (
                sum(costs.of(stage).flops.values())
                == training.steps * cost_per_step(plan, training) * forward
            )


def test_forward_mode_is_float32_and_checkpointing_computes_forwards_again():
    passes = {"teacher": Passes(forward=2), "student": Passes(forward=1, backward=2, tangent=0.25)}
    assert by_precision(passes, "bfloat16", False) == {"float32": 1.0, "bfloat16": 4.25}
    assert by_precision(passes, "bfloat16", True) == {"float32": 1.0, "bfloat16": 4.25 + 0.75}
    assert by_precision(passes, "float32", False) == {"float32": 5.25}


@pytest.mark.slow
def test_imagenet_by_hand(model):
    plan = load_plan("imagenet256")
    costs, n = Costs(plan, model), 1281167
    forward = forward_flops(plan.suite.network, 32, 4, 1000, True)
    rows = {row.arm: row.stages for row in plan.rows if row.seed == 1}
    trajectory = costs.of(plan.stage(rows["td"]["trajectory"]))
    assert trajectory.flops == {
        "float32": 300000 * 256 * forward,
        # a third of the steps without guidance, one evaluation of the teacher less
        "bfloat16": pytest.approx(300000 * 256 * (5 - 1 / 3) * forward),
    }
    seconds = trajectory.flops["float32"] / (66.9e12 * 0.6) + trajectory.flops["bfloat16"] / (
        989.4e12 * 0.35
    )
    assert model.seconds(trajectory.flops) == pytest.approx(seconds)
    row = next(row for row in plan.rows if (row.arm, row.steps) == ("teacher", 250))
    guided_teacher = costs.of(plan.stage(row.stages["sample"]))
    assert guided_teacher.flops == {
        "float32": 50000 * 2 * 250 * forward,
        "tfloat32": 50000 * model.autoencoders["kl"].decode,
    }
    data = costs.of(plan.stage(next(iter(plan.stages))))
    assert data.disk == n * 2 * 4 * 32 * 32 * 4 + 8 * n and data.flops == {
        "tfloat32": 2 * n * model.autoencoders["kl"].encode
    }


def test_core_seconds_are_measured_or_at_a_measured_pace_or_counted(tmp_path, model, monkeypatch):
    plan, tables = tiny_plan(tmp_path), tmp_path / "tables"
    (tables / "tiny").mkdir(parents=True)
    hd, other, teacher = (
        stage_of(plan, "refine", "hd"),
        stage_of(plan, "refine", "dmd_total"),
        stage_of(plan, "teacher", "hd"),
    )
    seconds = {hd: 12.5, "refine/of-another-suite": 1.0}
    rows = [
        ran({"id": stage, "core_seconds": cost, "environment": {}})
        for stage, cost in seconds.items()
    ]
    run = Run(
        suite="tiny",
        title="",
        stages_of_plan=2,
        digests={},
        environments={stage.environment: environment for stage, environment in rows},
        stages=tuple(stage for stage, _ in rows),
    )
    write_together(run.contents(tables / "tiny"))
    found = estimate(plan, [hd, other, teacher], model, tables)
    total = {stage: sum(found.costs[stage].flops.values()) for stage in (hd, other, teacher)}
    assert found.seconds == pytest.approx(
        {hd: 12.5, other: 12.5 * total[other] / total[hd], teacher: total[teacher] / 32e9}
    )
    assert found.basis == {"measured": 1, "alike": 1, "counted": 1}
    (tmp_path / teacher).mkdir(parents=True)
    (tmp_path / teacher / "manifest.json").touch()
    monkeypatch.setattr("hdbench.tools.cost.report.SHIPPED", tmp_path)
    found = estimate(plan, [hd, teacher], model, tables)
    assert found.seconds == {hd: 12.5, teacher: 0}
    assert found.basis == {"measured": 1, "shipped": 1}
    (tables / "tiny/stages.csv").write_text("id\nx\n")
    with pytest.raises(UserError, match="not of a run"):
        estimate(plan, [hd], model, tables)


def test_published_networks_counted_again(model):
    from diffusers import AutoencoderDC, AutoencoderKL

    blocks = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
    dc = {
        f"{side}_{key}": value
        for side in ("encoder", "decoder")
        for key, value in {
            "block_types": blocks,
            "block_out_channels": (128, 256, 512, 512, 1024, 1024),
            "qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
        }.items()
    }
    with torch.device("meta"):
        networks = {
            "kl": AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                layers_per_block=2,
                latent_channels=4,
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
            ),
            "dc": AutoencoderDC(
                latent_channels=32,
                encoder_layers_per_block=(2, 2, 2, 3, 3, 3),
                downsample_block_type="Conv",
                decoder_layers_per_block=(3,) * 6,
                upsample_block_type="interpolate",
                **dc,
            ),
        }
        for name, network in networks.items():
            known, factor = model.autoencoders[name], 8 if name == "kl" else 32
            assert parameters(network) == known.parameters

            def counted(side, network=network, name=name, factor=factor):
                latent = torch.empty(1, 4 if name == "kl" else 32, side // factor, side // factor)
                return flops_of(network.encode, torch.empty(1, 3, side, side)), flops_of(
                    network.decode, latent
                )

            assert counted(known.resolution) == (known.encode, known.decode)
            share = (512 / known.resolution) ** 2
            assert counted(512) == pytest.approx(
                (share * known.encode, share * known.decode), rel=0.05
            )


@pytest.mark.slow
def test_extractors_counted_again(model):
    import open_clip
    import timm
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torchvision.models import alexnet

    network = FeatureExtractorInceptionV3("inception", ["2048"], str(inception_weights()))
    assert (
        flops_of(network, torch.zeros(1, 3, 299, 299, dtype=torch.uint8))
        == model.extractors["inception"]
    )
    with torch.device("meta"):
        clip = open_clip.CLIP(**open_clip.get_model_config("ViT-L-14-quickgelu"))
        image, text = torch.empty(1, 3, 224, 224), torch.empty(1, 77, dtype=torch.long)
        assert (
            flops_of(clip.encode_image, image) + flops_of(clip.encode_text, text)
            == model.extractors["clip"]
        )
        clip = open_clip.CLIP(**open_clip.get_model_config("ViT-L-14-336-quickgelu"))
        counted = flops_of(clip.encode_image, torch.empty(1, 3, 336, 336))
        assert counted == model.extractors["clip_cmmd"]
        clip = open_clip.CLIP(**open_clip.get_model_config(HpsV2.architecture))
        counted = flops_of(clip.encode_image, image) + flops_of(clip.encode_text, text)
        assert counted == model.extractors["hpsv2"] == model.extractors["pickscore"]
        pair = torch.empty(2, 3, 256, 256)
        assert flops_of(alexnet(weights=None).features[:12], pair) == model.extractors["lpips"]
        for name, kind in EXTRACTORS.items():
            if issubclass(kind, TimmEncoder):
                network = timm.create_model(kind.architecture, num_classes=0, **kind.arguments)
                image = torch.empty(1, 3, kind.side, kind.side)
                assert flops_of(network.eval().forward_features, image) == model.extractors[name]


# disk


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A plan and its results, of a chain with pairs and a head."""
    folder = tmp_path_factory.mktemp("finished")
    arms = TINY["arms"] | {
        "kd": {
            "trajectory": {"objective": {"name": "knowledge", "pairs": {"count": 40, "steps": 2}}},
            "refine": None,
        }
    }
    plan = tiny_plan(folder, {"arms": arms})
    for arm in ("kd", "hd_patch"):
        run_until(plan, folder / "results", stage_of(plan, "sample", arm))
    return plan, folder / "results"


def test_disk_is_what_the_stages_leave(finished, model):
    plan, results = finished
    costs, looked_at = Costs(plan, model), set()
    for stage in plan.stages.values():
        if artifact.exists(results, stage.id):
            files = [
                path
                for path in artifact.folder(results, stage.id).iterdir()
                if path.suffix != ".json"
            ]
            found = sum(path.stat().st_size for path in files)
            # headers and history.csv
            small = 12000 if stage.kind in ("teacher", "trajectory", "refine") else 1200
            assert 0 < found - costs.of(stage).disk < small, stage.id
            looked_at.add(stage.kind)
    assert looked_at == {"data", "teacher", "trajectory", "refine", "pairs", "sample"}


def small_problem(network: TransformerConfig, training, image_size=8):
    """Networks as of `hdbench.stages.train.distill`, for 1-channel images, and the updates."""
    made = {"image_size": image_size, "channels": 1, "classes": 10}
    student, teacher, fake = (
        Transformer(network, **made, mean_velocity=own) for own in (True, False, False)
    )
    with torch.no_grad():
        for module in (student, teacher, fake):
            for parameter in module.parameters():
                # layers that start at zero pass no gradient on
                parameter += 0.02 * torch.randn_like(parameter)

    def head(name, settings):
        return build_head(
            name,
            layers=len(settings.blocks),
            width=network.width,
            grid=student.grid,
            parameters=settings.parameters,
        )

    problem = Problem(
        student=student,
        learning_rate=1e-4,
        teacher=teacher.requires_grad_(False),
        teacher_velocity=guided(teacher, 1.5),
        copy_teacher=lambda: fake,
        head=head,
    )
    return problem, restricted_updates(training, problem, (0,))


@pytest.mark.parametrize(
    "arm", ["td", "hd", "hd_patch", "hd_awd_logit", "progressive", "low_rank", "frozen"]
)
def test_what_belongs_to_parameters_is_exact(tmp_path, arm):
    arms = TINY["arms"] | {
        "progressive": {"trajectory": {"objective": {"name": "progressive"}}, "refine": None},
        "low_rank": {"refine": {"trainable": {"student": {"rank": 2}, "fake": {"rank": 3}}}},
        "frozen": {"refine": {"trainable": {"student": {"freeze": ["blocks.*.proj.*"]}}}},
    }
    plan = tiny_plan(tmp_path, {"arms": arms})
    stage = plan.stage(
        stage_of(plan, "trajectory" if arm in ("td", "progressive") else "refine", arm)
    )
    training = stage.training
    problem, updates = small_problem(plan.suite.network, training)
    trainer = Trainer(
        updates, training, problem.student, (0,), torch.randn(20, 1, 8, 8), torch.arange(20) % 10
    )
    trainer.train_step()
    held = Memory(plan).held(stage, training)
    state = trainer.state()
    assert held.checkpoint == sum(
        value.nbytes
        for name, value in state.items()
        if not name.startswith("history") and not name.endswith("/step")
    )
    modules = trainer.modules()
    assert held.bytes() == {
        "weights": sum(4 * parameters(module) for module in modules.values()),
        "gradients": max(
            sum(4 * p.numel() for m in update.modules.values() for p in trainable_parameters(m))
            for update in updates
        ),
        "Adam": sum(
            value.nbytes
            for optimizer in trainer.optimizers.values()
            for values in optimizer.state.values()
            for name, value in values.items()
            if name != "step"
        ),
        "average": sum(value.nbytes for value in trainer.ema.values()),
        "teacher": 4 * parameters(problem.teacher),
    }


# memory


class Holder:
    def __init__(self, tensor):
        self.tensor = tensor


def kept(networks, function) -> tuple[int, int]:
    """Bytes that graphs keep at the function's return and at most, without networks' own."""
    own = {
        tensor.untyped_storage().data_ptr()
        for network in networks
        for tensor in (*network.parameters(), *network.buffers())
    }
    users, now, most = Counter(), 0, 0

    def dropped(address, size):
        nonlocal now
        users[address] -= 1
        now -= size * (users[address] == 0)

    def pack(tensor):
        nonlocal now, most
        holder, storage = Holder(tensor), tensor.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes()
        if address not in own:
            now += size * (users[address] == 0)
            users[address] += 1
            most = max(most, now)
            weakref.finalize(holder, dropped, address, size)
        return holder

    gc.collect()
    with saved_tensors_hooks(pack, lambda holder: holder.tensor):
        result = function()
    gc.collect()
    at_end = now
    del result
    return at_end, most


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "depth", "heads", "side", "rows"),
    [(64, 3, 4, 16, 4), (96, 2, 2, 8, 8), (128, 2, 8, 24, 2)],
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"size": 2},
        {"forward_mode": True},
        {"checkpointing": True},
        {"size": 2, "checkpointing": True},
        {"trained": False},
        {"trained": False, "size": 2},
    ],
)
def test_activations_are_what_autograd_keeps(options, width, depth, heads, side, rows):
    from hdbench.flow.jvp import jvp

    config = TransformerConfig(width=width, depth=depth, heads=heads, patch=2)
    checkpointing, trained, half = (
        options.get(key, other)
        for key, other in (("checkpointing", False), ("trained", True), ("size", None))
    )
    network = Transformer(
        config,
        image_size=side,
        channels=4,
        classes=10,
        mean_velocity=True,
        gradient_checkpointing=checkpointing,
    ).requires_grad_(trained)
    z, t, c = (
        torch.randn(rows, 4, side, side, requires_grad=not trained),
        torch.rand(rows),
        torch.zeros(rows, dtype=torch.long),
    )

    def run():
        with torch.autocast("cpu", torch.bfloat16, bool(half)):
            if options.get("forward_mode"):
                tangents = torch.randn_like(z), torch.zeros_like(t), torch.ones_like(t)
                return jvp(lambda z, r, t: network(z, r, t, c), (z, 0.5 * t, t), tangents)
            return network(z, t, t, c) if trained else network.features(z, t, c, (depth,))

    sizes = {"tokens": (side // 2) ** 2, "channels": 4, "rows": rows}
    formula = activations(config, **sizes, **options)
    if checkpointing:  # the one block that the backward computes again is not there yet
        formula -= activations(
            config, **sizes, **options | {"checkpointing": False, "depth": 1}
        ) - activations(config, **sizes, **options | {"checkpointing": False, "depth": 0})
    assert kept([network], run)[0] == pytest.approx(formula, rel=0.1 if half else 0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("trajectory", {}),
        ("trajectory", {"precision": "bfloat16"}),
        ("refine", {}),
        ("refine", {"precision": "bfloat16"}),
        ("refine", {"objective.discriminator": "patch"}),
        ("refine", {"objective.discriminator": "awd_logit", "precision": "bfloat16"}),
        ("refine", {"objective.discriminator": "pooled", "objective.gan.feature_network": "fake"}),
    ],
)
def test_an_updates_activations_are_what_autograd_keeps(tmp_path, kind, changes):
    changes = {f"base.{kind}.{key}": value for key, value in changes.items()}
    arms = {"hd": {}, "td": {"refine": None}}
    tables = {f"tables.{table}": {"caption": "x", "rows": ["hd"]} for table in TINY["tables"]}
    plan = tiny_plan(
        tmp_path,
        {
            "network": {"width": 128, "depth": 4, "heads": 4, "patch": 2},
            "arms": arms,
            **tables,
            f"base.{kind}.batch": 32,
            "base.refine.objective.gan": {"blocks": [3], "parameters": 17000},
            **changes,
        },
    )
    stage = plan.stage(stage_of(plan, kind, "hd"))
    training = stage.training
    problem, updates = small_problem(plan.suite.network, training)
    draws = Draws((0,), torch.randn(40, 1, 8, 8), torch.arange(40) % 10, training.batch)
    modules = [
        problem.student,
        problem.teacher,
        *(module for update in updates for module in update.modules.values()),
    ]

    def run(update):
        with torch.autocast("cpu", torch.bfloat16, training.precision == "bfloat16"):
            return update.loss(update.draw(draws))

    found = [kept(modules, partial(run, update)) for update in updates]
    # a forward-mode pass makes and drops more, a block's worth
    at_end, most = map(max, zip(*found, strict=True))
    formula = Memory(plan).activations(stage, training)
    assert (at_end if kind == "trajectory" else most) == pytest.approx(formula, rel=0.05)


# reports


@pytest.mark.slow
@pytest.mark.parametrize("suite", shipped.SUITES)
def test_every_suite_has_a_cost(suite, model, tmp_path):
    plan = load_plan(suite)
    text = report(plan, to_do(plan, tmp_path), model, REPOSITORY / "paper_tables")
    total = next(line for line in text.splitlines() if line.startswith("total"))
    assert total.split()[1] == f"{len(plan.stages):,}" and not {"0", "-"} & set(total.split()[2:4])
    assert max(map(len, text.splitlines())) <= 118
    assert ("GPU hours" in text) == (plan.suite.data.name == "images")


def test_the_longest_chain_is_the_longest_path_of_the_stages(tmp_path):
    plan = tiny_plan(tmp_path)
    refine = next(stage for stage in plan.stages.values() if stage.kind == "refine")
    line = {refine.id}
    for stage in reversed(plan.stages.values()):  # all that it comes from, one way at a time
        if stage.id in line:
            line |= set(stage.parents.values())
    depth = {}
    for stage in (stage for stage in plan.stages.values() if stage.id in line):
        depth[stage.id] = 1 + max((depth[parent] for parent in stage.parents.values()), default=0)
    assert schedule(plan, dict.fromkeys(line, 1.0), 1).longest == depth[refine.id] > 1
    assert schedule(plan, {refine.id: 5.0}, 1).longest == 5.0
    kinds = {stage.kind: stage.id for stage in plan.stages.values() if stage.kind == "sample"}
    assert schedule(plan, dict.fromkeys(kinds.values(), 2.0), 1).longest == 2.0  # side by side


def test_wall_time_by_hand(tmp_path):
    """data 1; teacher 4 and classifier 2 after it; td 3 after the teacher."""
    plan = tiny_plan(tmp_path)
    ids = [stage_of(plan, "trajectory", "td")]
    for role in ("teacher", "data"):
        ids.append(plan.stage(ids[-1]).parents[role])
    td, teacher, data = ids
    classifier = next(stage for stage in plan.stages if stage.startswith("classifier/"))
    seconds = {classifier: 2.0, td: 3.0, teacher: 4.0, data: 1.0}
    assert schedule(plan, seconds, 1) == (10.0, (data, teacher, td), 8.0)
    assert schedule(plan, seconds, 2) == (8.0, (data, teacher, td), 8.0)
    assert schedule(plan, {td: 3.0, classifier: 2.0}, 1) == (5.0, (td,), 3.0)  # the rest is done
    assert schedule(plan, {}, 4) == (0.0, (), 0.0)


def test_wall_time_is_between_its_bounds(tmp_path, model):
    plan = tiny_plan(tmp_path)
    drawn = torch.rand(len(plan.stages), generator=torch.Generator().manual_seed(0)).tolist()
    seconds = dict(zip(plan.stages, drawn, strict=True))
    for gpus in (1, 2, 3, 100):
        wall, chain, longest = schedule(plan, seconds, gpus)
        share = sum(drawn) / gpus
        assert max(longest, share) * (1 - 1e-9) <= wall <= longest + share
    assert wall == pytest.approx(longest) == pytest.approx(sum(seconds[stage] for stage in chain))
    text = report(plan, seconds, model, tmp_path, gpus=8)
    assert "On 8 cores, one for each stage at a time: " in text and "critical path" in text


def test_the_command_prints_what_is_left(finished):
    plan, results = finished
    suite = results.parent / "tiny.yaml"
    done = len(plan.stages) - len(to_do(plan, results))
    printed = CliRunner().invoke(main, ["cost", "--suite", str(suite), "--results", str(results)])
    assert printed.exit_code == 0 and 0 < done < len(plan.stages)
    rows = {line.split()[0]: line.split()[1:] for line in printed.output.splitlines()[3:]}
    assert rows["total"][0] == str(len(plan.stages) - done) and "data" not in rows


def test_the_command_prints_memory():
    printed = CliRunner().invoke(
        main, ["cost", "--suite", "imagenet256", "--memory", "--gpu", "A100"]
    )
    assert printed.exit_code == 0 and "A100 has 80 GB" in printed.output
    rows = [line.split() for line in printed.output.splitlines()[2:10]]
    assert [row[:3] for row in rows][:2] == [
        ["trajectory", "meanflow", "-"],
        ["refine", "dmd", "none"],
    ] and len(rows) == 8
    for row in rows:
        assert float(row[-1]) == pytest.approx(sum(map(float, row[4:-1])), abs=0.04)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"gpu": "H10"}, "gpu = H10: unknown; did you mean 'H100'?"),
        ({"gpuu": 1}, "gpuu = 1: unknown key; did you mean 'gpu'?"),
        (
            {"images": {}},
            "images: nothing in the cost model fits data.source = 'data/imagenet/train'",
        ),
    ],
)
def test_mistakes_in_the_model(tmp_path, change, sentence):
    import yaml

    path = tmp_path / "cost.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(MODEL.read_text()) | change))
    printed = CliRunner().invoke(main, ["cost", "--suite", "imagenet256", "--config", str(path)])
    assert printed.exit_code == 2 and sentence in printed.output


@pytest.mark.slow
def test_a_dry_run_ends_with_the_cost_of_what_it_plans(workspace, monkeypatch):  # noqa: F811
    monkeypatch.chdir(workspace)
    plan = load_plan(str(write_suite(workspace)))

    def last_table(*arguments):
        result = snakemake(workspace, *arguments, "--dry-run", "--quiet", "host")
        assert result.returncode == 0 and "Traceback" not in result.stdout + result.stderr
        before, _, table = result.stdout.partition(
            "\ntiny, what is still to do, by workflow/cost.yaml:\n"
        )
        assert "what is still to do" not in table
        lines = table.splitlines()[2:]
        end = next(place for place, line in enumerate(lines) if line.startswith("total"))
        rows = [re.split(" {2,}", line) for line in lines[: end + 1]]
        return before, {row[0]: row[1:] for row in rows}

    before, rows = last_table()
    local = len(
        re.findall(
            r"^(?:local)?rule (?:all_ablations|collect|tables|claims|figures|theory|flops):",
            before,
            re.MULTILINE,
        )
    )
    assert (
        local == 7
        and rows["local rules"][0] == "7"
        and rows["total"][0] == str(len(plan.stages) + local)
    )
    assert rows["refine"][0] == str(sum(stage.kind == "refine" for stage in plan.stages.values()))
    assert last_table("teachers")[1].keys() == {"data", "teacher", "local rules", "total"}
