"""A folder with a whole small run and a good file of each kind that a command reads."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from click.testing import CliRunner

from hdbench.cli import main
from hdbench.core.files import MANIFEST, sha256, write_together
from hdbench.report.collect import collect
from hdbench.report.latency import FULL, SINGLE, latency_file, sampler_key
from hdbench.report.provenance import FILES, METRICS, read_run
from hdbench.report.submissions import submit
from hdbench.stages import artifact
from hdbench.suite.jobs import write_jobs
from hdbench.suite.load import load_plan
from hdbench.suite.plan import Plan
from hdbench.suite.stage import versions_of
from tests.support import paper_scale
from tests.support.material import clip_weights, pictures, write_folder
from tests.support.tiny import REPOSITORY, run_until, tiny_plan, write_suite


@dataclass(frozen=True)
class Kind:
    """A file that commands read: where it lies under a ground, and these commands' words."""

    path: str
    commands: tuple[tuple[str, ...], ...]
    own: tuple[str, ...] = ()
    """Files that the commands may write, beside those under out/."""


@dataclass
class Ground:
    """A folder with a whole small run and one good file of each kind."""

    folder: Path
    kinds: dict[str, Kind] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)

    def keep(self) -> None:
        """Remember what its files are."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        self.contents = {str(path.relative_to(self.folder)): path.read_bytes() for path in files}

    def good(self, path: str) -> bytes:
        """What the file was."""
        return self.contents[path]


GOOD = {
    "workflow/cost.yaml": "workflow/cost.yaml",
    "workflow/sources.yaml": "workflow/sources.yaml",
    "workflow/flops.yaml": "inputs/flops.yaml",
    "tests/support/claims.yaml": "workflow/claims.yaml",
    "tests/support/theory.yaml": "inputs/theory.yaml",
    "tests/support/probes.yaml": "inputs/probes.yaml",
    "paper_tables/published.csv": "paper_tables/published.csv",
}
SUITE = ("--suite", "inputs/tiny.yaml", "--results", "results")


def prepare(folder: Path, binary: bool = False) -> Ground:
    """Run teacher, td and real_test of the tiny suite, and write a good file of each kind.

    `binary`: of images, tensors, archives, bundles and pipelines too, which takes a minute.
    """
    from tests.unit.test_tables import synthetic

    inputs = folder / "inputs"
    inputs.mkdir(parents=True)
    with in_folder(folder):
        plan = tiny_plan(inputs, {"seeds": [0, 1]})
        for row in plan.rows:
            if row.arm in ("teacher", "td", "real_test") and row.seed in (0, None):
                run_until(plan, Path("results"), row.stages["evaluate"])
        CliRunner().invoke(main, ["collect", "--partial", *SUITE], catch_exceptions=False)
        synthetic(plan).to_csv(inputs / "metrics.csv", index=False)
        shutil.copy(inputs / "metrics.csv", inputs / "other.csv")
        for source, target in GOOD.items():
            (folder / target).parent.mkdir(exist_ok=True)
            shutil.copy(REPOSITORY / source, folder / target)
        run = read_run(Path("results") / plan.name)
        digests = {METRICS: sha256(inputs / METRICS)}
        write_together(run.model_copy(update={"digests": digests}).contents(inputs))
        words = ["preregister", "--seeds", "0-1", "--rules", "workflow/claims.yaml"]
        words += ["--suite", "inputs/tiny.yaml", "--out", "inputs/prereg.yaml"]
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output
        write_jobs(plan, Path("results"))
        sampler = sampler_key(plan, next(row for row in plan.rows if row.arm == "td"))
        latency = {"milliseconds": {sampler: {SINGLE: 1.5, FULL: 9.0}}, "provenance": {"a": "b"}}
        latency_file(plan, Path("results")).write_text(json.dumps(latency))
        rows = [
            {"filename": f"{n}/samples/0.png", "tag": tag, "prompt": tag, "correct": n > 0}
            for n, tag in enumerate(("counting", "counting", "colors", "colors"))
        ]
        (inputs / "geneval.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (inputs / "dpg.txt").write_text("a.png, 0.5, 1.0, 0.75\nb.png, 0.0, 0.5, 0.25\n")
        (inputs / "vqa.csv").write_text("image,prompt,score\na.png,a dog,0.5\nb.png,a cat,0.25\n")
        write_folder(folder / "images", pictures(3, 0), ["a", "b", "c"])
        prompts = {name: {"prompt": f"a {name}", "category": "x"} for name in "abc"}
        (inputs / "prompts.json").write_text(json.dumps(prompts))
        (inputs / "notes.in.md").write_text("# Notes\n\nA line of text.\n")
    ground = Ground(folder)
    ground.kinds = kinds(plan, folder)
    if binary:
        with in_folder(folder):
            ground.kinds |= of_recipes() | of_tensors(plan) | of_bundles() | of_pipelines()
    ground.keep()
    return ground


OWN = (METRICS, *FILES, "environment.csv", ".hdbench")  # of `collect`
FURTHER = {  # that read a manifest of this kind of stage
    "teacher": ("ship SUITE --seed 0 OUT",),
    "evaluate": ("ship SUITE --seed 0 OUT",),
    "trajectory": ("export --arm td SUITE OUT",),
}


def kinds(plan: Plan, folder: Path) -> dict[str, Kind]:
    """Every kind of file, by name; SUITE, METRICS and so on stand for options."""
    of_suite = "--suite inputs/tiny.yaml --results results"
    words = {
        "SUITE": of_suite,
        "METRICS": "--metrics inputs/metrics.csv",
        "CLIP": f"--weights clip={clip_weights()} --allow other-weights --cache out/cache",
        "OUT": "--out out",
    }
    results = f"results/{plan.name}"

    def kind(path: str, *commands: str, own: Iterable[str] = ()) -> Kind:
        filled = [[words.get(w, w).split() for w in text.split()] for text in commands]
        return Kind(path, tuple(tuple(sum(parts, [])) for parts in filled), tuple(own))

    collected = [
        *(f"{results}/{name}" for name in OWN),
        *(f"{results}/claims.{suffix}" for suffix in ("csv", "md", "tex", "html")),
    ]
    reading = ("plan SUITE", "status SUITE", "cost SUITE OUT", "collect --partial SUITE")
    benchmark = "--numbers paper_tables/published.csv --benchmark"
    evaluate = "evaluate --samples images --protocol clip_score --prompts inputs/prompts.json CLIP"
    by_name = {
        "suite": kind(
            "inputs/tiny.yaml",
            *("plan SUITE", "plan SUITE", "plan SUITE", "status SUITE", "doctor SUITE"),
            *("cost SUITE OUT", "cost --memory SUITE"),
        ),
        "metrics": kind(
            "inputs/metrics.csv",
            *("tables METRICS SUITE OUT", "claims METRICS SUITE OUT"),
            "compare inputs/other.csv inputs/metrics.csv",
            "compare inputs/metrics.csv inputs/other.csv --all --out out/compared.csv",
            "published METRICS --benchmark imagenet256 OUT",
        ),
        "rules": kind(
            "workflow/claims.yaml",
            "claims --rules workflow/claims.yaml METRICS SUITE OUT",
            "preregister --seeds 0-1 --rules workflow/claims.yaml --suite inputs/tiny.yaml "
            "--out out/prereg.yaml",
        ),
        "prereg": kind(
            "inputs/prereg.yaml", "claims --prereg inputs/prereg.yaml METRICS SUITE OUT"
        ),
        "published": kind(
            "paper_tables/published.csv",
            f"published {benchmark} imagenet256 OUT",
            f"published {benchmark} mjhq OUT",
        ),
        "theory": kind("inputs/theory.yaml", "theory --config inputs/theory.yaml --results out"),
        "probes": kind("inputs/probes.yaml", "probes --config inputs/probes.yaml --results out"),
        "flops": kind("inputs/flops.yaml", "flops --config inputs/flops.yaml --results out"),
        "cost": kind("workflow/cost.yaml", "cost SUITE OUT", "cost --memory SUITE"),
        "sources": kind("workflow/sources.yaml", "doctor SUITE"),
        **{
            f"{name} of the run": kind(
                f"{results}/{name}",
                *("tables --release SUITE OUT", "claims SUITE OUT"),
                own=collected,
            )
            for name in FILES
        },
        **{
            f"{name} of a kept run": kind(
                f"inputs/{name}", "collect --partial --keep inputs/metrics.csv SUITE", own=collected
            )
            for name in FILES
        },
        "latency": kind(f"{results}/latency.json", "collect --partial SUITE", own=collected),
        "geneval": kind("inputs/geneval.json", "import geneval inputs/geneval.json --partial"),
        "dpg": kind("inputs/dpg.txt", "import dpg_bench inputs/dpg.txt --partial"),
        "vqascore": kind("inputs/vqa.csv", "import vqascore inputs/vqa.csv"),
        "prompts": kind("inputs/prompts.json", evaluate),
        "prose": kind(
            "inputs/notes.in.md",
            "prose inputs/notes.in.md OUT",
            own=["inputs/notes.md", "inputs/.hdbench"],
        ),
    }
    for stage in plan.stages:
        path = f"results/stages/{stage}/manifest.json"
        if (folder / path).is_file():
            name = stage.split("/")[0]
            again = f"stage {name} --id {stage} SUITE"
            more = FURTHER.get(name, ())
            made_anew = [str(file.relative_to(folder)) for file in (folder / path).parent.iterdir()]
            own = [*collected, *made_anew]
            by_name[f"manifest of {name}"] = kind(path, *reading, *more, again, own=own)
            by_name[f"job of {name}"] = kind(f"results/stages/{stage}.json", again, again)
    return by_name


def kind(path: str | Path, *commands: str) -> Kind:
    """A file and the command lines that read it; outputs go into out/."""
    return Kind(str(path), tuple(tuple(text.split()) for text in commands))


def of_tensors(plan: Plan) -> dict[str, Kind]:
    """Images, samples, weights and checkpoints of the run, and a CLIP."""
    from tests.unit.test_status import begin

    stages = {name: Path("results/stages") / stage for name, stage in first_stages(plan).items()}
    shutil.copytree(clip_weights(), "clip")
    scored = (
        "evaluate --samples images --protocol clip_score --prompts inputs/prompts.json "
        "--weights clip=clip --allow other-weights --allow conversion --cache out/cache"
    )
    classified = (
        f"evaluate --samples {stages['sample']}/samples.npz --protocol classifier --n 30 "
        f"--reference {stages['reference']} --cache out/cache"
    )
    shipping = f"ship {' '.join(SUITE)} --seed 0 --out out"
    stage = next(stage for stage in plan.stages if stage.startswith("refine/"))
    work = begin(plan, Path("results"), stage, step=3, spent=1.0)
    return {
        "image": kind("images/b.png", scored, scored),
        "clip's settings": kind("clip/open_clip_config.json", scored),
        "clip's weights": kind("clip/open_clip_model.safetensors", scored),
        "samples": kind(stages["sample"] / "samples.npz", classified, classified),
        "reference": kind(stages["reference"] / "reference.npz", classified),
        "weights of the classifier": kind(stages["classifier"] / "weights.safetensors", classified),
        "weights of the teacher": kind(stages["teacher"] / "weights.safetensors", shipping),
        "weights of a student": kind(
            stages["trajectory"] / "weights.safetensors",
            f"export --arm td {' '.join(SUITE)} --out out",
        ),
        "curve of the teacher": kind(stages["teacher"] / "history.csv", shipping),
        "checkpoint": kind(
            work.path.absolute().relative_to(Path.cwd()) / "checkpoint.safetensors",
            f"status {' '.join(SUITE)}",
            f"tensorboard {' '.join(SUITE)} --out out",
        ),
    }


def first_stages(plan: Plan) -> dict[str, str]:
    """The first stage of each kind that is done."""
    done = {path.parent.relative_to("results/stages") for path in Path().rglob(MANIFEST)}
    names = [stage for stage in plan.stages if Path(stage) in done]
    return {name.split("/")[0]: name for name in reversed(names)}


def of_bundles() -> dict[str, Kind]:
    """The files of a bundle, beside the results of a whole run."""
    from tests.unit.test_submissions import COMMIT
    from tests.unit.test_tables import SEEDS, fake_run

    plan = load_plan(str(write_suite(Path("inputs"), SEEDS, "three")))
    results = Path("finished")
    fake_run(results, plan)
    for stage in plan.stages.values():
        path = artifact.folder(results, stage.id) / MANIFEST
        facts = {
            "versions": versions_of(stage.kind, stage.config),
            "environment": {"commit": COMMIT},
        }
        path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    collect(plan, results)
    submit(plan, results, ["hd"], "mine", 3, Path("bundle"))
    of_suite = "--suite inputs/three.yaml --results finished"
    metrics = f"finished/{plan.name}/metrics.csv"
    measured = next(stage for stage in plan.stages if stage.startswith("evaluate/"))
    return {
        f"{path.name} of a bundle": kind(
            path,
            "validate bundle",
            f"leaderboard bundle {of_suite} --metrics {metrics} --out out/board",
        )
        for path in sorted(Path("bundle").iterdir())
        if path.is_file()
    } | {
        f"{name} of a stage": kind(
            f"finished/stages/{measured}/{name}",
            f"tables {of_suite} --out out",
            f"submit --arm hd --title a --settings-tried 1 {of_suite} --out out",
        )
        for name in ("metrics.csv", "influence.npz", "design.npz")
    }


def of_pipelines() -> dict[str, Kind]:
    """Suites of public checkpoints with what they need: images, archives, pipelines, weights."""
    suites = paper_scale.write(Path("toy"))
    plans = {name: load_plan(str(path)) for name, path in suites.items()}

    def command(suite: str, stage: str, words: str = "") -> str:
        if words:
            return f"{words} --suite {suites[suite].relative_to(Path.cwd())} --results out"
        stage_id = next(s for s in plans[suite].stages if s.startswith(f"{stage}/"))
        return command(suite, stage, f"stage {stage} --id {stage_id}")

    def doctor(suite: str) -> str:
        return command(suite, "", "doctor")

    pictures_, mjhq = "imagenet256", "mjhq_1024"
    return {
        "suite of checkpoints": kind(
            "toy/toy_imagenet256.yaml", command(pictures_, "", "plan"), doctor(pictures_)
        ),
        "suite of prompts": kind("toy/toy_mjhq_1024.yaml", command(mjhq, "", "plan"), doctor(mjhq)),
        "checkpoint of SiT": kind(
            "toy/weights/sit.pt", command(pictures_, "teacher"), doctor(pictures_)
        ),
        "photograph": kind("toy/images/class1/01.jpg", command(pictures_, "data")),
        "settings of KL": kind(
            "toy/weights/kl/config.json", command(pictures_, "data"), doctor(pictures_)
        ),
        "weights of KL": kind(
            "toy/weights/kl/diffusion_pytorch_model.safetensors",
            command(pictures_, "data"),
            doctor(pictures_),
        ),
        "archive": kind("toy/text_image.tar", command(mjhq, "data"), doctor(mjhq)),
        "prompts of MJHQ": kind("toy/mjhq/meta_data.json", doctor(mjhq), command(mjhq, "data")),
        "settings of Sana": kind(
            "toy/weights/sana/transformer/config.json", doctor(mjhq), command(mjhq, "teacher")
        ),
        "tokenizer of Sana": kind("toy/weights/sana/tokenizer/tokenizer.json", doctor(mjhq)),
        "encoder of Sana": kind("toy/weights/sana/text_encoder/config.json", doctor(mjhq)),
    }


def of_recipes() -> dict[str, Kind]:
    """A recipe that a suite names, and numbers that are tuned by."""
    from tests.unit import test_tuning

    for name in ("recipes", "suites"):
        shutil.copytree(REPOSITORY / "workflow" / name, Path("workflow") / name)
    gan = {"blocks": [1, 2], "parameters": 2000}
    changes = {
        "arms.hd_patch": {"recipe": "dmd", "refine": {"steps": 3, "objective": {"gan": gan}}}
    }
    write_suite(Path("inputs"), changes, "of_recipe")
    tuning = load_plan("local_flaws_tuning")
    test_tuning.metrics(tuning, {}).to_csv("inputs/tuning.csv", index=False)
    planning = "plan --suite inputs/of_recipe.yaml --results out"
    return {
        "recipe": kind("workflow/recipes/dmd.yaml", planning),
        "shared recipe": kind("workflow/recipes/_matching.yaml", planning),
        "tuning": kind(
            "inputs/tuning.csv",
            "tuned --suite local_flaws_tuning --metrics inputs/tuning.csv --results out",
        ),
    }


@contextmanager
def in_folder(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
