"""What every registered objective and head gives: its facts, and draws that its losses read."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hdbench.core import distributed
from hdbench.core.seeds import Draws
from hdbench.flow.path import guided
from hdbench.methods import DISTRIBUTION, OBJECTIVES, PRETRAINING, TRAJECTORY
from hdbench.methods.base import Batch, Objective, Passes, Problem, Update, total
from hdbench.methods.discriminators import HEADS, build_head
from hdbench.networks.classifier import Classifier
from hdbench.networks.config import ClassifierConfig
from hdbench.networks.convolutional import ConvolutionalAutoencoder, ConvolutionalConfig
from tests.science.test_distribution import VARIANTS, a_classifier, configured
from tests.science.test_objectives import GRID, head, rng, small_transformer, tokens


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_has_its_facts(name):
    cls = OBJECTIVES[name]
    objective = cls()
    assert objective.name == name and cls.__doc__ and cls.__doc__ != Objective.__doc__
    assert "title" in vars(cls) and cls.title and cls.version >= 1
    assert cls.role in ("autoencoder", "classifier", "clip", "teacher", "student")
    assert (objective.sampler() is None) == (cls.role in ("autoencoder", "classifier", "clip"))
    assert objective.rounds() >= 1 and (objective.teacher_steps() or 1) >= 1
    for guided_teacher in (False, True):
        passes = objective.passes(4, guided_teacher)
        assert passes and all(isinstance(kinds, Passes) for kinds in passes.values())
        assert all(min(kinds) >= 0 < max(kinds) for kinds in passes.values())
    assert total(objective.passes(4, True)) >= total(objective.passes(4, False)) > 0


def test_titles_are_different_and_the_groups_hold_every_objective_once():
    assert len({cls.title for cls in OBJECTIVES.values()}) == len(OBJECTIVES)
    builtin = [*PRETRAINING, *TRAJECTORY, *DISTRIBUTION]
    assert [cls for cls in OBJECTIVES.values() if cls.__module__.startswith("hdbench.")] == builtin
    assert {cls.role for cls in PRETRAINING} == {"autoencoder", "classifier", "clip", "teacher"}
    assert {cls.role for cls in (*TRAJECTORY, *DISTRIBUTION)} == {"student"}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_has_its_facts(name):
    """And learns token weights if and only if it says so."""
    cls = HEADS[name]
    assert cls.name == name and cls.__doc__ and "title" in vars(cls) and cls.title
    assert isinstance(cls.reconstruction, bool) and cls.version >= 1
    weights = head(cls, queries=2.0)(tokens()).token_weights
    assert (weights.std() > 1e-3) == cls.adaptive
    assert torch.allclose(weights, torch.full_like(weights, 1 / GRID**2)) != cls.adaptive


def test_titles_of_heads_are_different():
    assert len({cls.title for cls in HEADS.values()}) == len(HEADS)


class Towers(nn.Module):
    """A CLIP in little: normalised features of images and captions, and a scale."""

    def __init__(self):
        super().__init__()
        self.images = nn.Linear(64, 8)
        self.texts = nn.Embedding(3, 8)

    def forward(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        images, texts = self.images(x.flatten(1)), self.texts(rows)
        return F.normalize(images, dim=1), F.normalize(texts, dim=1), torch.tensor(10.0)


def student_of(role: str) -> nn.Module:
    if role == "autoencoder":
        config = ConvolutionalConfig(width=8, factor=2, channels=3)
        return ConvolutionalAutoencoder(config, image_size=8, channels=1)
    if role == "clip":
        return Towers()
    if role == "classifier":
        config = ClassifierConfig(width=4, features=8)
        return Classifier(config, image_size=8, channels=1, attributes=(3,))
    return small_transformer(role == "student", seed=1)


def updates_of(objective: Objective) -> tuple[list[Update], Draws]:
    teacher = small_transformer(False).requires_grad_(False)
    images, labels = torch.rand(20, 1, 8, 8, generator=rng()) * 2 - 1, torch.arange(20) % 3
    problem = Problem(
        student=student_of(objective.role),
        learning_rate=1e-3,
        teacher=teacher,
        teacher_velocity=guided(teacher, 1.5),
        guide=lambda network: guided(network, 1.5),
        copy_teacher=lambda: small_transformer(False, seed=2),
        head=lambda name, gan, *axes: build_head(
            name, layers=len(gan.blocks), width=16, grid=4, parameters=gan.parameters
        ),
        classifier=a_classifier() if objective.reads_classifier else None,
        pairs=(torch.randn(20, 1, 8, 8, generator=rng(1)), images, labels),
    )
    return objective.updates(problem), Draws((0,), images, labels, 8)


def read_by(update: Update, b: Batch) -> set[str]:
    """Names of the batch without which there is no loss."""
    names = set()
    for name in b:
        try:
            update.loss({other: drawn for other, drawn in b.items() if other != name})
        except (KeyError, TypeError, AttributeError):
            names.add(name)
    return names


CASES = {f"{name}-defaults": cls() for name, cls in OBJECTIVES.items()} | {
    "-".join(map(str, [name, number, *settings])): configured(name, **settings)
    for number, (name, settings) in enumerate(VARIANTS)
}


@pytest.mark.parametrize("case", CASES)
def test_an_update_draws_exactly_what_its_loss_reads(case, monkeypatch):
    """With the whole batch there is a loss; without any one of its tensors there is none.

    And ranks exchange sums inside it only if the objective says so.
    """
    objective = CASES[case]
    exchanged = []
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda x, **_: exchanged.append(x))
    updates, draws = updates_of(objective)
    for update in updates:
        b = update.draw(draws)
        assert all(len(drawn) == 8 for drawn in b.values() if isinstance(drawn, Tensor))
        loss, scalars = update.loss(b)
        assert loss.ndim == 0 and loss.isfinite() and loss.requires_grad
        assert scalars and all(value.ndim == 0 for value in scalars.values())
        assert update.modules.keys() == update.learning_rates.keys()
        assert b.keys() == read_by(update, b)
    assert objective.exchanges or not exchanged
