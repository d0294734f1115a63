"""The teacher's ODE pairs: what they are, that they are paid for, and numbers that two machines
collected together.
"""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from hdbench.core.errors import UserError
from hdbench.core.pixels import load_images, to_uint8
from hdbench.flow.path import guided
from hdbench.metrics.records import read_metrics
from hdbench.report.collect import collect
from hdbench.report.provenance import FILES, is_collected, read_run
from hdbench.stages import artifact, networks
from hdbench.stages import context as stages
from tests.support.tiny import run_until, stage_of, tiny_plan

KD = {
    "trajectory": {"objective": {"name": "knowledge", "pairs": {"count": 300, "steps": 3}}},
    "refine": None,
}
ARMS = {
    "arms": {"teacher": {"trajectory": None, "refine": None, "steps": [3]}, "kd": KD, "hd": {}},
    **{
        f"tables.{name}": {"caption": "x", "rows": ["kd"]}
        for name in (
            "main",
            "components",
            "discriminators",
            "initialisation",
            "methods",
            "cost",
            "reproducibility",
        )
    },
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    plan = tiny_plan(folder, ARMS)
    for arm in ("teacher", "kd"):
        run_until(plan, folder / "results", stage_of(plan, "evaluate", arm))
    return plan, folder / "results"


def test_pairs_are_the_guided_teachers_ode(run):
    """x is where Euler's steps lead eps; the noises differ from row to row and from those of
    evaluation.
    """
    plan, results = run
    stage = plan.stages[stage_of(plan, "trajectory_pairs", "kd")]
    folder, manifest = artifact.load(results, stage.id)
    found = load_file(folder / "pairs.safetensors")
    eps, x, c = found["eps"], found["x"], found["labels"]
    assert eps.shape == x.shape == (300, 1, 8, 8) and x.dtype == torch.float32
    assert (
        torch.equal(c, torch.arange(300) % 10)
        and len({row.numpy().tobytes() for row in eps}) == 300
    )
    context = stages.Context(
        results=results,
        work=None,
        stage=stage,
        label="",
        device=torch.device("cpu"),
        checkpoint_seconds=1.0,
    )
    v, z = guided(networks.load_network(context, "teacher", mean_velocity=False), 1.5), eps
    with torch.no_grad():
        for t in (1.0, 2 / 3, 1 / 3):
            z = z - v(z, torch.full((300,), t), c) / 3
    torch.testing.assert_close(x, z, atol=1e-5, rtol=1e-4)
    assert manifest["forward_equivalents"] == 300 * 3 * 2
    images, _ = load_images(
        artifact.load(results, stage_of(plan, "sample", "teacher"))[0] / "samples.npz"
    )
    assert not torch.equal(
        to_uint8(x)[:64], images
    )  # same teacher and steps, so only other noises can differ


def test_pairs_are_part_of_what_training_cost(run):
    plan, results = run
    spent = [
        artifact.load(results, stage_of(plan, kind, "kd"))[1]["forward_equivalents"]
        for kind in ("trajectory", "trajectory_pairs")
    ]
    frame = collect(plan, results, partial=True)
    found = frame[(frame.arm == "kd") & (frame.metric == "training_forward_equivalents")].value
    assert found.tolist() == [sum(spent)] and spent[1] == 1800
    assert (frame[frame.arm == "kd"].metric == "pairs_core_seconds").sum() == 1


def test_numbers_of_another_run_stand_where_there_are_no_results(run, tmp_path):
    """Two machines with a part each give the file, byte for byte, that one with all of them
    gives.
    """
    plan, results = run
    whole = collect(plan, results, partial=True)
    file = results / plan.name / "metrics.csv"
    text, complete = file.read_text(), read_run(file.parent)
    part = tmp_path / "part"
    shutil.copytree(results, part)
    shutil.rmtree(part / "stages" / stage_of(plan, "evaluate", "kd"))
    shutil.rmtree(part / "stages" / stage_of(plan, "trajectory", "kd"))
    assert set(collect(plan, part, partial=True).arm) < set(whole.arm)
    collect(plan, part, partial=True, keep=file)
    assert (part / plan.name / "metrics.csv").read_text() == text
    merged = read_run(part / plan.name)
    assert set(merged.stages) == set(complete.stages)
    assert merged.environments == complete.environments
    assert is_collected(part / plan.name / "metrics.csv")
    read_metrics(file).assign(se=0.5).to_csv(file, index=False)
    collect(plan, part, partial=True, keep=file)  # of an edited file
    assert read_run(part / plan.name).digests.keys() == {"stages.csv"}
    file.write_text(text)
    with pytest.raises(UserError, match="does not exist yet"):  # hd is in neither
        collect(plan, part, keep=file)


@pytest.mark.parametrize("change", [{"digest": "0" * 16}, {"suite": "another"}])
def test_numbers_of_other_stages_are_not_kept(run, tmp_path, change):
    plan, results = run
    collect(plan, results, partial=True)
    for name in FILES:
        shutil.copy(results / plan.name / name, tmp_path)
    read_metrics(results / plan.name / "metrics.csv").assign(**change).to_csv(
        tmp_path / "metrics.csv", index=False
    )
    with pytest.raises(UserError, match="no number to keep is of the present suite"):
        collect(plan, tmp_path / "empty", partial=True, keep=tmp_path / "metrics.csv")
    assert not (tmp_path / "empty").exists()


BROKEN = {  # what lies there in place of stages.csv and environments.json
    "no table": lambda table, environments: (None, environments),
    "no environments": lambda table, environments: (table, None),
    "a list": lambda table, environments: (table, "[]"),
    "no JSON": lambda table, environments: (table, "{"),
    "another table": lambda table, environments: (table + table.splitlines()[-1], environments),
    "other columns": lambda table, environments: ("id,core_seconds\nx,1\n", environments),
    "a row too long": lambda table, environments: (table + 20 * "x,", environments),
    "no environment": lambda table, environments: (
        table,
        json.dumps(json.loads(environments) | {"environments": {}}),
    ),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_record_beside_kept_numbers_is_one_sentence_and_nothing_is_written(
    run, tmp_path, broken
):
    plan, results = run
    collect(plan, results, partial=True)
    shutil.copy(results / plan.name / "metrics.csv", tmp_path)
    texts = broken(*((results / plan.name / name).read_text() for name in FILES))
    for name, text in zip(FILES, texts, strict=True):
        if text is not None:
            (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=r"(stages\.csv|environments\.json): "):
        collect(plan, tmp_path / "empty", partial=True, keep=tmp_path / "metrics.csv")
    assert not (tmp_path / "empty").exists()
