"""A one-step student as a folder of diffusers with a model card, which samples without hdbench."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from diffusers import ModelMixin
from safetensors import SafetensorError
from safetensors.torch import load_file

from hdbench.core import files
from hdbench.core.errors import UserError, reason
from hdbench.core.outputs import check_outputs, record
from hdbench.networks.config import TransformerConfig
from hdbench.networks.text import Conditions
from hdbench.stages import artifact
from hdbench.stages.context import WEIGHTS, shape
from hdbench.suite.plan import Plan, find_stage
from hdbench.suite.stage import Stage
from hdbench.suite.training import ClipText
from hdbench.tools.export.card import card
from hdbench.tools.export.conversion import sana_to_diffusers, to_diffusers
from hdbench.tools.export.sampling import sampling_lines, sana_lines


def export(plan: Plan, results: Path, arm: str, seed: int | None, out: Path) -> list[Path]:
    """Write the student of an arm and a seed (None: the first) into the folder `out`; the paths.

    UserError for an arm that has no one-step student or is not trained yet, or whose network
    diffusers does not have.
    """
    stage = student_stage(plan, arm, seed)
    path, manifest = artifact.load(results, stage.id)
    suite = plan.suite
    conditions = None
    if suite.text:
        conditions = Conditions(artifact.load(results, stage.parents["text"])[0])
    network = suite.network.build(**shape(suite.data), mean_velocity=True, conditions=conditions)
    network.load_state_dict(load_file(path / WEIGHTS))
    if suite.text:
        model = sana_to_diffusers(network)
        lines = sana_lines(network, suite.text, suite.data.autoencoder)
    else:
        model, scale = to_diffusers(network)
        lines = sampling_lines(network, scale, suite.data)
    if out.is_dir():
        check_outputs(sorted(out.glob("[!.]*")))
    text = card(plan, results, arm, stage, manifest["environment"], lines, model)
    write(model, text, out)
    written = sorted(out.glob("[!.]*"))
    record({path: files.sha256(path) for path in written})
    return written


def write(model: ModelMixin, text: str, out: Path) -> None:
    """The model's files and its card into the folder: all, or none, and then no folder either."""
    made = next((place for place in (*reversed(out.parents), out) if not place.exists()), None)
    temporary = files.hidden(out / "export")
    try:
        with ExitStack() as unfinished:
            if made:
                unfinished.enter_context(files.removed_on_failure(made))
            unfinished.enter_context(files.removed_on_failure(temporary))
            temporary.mkdir(parents=True)
            model.save_pretrained(temporary)
            files.share(temporary)
            (temporary / "README.md").write_text(text, encoding="utf-8")
            for path in sorted(temporary.iterdir()):
                files.settle(path)
            for path in sorted(temporary.iterdir()):
                path.replace(out / path.name)
            temporary.rmdir()
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"--out = {out}: cannot be written ({reason(error)}); choose another folder"
        ) from None


def student_stage(plan: Plan, name: str, seed: int | None) -> Stage:
    """The last training stage of an arm that samples in one step."""
    arm = plan.arms.get(name)
    if arm and (fault := fault_of(plan, name)):
        raise UserError(
            f"--arm = {name!r}: {fault}; export takes a student that was trained for one step, of "
            "a network that diffusers has"
        )
    return find_stage(plan, "refine" if arm and arm.refine else "trajectory", name, seed, None)


def fault_of(plan: Plan, name: str) -> str | None:
    """Why an arm cannot be exported, if it cannot."""
    arm = plan.arms[name]
    network = plan.suite.network
    if arm.real:
        return "its images are real"
    if arm.baseline:
        return "it is a public network"
    if not (arm.trajectory or arm.refine):
        return "it samples from the teacher"
    if 1 not in arm.steps:
        return f"it samples in {', '.join(map(str, arm.steps))} steps, not in one"
    if isinstance(plan.suite.text, ClipText):
        return "its text encoder is the suite's own, which diffusers does not have"
    if plan.suite.autoencoder:
        return "its autoencoder is the suite's own, which diffusers does not have"
    if isinstance(network, TransformerConfig) and network.mlp_ratio != 4:
        return "its network's mlp_ratio is not diffusers' 4"
    return None
