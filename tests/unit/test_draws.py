"""A rank draws its rows of what one process draws, at their cost; draws have their laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from hdbench.core import seeds
from hdbench.core.seeds import Draws

IMAGES = torch.arange(200.0)[:, None, None, None].expand(200, 1, 5, 3)
LABELS = torch.arange(200) % 7
BATCH = 23


def drawn(parts=(), rank=0, batch=BATCH) -> list[torch.Tensor]:
    d = Draws(("axes", 3), IMAGES, LABELS, batch, parts, rank)
    return [*d.data(), d.noise(), d.uniform(-1, 2), d.label(), d.noise()]


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_ranks_and_parts_of_a_batch_draw_its_rows(world, count):
    whole = drawn()
    for number in range(count):
        parts = [range(rank + world * number, BATCH, world * count) for rank in range(world)]
        for rank, rows in enumerate(parts):
            for mine, all_rows in zip(drawn(parts, rank), whole, strict=True):
                assert torch.equal(mine, all_rows[rows.start : rows.stop : rows.step])


def test_a_rank_draws_as_many_words_as_it_has_rows(monkeypatch):
    taken = []
    philox = np.random.Philox

    class Counting:
        def __init__(self, **options):
            self.philox = philox(**options)

        def random_raw(self, size):
            taken.append(size)
            return self.philox.random_raw(size)

    monkeypatch.setattr(seeds.np.random, "Philox", Counting)
    sizes = []
    for world in (1, 4, 16):
        taken.clear()
        drawn([range(rank, 64, world) for rank in range(world)], batch=64)
        sizes.append(sum(taken))
    assert sizes == [sizes[0], sizes[0] // 4, sizes[0] // 16]


def test_draws_do_not_depend_on_the_batch_and_differ_from_one_another():
    small, large = drawn(batch=5), drawn(batch=9)
    assert all(torch.equal(a, b[:5]) for a, b in zip(small, large, strict=True))
    assert not torch.equal(small[2], small[5])
    other = Draws(("axes", 4), IMAGES, LABELS, 5)
    other.data()
    assert not torch.equal(other.noise(), small[2])


def test_the_laws_of_draws():
    """Kolmogorov-Smirnov and chi-square at 0.1%; rows and columns of noise are uncorrelated."""
    d = Draws((0,), IMAGES, LABELS, 20_000)
    noise = d.noise().flatten(1)
    assert noise.dtype == torch.float32 and noise.isfinite().all()
    assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 1e-3
    correlation = torch.corrcoef(noise.T) - torch.eye(15)
    assert correlation.abs().max() < 4.5 / 20_000**0.5
    neighbours = (noise[:-1] * noise[1:]).mean().item()
    assert abs(neighbours) < 4 / noise.numel() ** 0.5
    assert stats.kstest(d.uniform(2, 5).numpy(), stats.uniform(2, 3).cdf).pvalue > 1e-3
    rows = d.rows(torch.arange(200))[0]
    assert stats.chisquare(np.bincount(rows, minlength=200)).pvalue > 1e-3


def test_a_split_is_the_same_on_all_ranks_but_for_its_place():
    parts = [range(rank + 3, 12, 6) for rank in range(3)]  # rows 3 9, 4 10, 5 11
    splits = [Draws((0,), IMAGES, LABELS, 12, parts, rank).split(5) for rank in range(3)]
    assert [split.at for split in splits] == [1, 1, 0]
    assert {(split.before, split.after) for split in splits} == {(True, True)}
    last = Draws((0,), IMAGES, LABELS, 12, parts, 0)
    assert last.split(3) == (0, False, True)
    assert last.split(12) == (2, True, False)
    assert Draws((0,), IMAGES, LABELS, 12).split(4) == (4, True, True)
