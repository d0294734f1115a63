# hdbench: teacher -> trajectory distillation -> distribution matching -> samples -> metrics -> tables, figures, report.
# A suite's stages are keyed by digest, so rules only wire paths; what a stage does is `hdbench stage <kind> --help`.
import atexit
import shlex
import subprocess
import sys
from pathlib import Path

from snakemake.utils import min_version

from hdbench.core.config import validate
from hdbench.core.errors import UserError
from hdbench.report.figures import FIGURES
from hdbench.report.tables import tables_of
from hdbench.suite.load import load_plan
from hdbench.suite.schema import RunConfig

min_version("9.8")


configfile: "workflow/config.yaml"
report: "workflow/report/workflow.rst"


try:
    validate(RunConfig, config, "workflow/config.yaml or --config")
    PLAN = load_plan(config["suite"])
    TABLES, FIGURES = tuple(tables_of(PLAN)), tuple(FIGURES.load())
except UserError as error:
    print(f"hdbench: {error}", file=sys.stderr)
    sys.exit(2)

RESULTS, RENDERED = config["results"], f"{config['tables']}/{PLAN.name}"
METRICS = f"{RESULTS}/{PLAN.name}/metrics.csv"
REPORT = f"{RESULTS}/{PLAN.name}/report.html"
SUITE = ["--suite", config["suite"], "--results", RESULTS]
OUT = ["--out", config["tables"]]
HDBENCH = [sys.executable, "-m", "hdbench"]
GPUS = int(config["device"] != "cpu")  # of a stage; a profile's set-resources goes before it


def command(*words):
    """The shell's words for a subcommand, quoted; a stage's rule adds its id and threads."""
    return shlex.join([*HDBENCH, *words, *SUITE]).replace("{", "{{").replace("}", "}}")


def stage_command(kind):
    run_time = ("--device", config["device"], "--sharding", config["sharding"])
    return command("stage", kind, *run_time) + f" --id {kind}/{{wildcards.stage}} --threads {{threads}}"


def manifest(stage):
    return f"{RESULTS}/stages/{stage}/manifest.json"


def parents(kind):
    """A digest names its content, so a parent that is merely newer (a copy, a checkout) runs nothing again."""
    return lambda wildcards: [ancient(manifest(stage)) for stage in PLAN.stage(f"{kind}/{wildcards.stage}").parents.values()]


def arms(kind):
    """Whose stage a job computes, for messages."""
    def named(wildcards):
        found = PLAN.arms_of(f"{kind}/{wildcards.stage}")
        return ", ".join(found) if 0 < len(found) < 5 else f"{len(found) or 'all'} arms"
    return named


def caption(name):
    """What the report says of a table or figure; one from an installed package may have no text here."""
    text = Path(workflow.basedir) / "workflow/report" / f"{name}.rst"
    return f"../report/{name}.rst" if text.is_file() else None


def probe_teachers(wildcards):
    """Those of this suite; `hdbench probes` says which of other suites are missing, and every mistake in the configuration."""
    from hdbench.experiments.probes.config import read_probes, teachers

    try:
        stages = [source.stage.id for source in teachers(read_probes(Path(config["probes"]))).values()]
    except UserError:
        return []
    return [ancient(manifest(stage)) for stage in stages if stage in PLAN.stages]


localrules:
    all_ablations,
    teachers,
    collect,
    tables,
    claims,
    figures,


rule all_ablations:
    default_target: True
    input:
        [manifest(stage) for stage in PLAN.stages],
        expand(f"{RENDERED}/{{table}}.{{kind}}", table=(*TABLES, "claims"), kind=("csv", "md", "tex", "html")),
        expand(f"{config['tables']}/theory/theory.{{kind}}", kind=("csv", "md", "pdf", "png")),
        expand(f"{RENDERED}/figures/{{figure}}.{{kind}}", figure=FIGURES, kind=("png", "pdf")),


rule teachers:
    input:
        [manifest(stage) for stage in PLAN.stages if stage.startswith("teacher/")],


include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/render.smk"


def print_cost():
    """Of the jobs that a dry run plans; where planning fails there is no scheduler."""
    from hdbench.tools.cost_model import read_model
    from hdbench.tools.cost import report

    if workflow.scheduler:
        jobs = list(workflow.dag.needrun_jobs(exclude_finished=False))
        stages = [f"{job.rule.name}/{job.wildcards.stage}" for job in jobs if "stage" in job.wildcards.keys()]
        try:
            print("\n" + report(PLAN, stages, read_model(), Path(config["tables"]), local=len(jobs) - len(stages)))
        except UserError as error:
            print(f"hdbench: {error}", file=sys.stderr)


if workflow.output_settings.dryrun:
    atexit.register(print_cost)  # Snakemake calls none of its hooks after a dry run


onsuccess:
    subprocess.run([sys.executable, "-m", "snakemake", "--report", REPORT, "--quiet", "all", "--nolock", "--config",
                    *(f"{key}={value}" for key, value in config.items())])


onerror:
    print("hdbench: some stages failed; rendering what there is (missing cells are '-')", file=sys.stderr)
    for options in (["collect", "--partial"], ["tables", *OUT], ["claims", *OUT], ["figures", *OUT]):
        subprocess.run([*HDBENCH, *options, *SUITE])
