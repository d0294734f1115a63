"""FLOPs of sampling at the paper's scale: PyTorch's counter against closed forms."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from diffusers import AutoencoderKL
from torch import nn

from hdbench.cli import main
from hdbench.core.errors import UserError
from hdbench.experiments import flops
from hdbench.metrics.records import read_metrics
from tests.support.tiny import REPOSITORY

COMMITTED = REPOSITORY / "paper_tables" / "flops"


@pytest.fixture(scope="module")
def config() -> flops.Flops:
    return flops.read_flops_config(REPOSITORY / flops.CONFIG)


@pytest.fixture(scope="module")
def frame(config) -> pd.DataFrame:
    return flops.count(config)


def transformer(*, d: int, layers: int, tokens: int, patch: int, features: int, times: int) -> int:
    """2 for each multiplication and addition of DiT's products, `times` embeddings of time."""
    block = 2 * tokens * (3 + 1 + 4 + 4) * d * d + 4 * tokens**2 * d + 2 * 6 * d * d
    ends = 2 * 2 * tokens * patch * d + 2 * 2 * d * d
    return layers * block + ends + times * 2 * (features * d + d * d)


def decoder(arguments: dict) -> int:
    """The same of every convolution and linear layer of AutoencoderKL's decoder, and attention."""
    total = 0

    def count(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            assert module.groups == 1
            total += 2 * output.numel() * module.in_channels * module.kernel_size[0] ** 2
        elif isinstance(module, nn.Linear):
            total += 2 * output.numel() * module.in_features
        else:  # of one head, over all places
            _, channels, height, width = output.shape
            total += 4 * (height * width) ** 2 * channels

    with torch.device("meta"):
        network = AutoencoderKL(**arguments)
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)) or type(module).__name__ == "Attention":
                module.register_forward_hook(count)
        network.decode(torch.empty(1, 4, 32, 32))
    return total


def test_counts_are_those_of_closed_forms(config, frame):
    value = frame.set_index(["arm", "nfe", "metric"]).value
    size = {"d": 1152, "layers": 28, "tokens": 16 * 16, "patch": 4 * 2 * 2, "features": 256}
    teacher, student = (transformer(**size, times=times) for times in (1, 2))
    assert value["teacher", 250, "sampling_flops"] == 250 * teacher
    assert value["teacher_guided", 50, "sampling_flops"] == 2 * 50 * teacher
    assert value["student", 1, "sampling_flops"] == student
    decoded = decoder(config.autoencoder)
    assert value["student", 1, "sampling_flops_decoded"] == student + decoded
    assert value["teacher", 25, "sampling_flops_decoded"] == 25 * teacher + decoded
    table = flops.render(frame).set_index(["steps", "guidance", "decoder"]).ratio
    assert len(table) == 2 * 2 * len(config.steps)
    assert table[250, False, True] == (250 * teacher + decoded) / (student + decoded)


def test_one_accounting_alone_gives_the_published_ratio(config, frame):
    table = flops.render(frame)
    assert config.published.ratio in (REPOSITORY / "paper_tables/published.csv").read_text()
    agree = table[[f"{ratio:.1f}" == config.published.ratio for ratio in table.ratio]]
    assert agree[["steps", "guidance", "decoder"]].to_numpy().tolist() == [[250, False, True]]
    shown = flops.document_of(config, table)
    assert [row[-1].text for row in shown.rows if row[-1].emphasis == "bold"] == ["69.73"]
    assert "One accounting, bold, gives" in shown.caption
    none = config.model_copy(update={"published": flops.Published(ratio="3.1", source="x")})
    assert "No accounting gives" in flops.document_of(none, table).caption


def test_the_committed_counts_are_these(config, frame, tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    committed = read_metrics(COMMITTED / "metrics.csv")
    versions = ["protocol"]
    pd.testing.assert_frame_equal(committed.drop(columns=versions), frame.drop(columns=versions))
    flops.document.write(flops.document_of(config, flops.render(frame)), tmp_path / "flops")
    for kind in ("csv", "md", "tex"):
        name = f"flops.{kind}"
        assert (tmp_path / name).read_bytes() == (COMMITTED / name).read_bytes()


def test_claims_read_counts_of_the_present_configuration_alone(frame, tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    values = flops.read_flops(COMMITTED / "metrics.csv")
    counted = frame.set_index(["arm", "nfe", "metric"]).value
    for name, nfe in (("student", 1), ("teacher", 250)):
        of_arm = values(name if nfe == 1 else f"{name}@{nfe}", "sampling_flops")
        assert of_arm.loc[0] == counted[name, nfe, "sampling_flops"]
    assert values("teacher@7", "sampling_flops") is None
    assert values("student", "sampling_flops", "chain") is None
    missing = tmp_path / "none.csv"
    assert flops.read_flops(missing, missing_is_none=True) is None
    with pytest.raises(UserError, match=r"none\.csv: does not exist; make it with `hdbench flops`"):
        flops.read_flops(missing)
    other = tmp_path / "flops.yaml"
    shutil.copy(flops.CONFIG, other)
    other.write_text(other.read_text().replace("[250, 50, 25]", "[250]"))
    with pytest.raises(UserError, match="not the counts of .*flops.yaml"):
        flops.read_flops(COMMITTED / "metrics.csv", other)
    assert flops.read_flops(COMMITTED / "metrics.csv", other, missing_is_none=True) is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("suite: imagenet256", "suite: demo", "demo: has no autoencoder"),
        ("suite: imagenet256", "suite: mjhq", "mjhq: its network reads prompts"),
        ("layers_per_block: 2", "layers_per_block: two", "autoencoder: AutoencoderKL cannot"),
        ("layers_per_block: 2", "layer: 2", "autoencoder: AutoencoderKL cannot"),
        ("latent_channels: 4", "latent_channels: 8", "does not decode the suite's latents"),
        ('"69.7"', '"many"', "published.ratio"),
        ("[250, 50, 25]", "[250, 250]", "one value appears twice"),
    ],
)
def test_faults_of_the_configuration_are_one_sentence(tmp_path, monkeypatch, old, new, message):
    monkeypatch.chdir(REPOSITORY)
    text = Path(flops.CONFIG).read_text()
    assert old in text
    path = tmp_path / "flops.yaml"
    path.write_text(text.replace(old, new))
    result = CliRunner().invoke(main, ["flops", "--config", str(path), "--results", str(tmp_path)])
    assert result.exit_code == 2 and message in result.output, result.output
    assert result.output.startswith("hdbench: ") and result.output.count("\n") == 1
