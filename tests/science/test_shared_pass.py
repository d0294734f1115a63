"""One pass for the direction and the head, against the two that it stands for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hdbench.core.seeds import Draws
from tests.science.test_distribution import SHARED, configured, networks_of, stage_two
from tests.science.test_objectives import Ledger

named = pytest.mark.parametrize(
    ("name", "settings"),
    SHARED,
    ids=[f"{name}-{number}" for number, (name, _) in enumerate(SHARED)],
)


def both(name: str, settings: dict) -> tuple[Any, Any]:
    """The objective that shares its passes, and the same with passes of their own."""
    separate = settings | {"gan": settings["gan"] | {"times": "own"}}
    return configured(name, **settings), configured(name, **separate)


def gradients(modules) -> dict[str, torch.Tensor]:
    """All that are there, by name of network and parameter; they are then gone."""
    taken = {
        f"{name}.{key}": parameter.grad.clone()
        for name, module in modules.items()
        for key, parameter in module.named_parameters()
        if parameter.grad is not None
    }
    for module in modules.values():
        module.zero_grad(set_to_none=True)
    return taken


@named
@pytest.mark.parametrize("kind", ["critic", "generator"])
def test_gradients_are_those_of_two_passes_at_equal_times_and_noise(kind, name, settings):
    shared, separate = both(name, settings)
    modules, updates, images, labels = stage_two(shared)
    networks = networks_of(shared, modules)
    (update,) = (update for update in updates if update.name == kind)
    b = update.draw(Draws((0,), images, labels, 8))
    if kind == "critic":
        assert torch.equal(b["t_gan"], b["t_fake"])
    else:
        assert not {"t_gan", "eps_gan"} & b.keys()
    loss, scalars = update.loss(b)
    loss.backward()
    one = gradients(modules)
    if kind == "generator":
        b |= {"t_gan": b["t_match"], "eps_gan": b["eps_match"]}
    loss, expected = getattr(separate, kind)(networks, b)
    loss.backward()
    two = gradients(modules)
    assert one.keys() == two.keys() and len(one) > 5
    for key, value in two.items():
        torch.testing.assert_close(one[key], value, rtol=1e-4, atol=1e-7)
    for key, value in expected.items():
        torch.testing.assert_close(scalars[key], value, rtol=1e-4, atol=1e-6)
    assert {"generator": "gan_gradient_rms", "critic": "head_loss"}[kind] in expected


@named
def test_a_pass_of_the_features_is_saved_in_each_update_that_shares(name, settings):
    """A generator update; with the head on the fake score each critic update, and its backward."""
    rows = {}
    for objective in both(name, settings):
        ledger = Ledger()
        _, updates, images, labels = stage_two(objective, ledger=ledger)
        for update in updates:
            ledger.rows.clear()
            loss, _ = update.loss(update.draw(Draws((0,), images, labels, 8)))
            loss.backward()
            rows[objective.gan.times, update.name] = ledger.rows.total()
    gan = both(name, settings)[0].gan
    features = max(gan.blocks) * 8
    assert rows["own", "generator"] - rows["shared", "generator"] == features
    on_fake = gan.feature_network == "fake"
    # a forward, and a backward to the weights
    saved = 3 * features if on_fake else 0
    assert rows["own", "critic"] - rows["shared", "critic"] == saved
