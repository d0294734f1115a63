# hdbench: teacher -> trajectory distillation -> distribution matching -> samples -> metrics -> tables, figures, report.
# A suite's stages are keyed by digest, so rules only wire paths; what a stage does is `hdbench <kind> --help`.
import subprocess
import sys

from snakemake.utils import min_version

from hdbench.config import validate
from hdbench.errors import UserError
from hdbench.suite import TABLES, RunConfig, load_plan

min_version("9.0")


configfile: "workflow/config.yaml"


try:
    validate(RunConfig, config, "workflow/config.yaml or --config")
    PLAN = load_plan(config["suite"])
except UserError as error:
    print(f"hdbench: {error}", file=sys.stderr)
    sys.exit(2)

SUITE, RESULTS, RENDERED = config["suite"], config["results"], f"{config['tables']}/{PLAN.name}"
METRICS = f"{RESULTS}/{PLAN.name}/metrics.csv"
REPORT = f"{RESULTS}/{PLAN.name}/report.html"
HDBENCH = [sys.executable, "-m", "hdbench"]
STAGE = f"--suite {SUITE} --results {RESULTS} --device {config['device']}"


def manifest(stage):
    return f"{RESULTS}/stages/{stage}/manifest.json"


def parents(kind):
    return lambda wildcards: [manifest(stage) for stage in PLAN.stage(f"{kind}/{wildcards.stage}").parents.values()]


localrules:
    all_ablations,
    collect,
    tables,
    figures,


rule all_ablations:
    default_target: True
    input:
        expand(f"{RENDERED}/{{table}}.{{kind}}", table=TABLES, kind=("csv", "md", "tex")),
        expand(f"{RENDERED}/figures/{{figure}}.{{kind}}", figure=("samples", "curves", "spectrum"), kind=("png", "pdf")),


include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/render.smk"


onsuccess:
    subprocess.run([sys.executable, "-m", "snakemake", "--report", REPORT, "--quiet", "all", "--nolock", "--config",
                    *(f"{key}={value}" for key, value in config.items())], check=True)


onerror:
    print("hdbench: some stages failed; rendering what there is (missing cells are '-')", file=sys.stderr)
    for command in (["collect", "--partial"], ["tables", "--out", config["tables"]], ["figures", "--out", config["tables"]]):
        subprocess.run([*HDBENCH, *command, "--suite", SUITE, "--results", RESULTS], check=False)
