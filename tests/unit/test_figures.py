"""What the figures show is what the numbers say; what they leave out, they name."""

import io
import math
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer

from hdbench.cli import main
from hdbench.core.errors import UserError
from hdbench.core.outputs import Command, writing
from hdbench.report import figures
from hdbench.report.document import for_people
from hdbench.report.figures import FIGURES, sources
from hdbench.report.figures import style as figure_style
from hdbench.report.figures.quality import spread
from hdbench.report.numbers import Numbers
from hdbench.report.tables import TABLES
from hdbench.suite.arms import describe, same_from_trajectory, same_without_head
from hdbench.suite.load import load_plan
from tests.support.tiny import REPOSITORY, tiny_plan, write_suite
from tests.unit.test_tables import publish, synthetic

PATCH = {"objective": {"discriminator": "patch"}}
CHANGES = {
    "seeds": [0, 1, 2],
    "arms.hd_cd": {"trajectory": {"objective": {"name": "consistency"}}},
    "arms.dmd_patch": {"trajectory": None, "refine": PATCH},
    "arms.dmd_patch_total": {
        "trajectory": None,
        "refine": PATCH | {"steps": {"equal_total": "hd_patch"}},
    },
}
ONE_CHAIN = CHANGES | {"seeds": [0]}
FROM_NUMBERS = ("precision_recall", "quality", "forest")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def drawn(name, plan, frame, results=Path("nowhere")):
    """The figure and the note below it."""
    figure = FIGURES[name]().draw(
        sources.Sources(plan, results, None if frame is None else Numbers(plan, frame, results))
    )
    return figure, " ".join(figure.texts[-1].get_text().split())


def points(axis) -> list[tuple[tuple[float, float], dict[str, tuple[float, float]]]]:
    """Of each point with intervals its place, and by direction the ends of its bar."""
    found = []
    for container in (c for c in axis.containers if isinstance(c, ErrorbarContainer)):
        line, _, bars = container.lines
        ends = {}
        for bar in bars:
            ((first, last),) = bar.get_segments()
            direction = "y" if first[0] == last[0] else "x"
            ends[direction] = (first["xy".index(direction)], last["xy".index(direction)])
        found.append(((line.get_xdata()[0], line.get_ydata()[0]), ends))
    return found


def ends_of(interval):
    return pytest.approx(
        (interval.value - interval.half_width, interval.value + interval.half_width)
    )


def entries_of(plan, numbers, without=()):
    return [
        e
        for name, arm in plan.arms.items()
        if arm.real not in without
        for e in numbers.entries(name)
    ]


def test_precision_and_recall_stand_where_the_numbers_say(tmp_path):
    plan = tiny_plan(tmp_path, CHANGES)
    frame = synthetic(plan)
    numbers, (figure, note) = Numbers(plan, frame, tmp_path), drawn("precision_recall", plan, frame)
    whole, part = figure.axes
    expected = entries_of(plan, numbers, without=["train"])
    assert len(points(whole)) == len(expected)
    for entry, ((x, y), ends) in zip(expected, points(whole), strict=True):
        recall, precision = (numbers(entry, metric) for metric in ("recall_64", "precision_64"))
        assert (x, y) == (recall.value, precision.value)
        assert ends["x"] == ends_of(recall) and ends["y"] == ends_of(precision)
    marks = {
        (line.get_xdata()[0], line.get_ydata()[0])
        for line in part.lines
        if len(line.get_xdata()) == 1
    }
    assert marks == {place for place, _ in points(whole)}
    (left, right), (bottom, top) = part.get_xlim(), part.get_ylim()
    refined = [e for e in expected if plan.arms[e.arm].refine]
    assert all(
        left < numbers(e, "recall_64").value < right
        and bottom < numbers(e, "precision_64").value < top
        for e in refined
    )
    assert "t-intervals over 3 complete chains" in note and "Not available" not in note


def test_quality_stands_where_the_numbers_say(tmp_path):
    plan = tiny_plan(tmp_path, CHANGES)
    frame = synthetic(plan)
    numbers, (figure, _) = Numbers(plan, frame, tmp_path), drawn("quality", plan, frame)
    sampling, training = figure.axes
    expected = {
        numbers(e, "fd_test_64").value: e
        for e in entries_of(plan, numbers, without=["train", "test"])
    }
    for axis in (sampling, training):
        assert {y for (_, y), _ in points(axis)} == set(expected)
        assert len({x for (x, _), _ in points(axis)}) == len(expected)  # none hides another
        for (_, y), ends in points(axis):
            assert ends["y"] == ends_of(numbers(expected[y], "fd_test_64"))
        real = numbers(numbers.entries("real_train")[0], "fd_test_64")
        assert [line.get_ydata()[0] for line in axis.lines if line.get_linestyle() == "--"] == [
            real.value
        ]
    for (x, y), _ in points(sampling):
        entry = expected[y]
        if not plan.arms[entry.arm].refine:
            assert x == pytest.approx(entry.nfe, rel=0.06)
    assert all(x < 1 for (x, y), _ in points(sampling) if plan.arms[expected[y].arm].refine)
    spent = {y: numbers(e, "training_forward_equivalents").value for y, e in expected.items()}
    assert [spent[y] for (_, y), _ in sorted(points(training))] == sorted(spent.values())


def test_equal_costs_are_spread_by_as_little_as_can_be():
    places = spread([5, 1, 5, 9, 5], 1)
    np.testing.assert_allclose(places, [4, 1, 5, 9, 6])
    np.testing.assert_allclose(spread([3], 1), [3])


@pytest.mark.parametrize("changes", [CHANGES, ONE_CHAIN])
def test_the_forest_has_every_comparison_with_its_paired_interval(tmp_path, changes):
    plan = tiny_plan(tmp_path, changes)
    frame = synthetic(plan)
    numbers, (figure, note) = Numbers(plan, frame, tmp_path), drawn("forest", plan, frame)
    for axis, reference in zip(figure.axes, (same_without_head, same_from_trajectory), strict=True):
        expected = []
        for arm in figure_style.stage_two(plan):
            if (other := reference(plan, arm)) not in (None, arm):
                expected.append(
                    numbers.difference(
                        numbers.entries(arm)[0], numbers.entries(other)[0], "fd_test"
                    )
                )
        found = sorted((value, y, ends) for (value, y), ends in points(axis))
        texts = {text.get_position()[1]: text.get_text() for text in axis.texts}
        assert [value for value, *_ in found] == sorted(i.value for i in expected)
        for interval, (_, y, ends) in zip(sorted(expected), found, strict=True):
            assert texts[y] == for_people(interval, signed=True)
            assert (
                ends["x"] == ends_of(interval) if math.isfinite(interval.half_width) else not ends
            )
        assert {"← better", "worse →"} <= {text.get_text() for text in axis.texts}
    headings = {
        text.get_text()
        for axis in figure.axes
        for text in axis.texts
        if text.get_weight() == "bold"
    }
    assert headings == {
        "MeanFlow → DMD",
        "Teacher → DMD",
        "Teacher → DMD, equal total",
        "Teacher → DMD − MeanFlow → DMD",
        "Teacher → DMD, equal total − MeanFlow → DMD",
        "Consistency → DMD − MeanFlow → DMD",
    }
    assert ("Without interval" in note) == (changes is ONE_CHAIN)  # its artifacts are not there


@pytest.mark.parametrize("name", FROM_NUMBERS)
def test_a_missing_arm_fewer_chains_and_what_is_not_a_number_are_left_out_and_said(tmp_path, name):
    plan = tiny_plan(tmp_path, CHANGES)
    frame = synthetic(plan)
    frame = frame[(frame.arm != "dmd") & ~((frame.arm == "hd_cd") & (frame.seed == 2))]
    broken = (
        (frame.arm == "hd_patch")
        & (frame.seed == 1)
        & frame.metric.isin(["fd_test_64", "recall_64"])
    )
    frame.loc[broken, "value"] = math.nan
    figure, note = drawn(name, plan, frame)
    assert re.search(r"Teacher → DMD[;.]", note) and "MeanFlow → DMD + patch (not a number)" in note
    assert "Fewer chains: Consistency → DMD, 2 of 3" in note
    numbers = Numbers(plan, frame, tmp_path)
    if name != "forest":
        metric, without = (
            ("fd_test_64", ["train", "test"]) if name == "quality" else ("precision_64", ["train"])
        )
        assert {y for (_, y), _ in points(figure.axes[0])} == {
            numbers(e, metric).value
            for e in entries_of(plan, numbers, without)
            if e.arm not in ("dmd", "hd_patch")
        }
    figure.draw_without_rendering()


@pytest.mark.parametrize("name", FROM_NUMBERS)
def test_one_chain_has_intervals_over_samples(tmp_path, name):
    plan = tiny_plan(tmp_path, ONE_CHAIN)
    frame = synthetic(plan)
    figure, note = drawn(name, plan, frame)
    assert "over samples, one chain" in note
    if name == "quality":
        numbers = Numbers(plan, frame, tmp_path)
        se = frame[(frame.metric == "fd_test_64") & (frame.arm == "hd")].se.iloc[0]
        value = numbers(numbers.entries("hd")[0], "fd_test_64").value
        ((low, high),) = [ends["y"] for (_, y), ends in points(figure.axes[0]) if y == value]
        assert (low, high) == pytest.approx((value - 1.96 * se, value + 1.96 * se))


def test_methods_stand_at_their_distances_best_first(tmp_path):
    plan = tiny_plan(tmp_path, CHANGES)
    frame = synthetic(plan)
    numbers, (figure, note) = Numbers(plan, frame, tmp_path), drawn("methods", plan, frame)
    by_steps, _ = figure.axes
    entries = [entry for arm in TABLES["methods"]().rows(plan) for entry in numbers.entries(arm)]
    expected = {entry: numbers(entry, "fd_test_64") for entry in entries}
    found = points(by_steps)
    assert sorted(place[0] for place, _ in found) == pytest.approx(
        sorted(interval.value for interval in expected.values())
    )
    for (x, _), ends in found:
        assert ends["x"] == ends_of(
            next(interval for interval in expected.values() if interval.value == x)
        )
    first = [
        next(interval.value for entry, interval in expected.items() if entry.arm == arm)
        for arm in dict.fromkeys(entry.arm for entry in entries)
    ]
    labels = [text.get_text() for text in by_steps.get_yticklabels()]
    assert len(labels) == len(first) and labels[0].startswith(
        describe(plan, list(dict.fromkeys(entry.arm for entry in entries))[int(np.argmin(first))])
    )
    assert "t-intervals over 3 complete chains" in note


@pytest.mark.parametrize("suite", ["textured_digits", "digits", "demo"])
def test_distinct_arms_look_distinct(suite):
    plan = FIGURES["quality"]().part(load_plan(str(REPOSITORY / f"workflow/suites/{suite}.yaml")))
    styles = [
        figure_style.point_style(plan, arm)
        for arm in (*figure_style.stage_two(plan), *figure_style.before_stage_two(plan))
    ]
    looks = [
        (style["marker"], to_hex(style["color"]), to_hex(style["markerfacecolor"]))
        for style in styles
    ]
    assert len(set(looks)) == len(looks)
    for arms in figure_style.by_kind(plan).values():
        lines = [figure_style.head_style(plan, arm) for arm in arms]
        assert (
            len({line["color"] for line in lines})
            == len({str(line["linestyle"]) for line in lines})
            == len(arms)
        )
    assert len(set(figure_style.HEAD_LETTERS.values())) == len(figure_style.HEAD_LETTERS)


def history(generator, tokens: int, steps: int = 21) -> tuple[str, np.ndarray]:
    weights = generator.dirichlet(np.ones(tokens), steps) if tokens else np.empty((steps, 0))
    done = np.arange(steps)
    frame = pd.DataFrame(
        {"step": done + 1, "critic/fake_loss": 0.5, "critic/token_entropy": 1 - done / 40}
        | {f"critic/token_weight_{token:03}": weights[:, token] for token in range(tokens)}
    )
    return frame.to_csv(index=False), weights


def test_weights_are_those_of_the_history_as_multiples_of_equal_ones(tmp_path):
    plan = tiny_plan(
        tmp_path,
        CHANGES
        | {
            "arms.dmd_awd": {
                "trajectory": None,
                "refine": {"objective": {"discriminator": "awd_pool"}},
            }
        },
    )
    generator, results, recorded = np.random.default_rng(0), tmp_path / "r", {}
    for row in plan.rows:
        if row.arm in ("hd_awd_logit", "dmd_awd"):
            text, recorded[row.arm, row.seed] = history(
                generator, 16 if row.arm == "hd_awd_logit" else 0
            )
            publish(results, plan, row.stages["refine"], {"history.csv": text})
    figure, note = drawn("weights", plan, None, results)
    *images, entropy = [axis for axis in figure.axes if axis.get_label() != "<colorbar>"]
    weights = recorded["hd_awd_logit", 0]
    for axis, step in zip(images, (0, 2, 6, 12, 20), strict=True):
        (image,) = axis.images
        np.testing.assert_allclose(
            image.get_array(), np.maximum(16 * weights[step].reshape(4, 4), image.norm.vmin)
        )
        assert axis.get_xlabel() == f"step {step + 1}"
        assert (
            image.norm.vmin * image.norm.vmax == pytest.approx(1)
            and image.norm.vmax >= 16 * weights.max() * 0.999
        )
    assert [line.get_ydata()[-1] for line in entropy.lines] == [0.5] * 3
    assert "†" in images[0].get_ylabel() and "† Reconstruction" in note
    assert "AWD-pool† (made before weights were recorded)" in note


def test_curves_are_drawn_from_what_is_there(tmp_path):
    plan, results = tiny_plan(tmp_path, CHANGES), tmp_path / "r"
    text, _ = history(np.random.default_rng(0), 16)
    columns = {"generator/gan_gradient_rms": 3.0, "generator/my_method_gradient_rms": 2.0}
    text = pd.read_csv(io.StringIO(text)).assign(**columns).to_csv(index=False)
    for row in plan.rows:
        if row.arm == "hd_awd_logit":
            publish(results, plan, row.stages["refine"], {"history.csv": text})
    figure, note = drawn("curves", plan, None, results)
    shown = [axis for axis in figure.axes if axis.lines]
    assert [axis.get_ylabel() for axis in shown] == [
        "fake velocity loss",
        "matching gradient,\nroot mean square",
        "entropy of token\nweights† / log N",
    ]
    assert set(shown[0].lines[0].get_ydata()) == {0.5}
    assert set(shown[1].lines[0].get_ydata()) == {2.0}
    assert "Not available: MeanFlow, chain 0" in note or "MeanFlow → DMD, chain 0" in note


def images_of(classes: list[int], shade: int) -> dict[str, np.ndarray]:
    """Images of 4x4 in one shade plus their place, with these labels, as a stage keeps them."""
    images = np.stack([np.full((4, 4, 1), shade + i, np.uint8) for i in range(len(classes))])
    return {"arr_0": images, "labels": np.array(classes)}


def test_samples_stand_beside_their_distances_below_their_classes(tmp_path):
    plan, results = tiny_plan(tmp_path, CHANGES), tmp_path / "r"
    data = next(stage.id for stage in plan.stages.values() if stage.kind == "data")
    publish(results, plan, data, {"test.npz": images_of([1, 0, 0, 2], 200)})
    for row in plan.rows:
        publish(results, plan, row.stages["sample"], {"samples.npz": images_of([0, 1, 5], 9)})
    frame = synthetic(plan)
    figure, _ = drawn("samples", plan, frame, results)
    texts = [text.get_text() for text in figure.texts]
    assert {"class 0", "class 1", "class 5"} <= {*texts} and "class 2" not in texts
    (real, *rows) = [axis.images[0].get_array() for axis in figure.axes]
    assert [int(real[0, 5 * column]) for column in range(3)] == [201, 200, 255]  # none is a 5
    assert all([int(row[0, 5 * column]) for column in range(3)] == [9, 10, 11] for row in rows)
    labels = texts[1 : 2 * len(figure.axes) : 2]
    names = {label.partition(",")[0] for label in texts}
    assert "Teacher → DMD" in names and "Teacher → DMD + patch" not in names  # a control
    assert not any("equal total" in label for label in texts)
    numbers = Numbers(plan, frame, results)
    (teacher,) = [
        e for e in numbers.entries("teacher") if e.steps == max(plan.arms["teacher"].steps)
    ]
    assert for_people(numbers(teacher, "fd_test_64")) in texts and len(labels) == len(figure.axes)


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_to_draw_is_a_sentence(tmp_path, name):
    plan = tiny_plan(tmp_path, CHANGES)
    figure, _ = drawn(name, plan, None)
    assert figure.texts[0].get_text().startswith("nothing to draw yet: ")


def test_every_figure_has_a_caption_in_the_report():
    """One that a user adds is in the report without, until it has its text."""
    texts = [REPOSITORY / f"workflow/report/{name}.rst" for name in FIGURES]
    there = [path for path in texts if path.is_file()]
    assert len(there) >= 8
    assert all(len(path.read_text(encoding="utf-8").split()) > 20 for path in there)


@pytest.mark.slow
def test_what_anybodys_metrics_cannot_draw_leaves_the_picture_that_is_there(tmp_path):
    plan = tiny_plan(tmp_path, CHANGES)
    folder = tmp_path / "out" / plan.name / "figures"
    folder.mkdir(parents=True)
    (folder / "samples.png").write_bytes(b"a picture")
    written = figures.draw(
        plan, tmp_path / "nothing", tmp_path / "out", synthetic(plan), lenient=True
    )
    assert (folder / "samples.png").read_bytes() == b"a picture" and "samples" not in {
        path.stem for path in written
    }
    assert (folder / "forest.png").stat().st_size > 10_000
    with pytest.raises(UserError, match="samples.png: is there"):
        figures.draw(plan, tmp_path / "nothing", tmp_path / "out", synthetic(plan))
    with writing(Command(force=True)):
        figures.draw(plan, tmp_path / "nothing", tmp_path / "out", synthetic(plan))
    assert (folder / "samples.png").read_bytes() != b"a picture"


@pytest.mark.slow
def test_the_command_draws_from_a_file_of_metrics_alone(tmp_path):
    suite, metrics = write_suite(tmp_path, ONE_CHAIN), tmp_path / "metrics.csv"
    arguments = [
        "figures",
        "--suite",
        str(suite),
        "--results",
        str(tmp_path / "none"),
        "--out",
        str(tmp_path / "out"),
        "--metrics",
        str(metrics),
    ]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2 and result.output.startswith(f"hdbench: {metrics}: does not exist")
    plan = load_plan(str(suite))
    synthetic(plan).to_csv(metrics, index=False)
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    sizes = {
        path.stem: path.stat().st_size
        for path in (tmp_path / "out" / plan.name / "figures").glob("*.png")
    }
    assert set(sizes) == set(FIGURES) and min(sizes[name] for name in FROM_NUMBERS) > 50_000
