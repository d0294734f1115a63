"""Planted flaws are exact, measures of planted gradients known, and units are run once."""

from __future__ import annotations

import math
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import yaml
from click.testing import CliRunner
from scipy import stats
from sklearn.metrics import roc_auc_score
from torch import nn

from hdbench.cli import main
from hdbench.core.config import validate
from hdbench.core.errors import UserError
from hdbench.core.pixels import to_float
from hdbench.core.seeds import generator
from hdbench.core.yaml_file import read_yaml
from hdbench.datasets.canvas import Canvas
from hdbench.experiments.probes import collect as collecting
from hdbench.experiments.probes import config as probes_config
from hdbench.experiments.probes import figures, measures, report
from hdbench.experiments.probes.run import run_unit
from hdbench.methods.discriminators import build_head, parameter_count
from hdbench.metrics.records import COLUMNS, read_metrics
from hdbench.suite.load import load_plan
from tests.support.tiny import REPOSITORY, changed, run_until, stage_of, write_suite
from tests.workflow.test_workflow import (
    planned,
    snakemake,
    workspace,  # noqa: F401, a fixture
)

TINY = read_yaml(REPOSITORY / "tests/support/probes.yaml")
CANVAS = {
    "data": {"name": "canvas", "train": 60, "test": 40},
    "network.patch": 8,
    "seeds": [0, 1, 2],
    "evaluation.samples": 30,
    "base.refine.objective.gan.parameters": 600,
}


def config(changes=None) -> probes_config.Probes:
    return validate(probes_config.Probes, changed(changes or {}, TINY), "probes.yaml")


@pytest.fixture(scope="module")
def images():
    return Canvas(train=300, test=20).with_turned()["train"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the tests' suite on canvases and its three teachers."""
    folder = tmp_path_factory.mktemp("probes")
    plan = load_plan(str(write_suite(folder, CANVAS)))
    for seed in plan.suite.seeds:
        run_until(plan, folder / "results", stage_of(plan, "teacher", "teacher", seed))
    return folder


# flaws


@pytest.mark.parametrize("change", probes_config.STRENGTH)
@pytest.mark.parametrize("size", [2, 3, 8])
def test_a_flaw_changes_its_patch_and_nothing_else(images, change, size):
    clean, turned, _ = images
    y, where = measures.plant(
        clean, turned, probes_config.Flaw(change=change, size=size), generator("test")
    )
    x, opposite = to_float(clean), to_float(turned)
    assert torch.equal(where.flatten(1).sum(1), torch.full((len(x),), size**2))
    assert torch.equal(y[~where], x[~where])
    torch.testing.assert_close(y + (x - y), x, rtol=0, atol=1e-6)
    share = {"flip": 1.0, "fade": 0.25}[change]
    torch.testing.assert_close(y[where], (x + share * (opposite - x))[where], rtol=0, atol=1e-6)
    assert (y != x).flatten(1).any(1).double().mean() > 0.95
    rows, columns = where[:, 0].any(2), where[:, 0].any(1)
    for line in (rows, columns):  # one run of `size` pixels
        assert torch.equal(line.sum(1), torch.full((len(x),), size))
        assert (line.int().diff(dim=1).abs().sum(1) <= 2).all()


def test_a_fade_everywhere_halves_the_texture(images):
    clean, turned, _ = images
    y, where = measures.plant(
        clean, turned, probes_config.Flaw(change="fade", size=None), generator("test")
    )
    middle = (to_float(clean) + to_float(turned)) / 2
    assert where.all()
    torch.testing.assert_close(y - middle, 0.5 * (to_float(clean) - middle), rtol=0, atol=1e-6)


def test_flaws_lie_around_ink_in_proportion_to_it():
    ink = torch.zeros(6000, 1, 32, 32, dtype=torch.uint8)
    ink[:, 0, 10, 12], ink[:, 0, 20, 5], ink[:, 0, 31, 31] = 100, 50, 50
    _, where = measures.plant(
        ink, ink, probes_config.Flaw(change="flip", size=3), generator("test")
    )
    found = where[:, 0].flatten(1).int().argmax(1)  # the first pixel
    # the last is moved into the image
    shares = {9 * 32 + 11: 0.5, 19 * 32 + 4: 0.25, 29 * 32 + 29: 0.25}
    assert {
        int(pixel): float((found == pixel).double().mean()) for pixel in found.unique()
    } == pytest.approx(shares, abs=0.03)


# measures


def test_a_gradient_that_is_the_correction_has_share_1_cosine_1_and_no_damage(images):
    clean, turned, _ = images
    y, _ = measures.plant(
        clean, turned, probes_config.Flaw(change="flip", size=4), generator("test")
    )
    correction = to_float(clean) - y
    found = measures.of_gradient(-3e-9 * correction, correction)
    assert {name: value for name, (value, _) in found.items()} == pytest.approx(
        {"in_flaw_share": 1, "cosine": 1, "log10_damage": -math.inf}
    )
    assert max(found[name].se for name in ("in_flaw_share", "cosine")) < 1e-8
    away = measures.of_gradient(correction, correction)  # no step along it repairs anything
    assert away["cosine"].value == pytest.approx(-1) and away["log10_damage"].value == math.inf


def test_damage_is_the_change_elsewhere_of_the_step_that_cancels_the_flaw_along_the_correction():
    random = torch.Generator().manual_seed(0)
    correction = F.pad(
        torch.randn(50, 1, 2, 2, generator=random, dtype=torch.float64), (0, 2, 0, 2)
    )
    g = torch.randn(50, 1, 4, 4, generator=random, dtype=torch.float64) - 0.5 * correction
    # x - (y - step g), projected on the correction, is 0 in the mean
    step = -correction.square().sum() / (g * correction).sum()
    assert ((correction + step * g) * correction).sum() == pytest.approx(0, abs=1e-9)
    changed_elsewhere = (step * g)[correction == 0].square().sum() / correction.square().sum()
    found = measures.of_gradient(g, correction)["log10_damage"]
    assert found.value == pytest.approx(math.log10(changed_elsewhere))
    # inside, repairs nothing
    aside = torch.randn(50, 1, 4, 4, generator=random, dtype=torch.float64) * (correction != 0)
    aside -= (aside * correction).sum() / correction.square().sum() * correction
    more = measures.of_gradient(g + 3 * aside, correction)
    assert more["log10_damage"].value == pytest.approx(found.value)
    assert (
        more["in_flaw_share"].value
        > measures.of_gradient(g, correction)["in_flaw_share"].value + 0.1
    )


def test_a_uniform_gradient_has_the_share_of_the_area():
    correction = torch.zeros(7, 1, 32, 32)
    correction[:6, :, 3:7, 8:12] = 0.5  # the last image has no flaw, and is left out
    found = measures.of_gradient(torch.full_like(correction, -0.2), correction)
    assert {name: value for name, (value, _) in found.items()} == pytest.approx(
        {"in_flaw_share": 1 / 64, "cosine": 1 / 8, "log10_damage": math.log10(63)}
    )
    assert measures.of_gradient(torch.zeros_like(correction), correction)["cosine"].value == 0


def test_errors_are_those_of_repeated_samples():
    random = torch.Generator().manual_seed(0)
    size = torch.rand(8000, 1, 1, 1, generator=random) + 0.5
    correction = F.pad(torch.randn(8000, 1, 2, 2, generator=random), (0, 2, 0, 2))
    g = size * (torch.randn(8000, 1, 4, 4, generator=random) - 0.5 * correction)
    parts = [
        measures.of_gradient(g[i : i + 100], correction[i : i + 100]) for i in range(0, 8000, 100)
    ]
    for name in parts[0]:
        values, errors = np.array([part[name] for part in parts]).T
        assert errors.mean() == pytest.approx(values.std(ddof=1), rel=0.3), name


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_auc_is_sklearns_and_its_error_that_of_repeated_samples_of_pairs(correlation):
    random = np.random.default_rng(0)
    clean = random.normal(0.7, 1, 9000)
    flawed = correlation * (clean - 0.7) + math.sqrt(1 - correlation**2) * random.normal(0, 1, 9000)
    with_ties = clean[:90].round(), flawed[:90].round()
    for a, b in ((clean[:80], flawed[:80]), with_ties):
        labels = np.repeat([1, 0], [len(a), len(b)])
        assert measures.auc(a, b).value == pytest.approx(
            roc_auc_score(labels, np.concatenate([a, b])), abs=1e-12
        )
    parts = [
        measures.auc(clean[60 * i : 60 * i + 60], flawed[60 * i : 60 * i + 60]) for i in range(150)
    ]
    values, errors = np.array(parts).T
    assert errors.mean() == pytest.approx(values.std(ddof=1), rel=0.2)
    assert measures.auc(np.ones(5), np.zeros(5)) == (1, 0)


class Patches(nn.Module):
    """In the place of a teacher: its tokens are the image's patches themselves."""

    config, grid = SimpleNamespace(width=16, patch=4), 8

    def features(self, z, t, c, blocks):
        return [F.unfold(z, 4, stride=4).mT for _ in blocks]


@pytest.fixture
def easy(tmp_path):
    """A unit whose tokens show the flaw plainly."""

    def unit(flaw, heads, **settings) -> probes_config.ProbeUnit:
        plan = load_plan(
            str(
                write_suite(
                    tmp_path,
                    CANVAS
                    | {
                        "data": {"name": "canvas", "train": 800, "test": 200},
                        "base.refine.batch": 64,
                    },
                )
            )
        )
        probes = config({"t_max": 0.05, "steps": 120, "images": 80, "flaws": [flaw], **settings})
        return probes_config.ProbeUnit(
            probes,
            probes_config.Source(plan, plan.stage(stage_of(plan, "teacher", "teacher"))),
            64,
            1,
            probes.flaws[0],
            dict.fromkeys(heads, (1e-2,)),
        )

    return unit


@pytest.mark.slow
def test_heads_learn_to_find_a_flaw_that_their_tokens_show(easy):
    """A trained head's gradient points to the true correction, that of a fresh one does not."""
    unit = easy({"change": "fade", "size": None}, ("patch", "awd_logit"))
    found = run_unit(unit, Patches(), lambda step: None)
    values = dict(zip(found["names"], found["values"][..., 0].T, strict=True))
    assert found["heads"].tolist() == ["patch", "awd_logit"] and (values["auc"] > 0.9).all()
    assert (values["cosine"] > 0.08).all() and (values["in_flaw_share"] > 0.5).all()
    assert math.isnan(values["weight_in_flaw"][0]) and 0 < values["weight_in_flaw"][1] <= 1
    np.testing.assert_allclose(found["weights"].sum(-1), 1, rtol=1e-5)
    assert found["weights"].shape == (2, 2, 64) and found["flawed"].shape == (2, 1, 32, 32)
    unit.probes.__dict__["steps"] = 1
    fresh = run_unit(unit, Patches(), lambda step: None)
    assert abs(fresh["values"][0, list(found["names"]).index("auc"), 0] - 0.5) < 0.2


def test_a_head_does_not_depend_on_what_is_trained_beside_it(easy):
    flaw = {"change": "flip", "size": 8}
    both, one = (
        run_unit(easy(flaw, heads, steps=5), Patches(), lambda step: None)
        for heads in (("patch", "conv"), ("conv",))
    )
    np.testing.assert_array_equal(both["values"][1], one["values"][0])


def test_a_head_that_diverges_has_no_numbers_and_is_the_last_choice(easy):
    unit = easy({"change": "flip", "size": 8}, ("patch",), steps=4)
    unit.rates["patch"] = (math.inf, 1e-3)
    found = run_unit(unit, Patches(), lambda step: None)
    assert np.isnan(found["values"][0, :4]).all() and np.isfinite(found["values"][1, :4]).all()
    assert collecting.best_rates(found) == {"patch": (1e-3,)}


def test_the_rate_with_the_largest_cosine_is_chosen():
    cosine = [0.1, 0.3, 0.2, math.nan, math.nan, -0.5]
    found = {
        "heads": np.repeat(["a", "b"], 3),
        "rates": np.array([1, 2, 3] * 2),
        "names": np.array(["auc", "cosine"]),
        "values": np.stack([np.ones((6, 2)), np.stack([cosine, np.zeros(6)], 1)], 1),
    }
    assert collecting.best_rates(found) == {"a": (2,), "b": (3,)}


@pytest.mark.parametrize("name", ["local_flaws_16", "local_flaws", "local_flaws_256"])
def test_heads_have_equal_size(name, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    suite = load_plan(name).suite
    gan, grid = suite.base.refine.objective.gan, suite.data.image_size // suite.network.patch
    assert grid**2 == {"local_flaws_16": 16, "local_flaws": 64, "local_flaws_256": 256}[name]
    with torch.device("meta"):
        sizes = [
            parameter_count(
                build_head(
                    head,
                    layers=len(gan.blocks),
                    width=suite.network.width,
                    grid=grid,
                    parameters=gan.parameters,
                )
            )
            for head in probes_config.TRAINED_HEADS
        ]
    assert sizes == pytest.approx([gan.parameters] * len(sizes), rel=0.1) and max(
        sizes
    ) < 1.1 * min(sizes)


# the command


def invoke(folder, changes=None) -> tuple[int, str]:
    path = folder / "probes.yaml"
    path.write_text(
        yaml.safe_dump(changed({"suites": [str(folder / "tiny.yaml")]} | (changes or {}), TINY)),
        encoding="utf-8",
    )
    result = CliRunner().invoke(
        main,
        [
            "probes",
            "--config",
            str(path),
            "--results",
            str(folder / "results"),
            "--out",
            str(folder / "out"),
        ],
    )
    return result.exit_code, result.output


@pytest.mark.slow
def test_the_command_writes_everything_and_a_second_call_runs_nothing(trained, monkeypatch):
    code, output = invoke(trained)
    assert code == 0, output
    frame, out = read_metrics(trained / "results/probes/metrics.csv"), trained / "out/probes"
    names = {
        "metrics.csv",
        "probes.csv",
        "differences.csv",
        "probes.md",
        "crossover.png",
        "weights.png",
    }
    assert list(frame) == list(COLUMNS) and {path.name for path in out.glob("[!.]*")} == names
    assert (out / "metrics.csv").read_bytes() == (
        trained / "results/probes/metrics.csv"
    ).read_bytes()
    own, tuning = (frame[frame.suite == suite] for suite in ("probes", "probes_validation"))
    assert set(own.seed) == {1, 2} and set(tuning.seed) == {0}
    table = pd.read_csv(out / "probes.csv", index_col="arm")
    assert set(table.index) == {
        f"{head}_n16_{flaw}" for head in TINY["heads"] for flaw in ("flip4", "fade_global")
    }
    for arm, row in table.iterrows():
        cosines = {
            rate: tuning[
                (tuning.arm == f"{arm}_lr{rate:g}") & (tuning.metric == "cosine")
            ].value.item()
            for rate in TINY["learning_rates"]
        }
        assert row.learning_rate == max(cosines, key=cosines.get)
        assert row.cosine == pytest.approx(
            own[(own.arm == arm) & (own.metric == "cosine")].value.mean()
        )
        assert (
            row.flaw_share == pytest.approx(1, abs=0.1)
            if "global" in arm
            else 1 / 16 <= row.flaw_share <= 4 / 16
        )
    assert table.head_parameters.to_numpy() == pytest.approx(600, rel=0.1)
    paired = pd.read_csv(out / "differences.csv", index_col=["flaw", "head", "minus"])
    assert set(paired.index) == {
        (flaw, "awd_loss", plain)
        for flaw in ("flip4", "fade_global")
        for plain in ("pooled", "patch")
    }
    wide = own[own.metric == "cosine"].pivot(index="seed", columns="arm", values="value")
    expected = stats.ttest_rel(wide.awd_loss_n16_flip4, wide.pooled_n16_flip4).confidence_interval(
        0.95
    )
    row = paired.loc["flip4", "awd_loss", "pooled"]
    assert [
        row.cosine - row.cosine_half_width,
        row.cosine + row.cosine_half_width,
    ] == pytest.approx(list(expected))
    rows = [
        line.split("|")[1:-1]
        for line in (out / "probes.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("|") and "AWD-loss" in line
    ]
    assert rows[0][-1].strip() in ("0.00100", "0.00300") and rows[-1][3].strip() == "patch"
    assert rows[-1][-2].strip()[0] in "+-"

    units = trained / "results/probes/units"
    done = {path: path.stat().st_mtime_ns for path in units.iterdir()}
    assert len(done) == 2 * 3
    monkeypatch.setattr(collecting, "run_unit", lambda *arguments: pytest.fail("run again"))
    probes = config({"suites": [str(trained / "tiny.yaml")]})
    collecting.collect(probes, trained / "results")[0].to_csv(
        trained / "again.csv", index=False, lineterminator="\n"
    )
    assert done == {path: path.stat().st_mtime_ns for path in units.iterdir()}
    assert (trained / "again.csv").read_bytes() == (out / "metrics.csv").read_bytes()
    again = []
    monkeypatch.setattr(
        collecting, "run_unit", lambda unit, *more: again.append(unit.name) or run_unit(unit, *more)
    )
    next(units.glob("n16-flip4-s2-*")).unlink()
    repeated = collecting.collect(probes, trained / "results")[0]
    timed = frame.metric == "training_core_seconds"
    assert again == ["n16-flip4-s2"]
    pd.testing.assert_frame_equal(repeated[~timed], frame[~timed], check_exact=True)
    broken = next(iter(done))
    broken.write_bytes(b"half")
    code, output = invoke(trained)
    assert (
        code == 2 and f"{broken}: not a finished unit" in output and output.count("hdbench:") == 1
    )
    broken.unlink()


@pytest.mark.slow
def test_what_has_no_number_is_named_and_the_rest_is_drawn(trained):
    assert invoke(trained)[0] == 0
    frame = read_metrics(trained / "results/probes/metrics.csv")
    probes = config({"suites": [str(trained / "tiny.yaml")]})
    assert "AUC" not in report.without_number(probes, report.reported(frame))
    one = (frame.suite == "probes") & (frame.arm == "awd_loss_n16_flip4") & (frame.seed == 2)
    frame.loc[one & (frame.metric == "auc"), "value"] = math.nan
    frame.loc[one & (frame.metric == "log10_damage"), "value"] = math.inf
    intervals = report.reported(frame)
    text = report.to_markdown(
        probes,
        report.render(probes, intervals),
        report.differences(probes, intervals),
        report.without_number(probes, intervals),
    )
    for measure in ("AUC", "log10 damage"):
        assert f"{measure} of AWD-loss†, 16 tokens, flip, 4 x 4" in text.splitlines()[0]
    figure = figures.draw_crossover(probes, intervals, "")
    drawn = [len(axis.containers) for axis in figure.axes[:4]]  # heads with a number
    assert (
        drawn
        == [
            2,
            3,
            3,
            sum(
                math.isfinite(intervals(f"{head}_n16_flip4", "log10_damage").value)
                for head in probes.heads
            ),
        ]
        and drawn[3] <= 2
    )


def test_a_change_runs_what_it_changes_and_no_more(trained):
    def digests(changes=None, rates=(1e-3,)):
        probes = config({"suites": [str(trained / "tiny.yaml")]} | (changes or {}))
        sources = probes_config.teachers(probes)
        return {
            (seed, flaw.name): probes_config.ProbeUnit(
                probes, sources[16, seed], 16, seed, flaw, {"patch": rates}
            ).digest
            for seed in (0, 1)
            for flaw in probes.flaws
        }

    before = digests()
    assert (
        len(set(before.values())) == 4
        and digests({"learning_rates": [1.0], "seeds": [1], "heads": ["patch"]}) == before
    )
    other = digests({"flaws": [{"change": "flip", "size": 4}, {"change": "fade", "size": 8}]})
    assert before.items() & other.items() == {
        item for item in before.items() if item[0][1] == "flip4"
    }
    for after in (
        digests({"steps": 7}),
        digests({"images": 19}),
        digests({"t_max": 0.5}),
        digests(rates=(2e-3,)),
    ):
        assert not set(after.values()) & set(before.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flaws": [{"change": "flop", "size": 2}]}, "flaws.0.change = .flop.: unknown"),
        (
            {"flaws": [{"change": "flip", "size": 16}]},
            "flaws.0.size = 16: a flip of more than half a digit is as likely",
        ),
        (
            {"flaws": [{"change": "flip", "size": None}]},
            "flaws.0.size = None: a flip of more than half a digit",
        ),
        (
            {"flaws": [{"change": "fade", "size": 32}]},
            "flaws.0.size = 32: a canvas has 32 x 32 pixels; for all of it write null",
        ),
        ({"flaws": [{"change": "fade"}]}, "flaws.0.size: this key is missing; add it"),
        (
            {"flaws": [{"change": "fade", "size": 0}]},
            "flaws.0.size = 0: must be greater than or equal to 1",
        ),
        ({"heads": ["pached"]}, "heads.0 = .pached.: unknown; did you mean 'patch'?"),
        ({"heads": ["patch", "patch"]}, "heads = .*: one value appears twice; remove it"),
        ({"learning_rates": [0.0]}, "learning_rates.0 = 0.0: must be greater than 0"),
        ({"validation_seed": 1}, "validation_seed = 1: is one of seeds"),
        ({"shown": 21}, "shown = 21: must not be above images = 20"),
        ({"seeds": []}, "at least 1 entry"),
        ({"stepz": 3}, "unknown key; did you mean 'steps'?"),
    ],
)
def test_a_mistake_in_the_configuration_is_one_sentence(changes, message):
    with pytest.raises(UserError, match=message):
        config(changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"tokens": [64]},
            "none has a teacher of 64 tokens and seed 0; they have 16 tokens, seed 0, 16 tokens, "
            "seed 1",
        ),
        ({"seeds": [5]}, "none has a teacher of 16 tokens and seed 5"),
        ({"t_max": 0.01}, "t_max = 0.01: stage 2 of tiny has times from t_min = 0.02; raise it"),
        (
            {"images": 21},
            "images = 21: test has only 20 for validation and as many to report; lower it",
        ),
        ({"suites": ["nowhere"]}, "no suite 'nowhere'"),
        ({"suites": ["demo"]}, "demo has data textured_digits"),
    ],
)
def test_teachers_that_cannot_be_had_are_one_sentence(trained, monkeypatch, changes, message):
    monkeypatch.chdir(REPOSITORY)
    code, output = invoke(trained, changes)
    assert code == 2 and output.count("\n") == 1 and message in output


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("base", {"base.refine.batch": 4}),
        ("network", {"network.depth": 3}),
        ("teacher", {"teacher.training.steps": 3}),
    ],
)
def test_other_suites_must_differ_in_patches_and_seeds_alone(trained, tmp_path, part, changes):
    other = write_suite(tmp_path, CANVAS | changes, "other")
    code, output = invoke(trained, {"suites": [str(trained / "tiny.yaml"), str(other)]})
    assert (
        code == 2
        and f"other has other {part} than tiny; name suites that differ in network.patch and seeds"
        in output
    )


@pytest.mark.parametrize(
    ("suite", "message"),
    [
        (
            {"base.refine.objective.gan.parameters": 60},
            "heads: pooled of tiny: base.refine.objective.gan.parameters = 60: ",
        ),
        (
            {"base.refine.objective": {"name": "meanflow"}},
            "stage 2 of tiny does not read a frozen teacher's features",
        ),
    ],
)
def test_heads_that_cannot_be_built_or_read_are_one_sentence(tmp_path, suite, message):
    write_suite(tmp_path, CANVAS | suite | {"only": ["td", "hd"]})
    code, output = invoke(tmp_path)
    assert code == 2 and output.count("\n") == 1 and message in output, output


def test_teachers_must_be_there(trained, tmp_path):
    shutil.copy(trained / "tiny.yaml", tmp_path)
    code, output = invoke(tmp_path)
    assert (
        code == 2
        and output.count("\n") == 1
        and "the teacher of 16 tokens and seed 0 does not exist yet; make it" in output
    )
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_the_committed_configuration_has_its_teachers_in_the_committed_suites(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    probes = probes_config.read_probes()
    suites = (*probes.suites, "local_flaws_256")
    every = probes.model_copy(update={"suites": suites, "tokens": (16, 64, 256)})
    assert (
        probes.heads == probes_config.TRAINED_HEADS and len(probes_config.teachers(every)) == 3 * 4
    )
    refine = load_plan("local_flaws").suite.base.refine
    assert probes.steps == refine.steps * refine.objective.critic_steps()
    assert {source.plan.name for source in probes_config.teachers(probes).values()} == {
        "local_flaws_tuning",
        "local_flaws",
        "local_flaws_16",
    }


@pytest.mark.slow
def test_probes_are_a_target_of_their_own(workspace, monkeypatch):  # noqa: F811
    monkeypatch.chdir(workspace)
    write_suite(workspace, CANVAS)
    (workspace / "probes.yaml").write_text(
        yaml.safe_dump(TINY | {"suites": ["tiny.yaml"]}), encoding="utf-8"
    )
    (workspace / "config.yaml").write_text("probes: probes.yaml\n", encoding="utf-8")
    jobs = planned(
        snakemake(
            workspace, "probes", "--configfile", "config.yaml", "--dry-run", "--quiet", "host"
        ).stdout
    )
    assert jobs.keys() == {"probes", "teacher", "data"} and len(jobs["teacher"]) == 3


def test_the_committed_tables_are_those_of_the_committed_metrics():
    folder = REPOSITORY / "paper_tables/probes"
    probes = probes_config.read_probes(REPOSITORY / probes_config.CONFIG)
    intervals = report.reported(read_metrics(folder / "metrics.csv"))
    table = report.render(probes, intervals)
    paired = report.differences(probes, intervals)
    assert table.to_csv(index=False) == (folder / "probes.csv").read_text()
    assert paired.to_csv(index=False) == (folder / "differences.csv").read_text()
    text = report.to_markdown(probes, table, paired, report.without_number(probes, intervals))
    assert text == (folder / "probes.md").read_text()
