"""The data of `captions`: images are what their captions say, and what is held out is held out; the
CLIP and the table of prompts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hdbench.core.errors import UserError
from hdbench.datasets import captions
from hdbench.datasets.digits import originals
from hdbench.methods import OBJECTIVES, Contrastive
from hdbench.methods.base import Problem
from hdbench.networks import clip
from hdbench.networks.text import Conditions

SMALL = captions.Captions(train=400, score=200, test=300)
MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 4, "width": 32, "head_width": 16, "layers": 1},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def splits():
    return SMALL.build()


def test_every_caption_is_its_own_and_ten_categories_share_them():
    table = SMALL.prompts()
    assert len({row["prompt"] for row in table}) == len(table) == SMALL.classes == 1920
    assert {row["category"] for row in table} == set(captions.DIGITS)
    of_digit = [
        np.mean([row["held_out"] for row in table if row["category"] == digit])
        for digit in captions.DIGITS
    ]
    assert of_digit == pytest.approx([0.2] * 10, abs=0.01)
    for pair in zip(table[::2], table[1::2], strict=True):  # two captions of one combination
        assert len({row["held_out"] for row in pair}) == 1
    words = [set(row["prompt"].split()) for row in table]
    names = captions.DIGITS, tuple(captions.COLOURS), tuple(captions.BACKGROUNDS)
    for row, (digit, colour, _, background) in zip(
        words, captions.attributes_of(np.arange(1920)), strict=True
    ):
        assert {names[0][digit], names[1][colour], names[2][background]} <= {
            word.strip(",") for word in row
        }


def test_training_has_nothing_that_is_held_out_and_the_others_all(splits):
    table = SMALL.prompts()
    shares = {
        split: np.mean([table[row]["held_out"] for row in labels.tolist()])
        for split, (_, labels) in splits.items()
    }
    assert shares["train"] == 0 and 0.1 < shares["test"] < 0.3 and 0.1 < shares["score"] < 0.3


def test_an_image_is_what_its_caption_says(splits):
    """Read back from pixels: the background from the corners that are left empty, place and colour
    from the brightest change."""
    backgrounds, colours = (
        np.array(list(part.values())) for part in (captions.BACKGROUNDS, captions.COLOURS)
    )
    for images, labels in splits.values():
        for image, (_, colour, place, background) in zip(
            images.permute(0, 2, 3, 1).numpy().astype(float),
            captions.attributes_of(labels.numpy()),
            strict=True,
        ):
            cells = [image[y : y + 8, x : x + 8] for y, x in captions.PLACES.values()]
            assert np.argmax([cell.std((0, 1)).sum() for cell in cells]) == place
            empty = cells[place ^ 3].mean((0, 1))
            assert np.abs(backgrounds - empty).sum(1).argmin() == background
            ink = cells[place].reshape(-1, 3)[np.abs(cells[place] - empty).sum(-1).argmax()]
            assert np.abs(colours - ink).sum(1).argmin() == colour


def test_each_split_has_shapes_of_its_own(monkeypatch):
    """Originals marked by their level: the first half of train's for `train`, the rest for `score`,
    test's for `test`."""
    parts = originals(0)
    levels = {"train": np.where(np.arange(1347) < 673, 1.0, 0.5), "test": np.full(450, 0.25)}
    marked = {
        split: (np.ones((len(labels), 8, 8)) * levels[split][:, None, None], labels)
        for split, (_, labels) in parts.items()
    }
    monkeypatch.setattr(captions, "originals", lambda seed: marked)
    found = SMALL.build()
    for split, level in (("train", 1.0), ("score", 0.5), ("test", 0.25)):
        images, labels = found[split]
        _, colour, place, background = captions.attributes_of(labels.numpy()).T
        ink, ground = (
            np.array(list(table.values()))[index]
            for table, index in ((captions.COLOURS, colour), (captions.BACKGROUNDS, background))
        )
        for image, where, a, b in zip(
            images.permute(0, 2, 3, 1).numpy(), place, ink, ground, strict=True
        ):
            y, x = list(captions.PLACES.values())[where]
            assert (
                np.abs(image[y : y + 8, x : x + 8] - (b + level * (a - b))).max() <= 16
            )  # the light has sd 3


@pytest.mark.slow
def test_contrastive_training_learns_the_captions():
    """On 48 images of 8 captions apart from one another the right caption becomes the likeliest."""
    rows = torch.arange(0, 1920, 241)
    generator = np.random.default_rng(0)
    parts = originals(0)
    ink, digits = parts["train"]
    index = captions.drawn_originals(digits, rows.numpy(), generator)
    x = (
        captions.draw(ink[index], captions.attributes_of(rows.numpy()), generator).float() / 127.5
        - 1
    )
    torch.manual_seed(0)
    student = clip.Captioned(clip.build(MODEL), [row["prompt"] for row in SMALL.prompts()])
    (update,) = Contrastive().updates(Problem(student=student, learning_rate=1e-3))
    optimizer = torch.optim.AdamW(student.parameters(), 1e-3)
    first = None
    for _ in range(150):
        loss, scalars = update.loss({"x": x, "rows": rows})
        first = first or loss.item()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.3 * first and scalars["accuracy"] == 1
    images, texts = student.features(x, rows)
    assert torch.equal((images @ texts.T).argmax(1), torch.arange(8))
    assert "contrastive" in OBJECTIVES


def test_the_table_is_the_text_towers_own_tokens(tmp_path):
    """Its last token, through the projection, is what open_clip's encode_text gives."""
    torch.manual_seed(0)
    network = clip.build(MODEL).eval()
    prompts = [row["prompt"] for row in SMALL.prompts()][:300]
    clip.write_table(network, prompts, tmp_path)
    table = Conditions(tmp_path)
    assert len(table) == 301 and table.length == 24 and table.width == 32
    tokens, mask = table[torch.tensor([0, 299, 300])]
    last = tokens[torch.arange(3), mask.sum(1) - 1]
    wanted = network.encode_text(clip.tokenize(network, [prompts[0], prompts[299], ""]))
    torch.testing.assert_close(
        last @ network.text_projection, wanted.detach(), atol=1e-5, rtol=1e-5
    )


def test_wrong_models_and_long_prompts_are_one_sentence():
    with pytest.raises(UserError, match="not a model configuration of open_clip"):
        clip.build({"embed_dim": 16})
    with pytest.raises(UserError, match="1 of 2 prompts are longer"):
        clip.tokenize(clip.build(MODEL), ["short", "one two three " * 20])
