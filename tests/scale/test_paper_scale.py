"""The suites of the paper's scale, with tiny networks in the public formats, and large training."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner

from hdbench.cli import main
from hdbench.core.errors import UserError
from hdbench.evaluation.protocols import PROTOCOLS
from hdbench.metrics.records import COLUMNS
from hdbench.report.claims import write_claims
from hdbench.report.collect import collect
from hdbench.report.figures import FIGURES, draw
from hdbench.report.numbers import Numbers
from hdbench.report.rules import read_rules
from hdbench.report.tables import TABLES, write_tables
from hdbench.stages import artifact
from hdbench.stages.context import WEIGHTS
from hdbench.stages.pictures import check_pictures
from hdbench.stages.run import run_stage
from hdbench.suite.load import load_plan
from hdbench.suite.overrides import merge
from hdbench.suite.reading import find_suite, read_suite
from tests.support.paper_scale import SAMPLES, write
from tests.support.tiny import run_until, stage_of, tiny_plan


@pytest.fixture(scope="module")
def suites(tmp_path_factory):
    return write(tmp_path_factory.mktemp("paper"))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


def finished(plan, results):
    for stage in plan.stages.values():
        run_stage(stage, results, torch.device("cpu"), 1000.0)
    return collect(plan, results)


def test_a_suite_of_the_papers_scale_runs_through_every_stage(suites, results, tmp_path):
    """imagenet256_dit; CI takes the others through the DAG."""
    plan = load_plan(str(suites["imagenet256_dit"]))
    frame = finished(plan, results)
    measured = frame[frame.protocol != "cost"]
    protocol = plan.suite.evaluation.protocol
    assert (
        measured.protocol.str.startswith(protocol).all() and measured.value.map(np.isfinite).all()
    )
    for entry in plan.rows:
        own = set(measured.metric[(measured.arm == entry.arm) & (measured.nfe == entry.nfe)])
        assert {f"{metric}_{SAMPLES}" for metric in PROTOCOLS[protocol].quality} <= own
    numbers = Numbers(plan, frame, results)
    written = {path.name for path in write_tables(plan, frame, results, tmp_path)}
    assert "main.md" in written and "FID 12" in (tmp_path / plan.name / "main.md").read_text()
    assert {path.stem for path in draw(plan, results, tmp_path, frame)} == set(FIGURES)
    assert write_claims(numbers, read_rules(), tmp_path, None)
    samples = results / "stages" / stage_of(plan, "sample", "teacher", 1) / "samples"
    assert len(list(samples.glob("*.png"))) == SAMPLES


def test_a_replaced_file_of_the_users_is_not_the_one_of_a_done_stage(suites, results):
    """A new time is no new content; other bytes are refused until they are put back."""
    plan = load_plan(str(suites["imagenet256_dit"]))
    teacher = stage_of(plan, "teacher", "teacher", 1)
    run_until(plan, results, teacher)
    file = Path(plan.suite.teacher.checkpoint.path)
    content = file.read_bytes()
    try:
        file.write_bytes(content)
        run_until(plan, results, teacher)
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(UserError, match="has changed since teacher/.* --again"):
            run_until(plan, results, teacher)
        options = ["--suite", str(suites["imagenet256_dit"]), "--results", str(results)]
        planned = CliRunner().invoke(main, ["plan", *options])
        assert planned.exit_code == 2 and f"{file}: has changed" in planned.output
        file.unlink()
        run_until(plan, results, teacher)
    finally:
        file.write_bytes(content)


def test_interrupted_sampling_goes_on_with_the_same_bits(suites, results, tmp_path, monkeypatch):
    """The second batch fails once; what is there then is not made again."""
    plan = load_plan(str(suites["imagenet256"]))
    sample = stage_of(plan, "sample", "teacher", 1)
    run_until(plan, results, sample)
    run_until(plan, tmp_path, plan.stages[sample].parents["source"])
    from hdbench.stages import pictures as images

    saved, calls = images.Pictures.write, []

    def write_some(self, parts, indices):
        calls.append(indices)
        if len(calls) == 3:  # after the empty one and the first
            raise KeyboardInterrupt
        return saved(self, parts, indices)

    monkeypatch.setattr(images.Pictures, "write", write_some)
    with pytest.raises(KeyboardInterrupt):
        run_until(plan, tmp_path, sample)
    calls.append(None)
    run_until(plan, tmp_path, sample)
    assert calls[-1] == range(8, 12) and len(calls) == 6
    index = "samples.json"
    assert (tmp_path / "stages" / sample / index).read_text() == (
        results / "stages" / sample / index
    ).read_text()


def test_a_planned_suite_needs_neither_data_nor_weights():
    for name in ("imagenet256", "imagenet256_dit", "mjhq", "mjhq_1024", "mjhq_1600m"):
        assert len(load_plan(name).stages) > 100


@pytest.mark.parametrize(
    "key, value, sentence",
    [
        (
            "data.autoencoder.path",
            "nowhere",
            "nowhere: there is no such folder; put diffusers' AutoencoderKL there",
        ),
        ("data.source", "nowhere", "nowhere: neither a folder nor a glob of files that are there"),
        ("data.autoencoder.scale", 0.5, "set autoencoder.scale to 0.18215 (not 0.5)"),
        (
            "teacher.checkpoint.path",
            "nowhere",
            "nowhere: there is no such file; put the SiT checkpoint there",
        ),
        ("network.depth", 3, "network.depth"),
    ],
)
def test_what_is_missing_or_wrong_is_one_sentence(suites, tmp_path, key, value, sentence):
    from tests.support.tiny import changed

    data = changed({key: value}, yaml.safe_load(suites["imagenet256"].read_text()))
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(data))
    plan = load_plan(str(path))
    kind = "data" if key.startswith("data") else "teacher"
    with pytest.raises(UserError, match=re.escape(sentence)):
        run_until(
            plan,
            tmp_path / "results",
            next(stage for stage in plan.stages if stage.startswith(kind)),
        )


# training


def weights_of(folder, changes, arm="td", kind="trajectory"):
    plan = tiny_plan(folder, changes)
    stage = stage_of(plan, kind, arm)
    run_until(plan, folder / "results", stage)
    return artifact.load(folder / "results", stage)[0] / WEIGHTS


@pytest.mark.parametrize("arm, kind", [("td", "trajectory"), ("hd", "refine")])
def test_micro_batches_and_recomputation_change_rounding_alone(tmp_path, arm, kind):
    from safetensors.torch import load_file

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = load_file(weights_of(tmp_path / "a", {}, arm, kind))
    parts = load_file(
        weights_of(
            tmp_path / "b",
            {f"base.{kind}.micro_batch": 3, f"base.{kind}.gradient_checkpointing": True},
            arm,
            kind,
        )
    )
    assert any(not torch.equal(whole[key], parts[key]) for key in whole)
    for key in whole:
        torch.testing.assert_close(parts[key], whole[key], atol=2e-4, rtol=2e-3)


def test_bfloat16_is_near_float32_and_keeps_weights_in_float32(tmp_path):
    from safetensors.torch import load_file

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    exact = load_file(weights_of(tmp_path / "a", {}))
    rounded = load_file(weights_of(tmp_path / "b", {"base.trajectory.precision": "bfloat16"}))
    assert all(value.dtype == torch.float32 for value in rounded.values())
    moved = sum((rounded[key] - exact[key]).square().sum() for key in exact).sqrt()
    size = sum(value.square().sum() for value in exact.values()).sqrt()
    assert 0 < moved < 0.02 * size


def test_forward_mode_is_float32_under_autocast():
    from hdbench.flow.jvp import jvp

    layer = torch.nn.Linear(8, 8)
    x = torch.randn(4, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
        assert all(part.dtype == torch.float32 for part in jvp(layer, (x,), (x,)))


# what only a whole suite can see

WRONG = [
    (
        "imagenet256",
        {"teacher": {"checkpoint": {"format": "sana"}}},
        "teacher.checkpoint.format = 'sana': not of this kind of network",
    ),
    (
        "imagenet256",
        {"evaluation": {"protocol": "mjhq30k"}},
        "evaluation.protocol = 'mjhq30k': its samples have prompts",
    ),
    (
        "imagenet256",
        {"evaluation": {"protocol": "classifier", "reference": None}},
        "not for the data images",
    ),
    ("imagenet256", {"data": {"text": True}}, "give classes, or text: true"),
    (
        "imagenet256",
        {"data": {"resolution": 250}},
        "data.resolution = 250: must be a multiple of the autoencoder's factor, 8",
    ),
    ("imagenet256", {"teacher": {"checkpoint": None}}, "give either training or checkpoint"),
    (
        "mjhq_1024",
        {"arms": {"sprint": {"baseline": {"times": {"2": [0.5, 0.2]}}}}},
        "give 1 times, one for each step after the first",
    ),
    (
        "mjhq",
        {"evaluation": {"prompts": None}},
        "evaluation.prompts: goes with the text of a pipeline",
    ),
    ("mjhq", {"text": None}, "text: belongs to network.name = 'sana'"),
    (
        "imagenet256",
        {"evaluation": {"metrics": ["pickscore"]}},
        "evaluation.metrics = 'pickscore': needs the prompts of a suite with text; remove it",
    ),
    (
        "imagenet256",
        {"evaluation": {"metrics": ["teacher_features"]}},
        "beside adm_imagenet256_50k there are clip_score, pickscore, hpsv2, teacher_lpips, ",
    ),
    ("mjhq", {"evaluation": {"metrics": ["clip_score"]}}, "the protocol has it already"),
    ("mjhq", {"evaluation": {"metrics": ["pickscroe"]}}, "unknown metric; did you mean 'picksc"),
    ("digits", {"evaluation": {"metrics": ["teacher_lpips"]}}, "is measured by other protocols"),
    ("digits", {"evaluation": {"metrics": ["geneval"]}}, "is measured by other protocols alone"),
    (
        "mjhq",
        {"network": {"guidance_input": 4.5}},
        "network.guidance_input = 4.5: such a network has no velocity",
    ),
    (
        "captions",
        {"network": {"caption_width": 32}},
        "text.model.text_cfg.width = 64: data and network need 32",
    ),
    (
        "captions",
        {"text": {"model": {"text_cfg": {"vocab_size": 100}}}},
        "open_clip's tokens need 49408",
    ),
    (
        "captions",
        {"text": {"model": {"text_cfg": {"vocab_size": "many"}}}},
        "open_clip's tokens need 49408",
    ),
    ("captions", {"text": {"model": {"vision_cfg": 16}}}, "vision_cfg.image_size"),
    (
        "captions",
        {"text": {"training": {"micro_batch": 4}}},
        "captions are compared over the whole batch",
    ),
    (
        "captions",
        {"evaluation": {"protocol": "clean_fid", "reference": "x"}},
        "not for the data captions",
    ),
    (
        "digits",
        {"evaluation": {"protocol": "clean_fid", "reference": "x"}},
        "not for the data digits",
    ),
]


@pytest.mark.parametrize("name, change, sentence", WRONG)
def test_parts_that_do_not_go_together_are_one_sentence(tmp_path, name, change, sentence):
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(merge(read_suite(find_suite(name)), change)))
    with pytest.raises(UserError, match=re.escape(sentence)) as error:
        load_plan(str(path))
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, said",
    [
        ("{", "not a JSON file"),
        ("{}", "has no prompts; name another file in evaluation.prompts"),
        (json.dumps({f"a/{row}": "x" for row in range(12)}), "an image's name has no '/'"),
    ],
)
def test_prompts_that_cannot_be_sampled_are_one_sentence(suites, results, tmp_path, text, said):
    (tmp_path / "prompts.json").write_text(text)
    data = merge(
        yaml.safe_load(suites["mjhq_1024"].read_text()),
        {"evaluation": {"prompts": str(tmp_path / "prompts.json")}},
    )
    (tmp_path / "mjhq_1024.yaml").write_text(yaml.safe_dump(data))
    plan = load_plan(str(tmp_path / "mjhq_1024.yaml"))
    with pytest.raises(UserError, match=re.escape(said)):
        run_until(plan, results, next(stage for stage in plan.stages if stage.startswith("text/")))


def test_fewer_prompts_than_samples_are_one_sentence(suites, results, tmp_path):
    table = json.loads((suites["mjhq_1024"].parent / "mjhq/meta_data.json").read_text())
    (tmp_path / "prompts.json").write_text(json.dumps(dict(list(table.items())[:5])))
    data = merge(
        yaml.safe_load(suites["mjhq_1024"].read_text()),
        {"evaluation": {"prompts": str(tmp_path / "prompts.json")}},
    )
    (tmp_path / "few.yaml").write_text(yaml.safe_dump(data))
    plan = load_plan(str(tmp_path / "few.yaml"))
    with pytest.raises(UserError, match="has 5 prompts, evaluation.samples = 12; lower it"):
        run_until(plan, results, stage_of(plan, "sample", "teacher", 1))


def test_a_picture_that_is_not_the_manifests_is_named(suites, results, tmp_path):
    plan = load_plan(str(suites["imagenet256"]))
    sample = stage_of(plan, "sample", "teacher", 1)
    run_until(plan, results, sample)
    folder = tmp_path / "copy"
    shutil.copytree(results / "stages" / sample, folder)
    check_pictures(folder)
    (folder / "samples/000003.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"000003.png: differs from its manifest"):
        check_pictures(folder)
    (folder / "samples/000003.png").unlink()
    with pytest.raises(UserError, match=r"000003.png: differs from its manifest"):
        check_pictures(folder)


def test_a_public_teacher_is_one_network_in_every_chain(tmp_path):
    """Its numbers are of one set of samples: a sampling interval, and no exact difference."""
    plan = load_plan("imagenet256")
    rows = [
        {
            "suite": plan.name,
            "arm": row.arm,
            "seed": row.seed,
            "nfe": row.nfe,
            "metric": "fid_50k",
            "n": 50000,
            "se": 0.1,
            "value": {50: 3.0, 500: 2.0}.get(row.nfe, 4.0 + row.seed),
            "protocol": "adm_imagenet256_50k:x",
            "digest": plan.stage(row.stages["evaluate"]).digest,
        }
        for row in plan.rows
        if row.arm in ("teacher", "hd")
    ]
    numbers = Numbers(plan, pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS), tmp_path)
    few, many = numbers.entries("teacher")
    (student,) = numbers.entries("hd")
    assert numbers(few, "fid_50k") == (3.0, pytest.approx(0.196))
    assert (
        np.isnan(numbers.difference(few, many, "fid").half_width)
        and numbers.difference(few, many, "fid").value == 1
    )
    # of the chains' scatter, and of the teacher's one set of samples
    assert numbers.difference(student, many, "fid").half_width == pytest.approx(
        math.hypot(4.303 / 3**0.5, 1.96 * 0.1), rel=1e-3
    )
    assert np.isnan(numbers.components(many, "fid_50k")["total"])


def test_pairs_are_of_the_datas_prompts_and_never_of_the_samples(suites, results, tmp_path):
    from safetensors.torch import load_file

    data = yaml.safe_load(suites["mjhq_1024"].read_text())
    data["arms"]["kd"] = {
        "trajectory": {"objective": {"name": "knowledge", "pairs": {"count": 9, "steps": 1}}},
        "refine": None,
    }
    (tmp_path / "mjhq_1024.yaml").write_text(yaml.safe_dump(data))
    plan = load_plan(str(tmp_path / "mjhq_1024.yaml"))
    pairs = stage_of(plan, "trajectory_pairs", "kd", 1)
    run_until(plan, results, pairs)
    labels = load_file(results / "stages" / pairs / "pairs.safetensors")["labels"]
    # ten images of seven captions; the samples' prompts come after them
    assert labels.tolist() == [*range(7), 0, 1]


@pytest.mark.slow
def test_fidelity_and_preference_are_measured_beside_the_protocol(suites, results, tmp_path):
    """Their own artifacts, with the teacher's pictures or the prompts as parents; others stay."""
    from tests.parity.test_perceptual import alexnet_weights, pickscore_weights

    data = yaml.safe_load(suites["mjhq_1024"].read_text())
    before = load_plan(str(suites["mjhq_1024"]))
    data["arms"]["td"] = {"refine": None}
    data["evaluation"] |= {"metrics": ["teacher_lpips", "teacher_mse", "pickscore"]}
    data["evaluation"]["weights"] |= {
        "alexnet": str(alexnet_weights()), "pickscore": str(pickscore_weights())
    }  # fmt: skip
    path = tmp_path / "beside.yaml"
    path.write_text(yaml.safe_dump(data))
    plan = load_plan(str(path))
    assert before.stages.keys() <= plan.stages.keys()
    measured = {row.arm: {k: v for k, v in row.stages.items() if k.startswith("evaluate ")}
                for row in plan.rows}  # fmt: skip
    both = {"evaluate fidelity", "evaluate pickscore"}
    assert {arm: set(stages) for arm, stages in measured.items()} == {
        "teacher": both, "td": both,
        "sprint": {"evaluate pickscore"}, "hd_awd_logit": {"evaluate pickscore"},
    }  # fmt: skip
    values = {}
    for arm in ("teacher", "td"):
        for stage in measured[arm].values():
            run_until(plan, results, stage)
            folder, manifest = artifact.load(results, stage)
            table = pd.read_csv(folder / "metrics.csv", index_col="metric")
            values |= {(arm, metric): table.value[metric] for metric in table.index}
            assert (table.n == SAMPLES).all()
            name = "fidelity[alexnet=" if "teacher_mse" in table.index else "pickscore[pickscore="
            assert manifest["protocol"].startswith(name)
    assert values["teacher", "teacher_lpips"] == values["teacher", "teacher_mse"] == 0
    assert values["td", "teacher_lpips"] > 0 and values["td", "teacher_mse"] > 0
    assert np.isfinite(values["td", "pickscore"])
    row = next(row for row in plan.rows if row.arm == "td")
    numbers = [("fid", "mjhq30k:r"), ("teacher_lpips", "fidelity:t"), ("pickscore", "pickscore:-")]
    digest = plan.stage(row.stages["evaluate"]).digest
    common = {"suite": plan.name, "arm": "td", "seed": row.seed, "nfe": row.nfe, "n": SAMPLES,
              "value": 0.5, "se": 0.1, "digest": digest}  # fmt: skip
    frame = pd.DataFrame(
        [common | {"metric": f"{name}_{SAMPLES}", "protocol": said} for name, said in numbers]
    )
    shown = Numbers(plan, frame[list(COLUMNS)].astype(COLUMNS), results)
    for table, title in (("components", "LPIPS to teacher ↓"), ("main", "PickScore ↑")):
        columns = {column.title: column for column in TABLES[table]().columns(shown)}
        assert columns[title].cell(shown.entries("td")[0]).value == 0.5
