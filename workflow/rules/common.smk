# What the rules share: the plan, paths, commands.
import shlex
import sys
from pathlib import Path

from hdbench.core.config import validate
from hdbench.core.errors import UserError
from hdbench.core.provenance import REGISTRATIONS
from hdbench.report.checks import check_reports
from hdbench.report.figures import FIGURES
from hdbench.stages.sources import changed_sources, refuse_changed_inputs
from hdbench.suite.jobs import write_jobs
from hdbench.suite.load import load_plan
from hdbench.suite.schema import RunConfig
from hdbench.suite.stage import KINDS

try:
    validate(RunConfig, config, "workflow/config.yaml or --config")
    PLAN = load_plan(config["suite"])
    TABLES, FIGURES = check_reports(PLAN), tuple(FIGURES.load())
    if workflow.is_main_process:
        refuse_changed_inputs(Path(config["results"]), PLAN.stages.values())
    if workflow.is_main_process and not workflow.output_settings.dryrun:
        write_jobs(PLAN, Path(config["results"]))
except UserError as error:
    print(f"hdbench: {error}", file=sys.stderr)
    sys.exit(2)

RESULTS = config["results"]
FOLDER, LOGS = f"{RESULTS}/{PLAN.name}", f"{RESULTS}/logs/{PLAN.name}"
THEORY = [f"{RESULTS}/theory/metrics.csv"] if config["theory"] != "none" else []
COUNTS = [f"{RESULTS}/flops/metrics.csv"] if config["flops"] != "none" else []
METRICS, REPORT = f"{FOLDER}/metrics.csv", f"{FOLDER}/report.html"
SUITE = ["--suite", config["suite"], "--results", RESULTS]
HDBENCH = [sys.executable, "-m", "hdbench"]
TEXTS = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parent.joinpath("report")
GPUS = int(config["device"] != "cpu")  # of a stage; a profile's set-resources goes before it

if workflow.is_main_process:
    for sentence in changed_sources(Path(RESULTS), PLAN.stages.values()):
        print(f"hdbench: {sentence}", file=sys.stderr)


def quoted(words):
    """Words for the shell, in which Snakemake finds nothing to fill in."""
    return shlex.join(words).replace("{", "{{").replace("}", "}}")


def command(*words):
    """The shell's words for a subcommand, whose messages go to the rule's log too."""
    return f"{quoted(HDBENCH)} --log {{log:q}} {quoted(words)}"


def stage_command():
    """The same for every kind's rule, which names its kind by a parameter."""
    options = [f"--{name}={config[name]}" for name in ("device", "sharding", "teachers")]
    how = quoted((*options, *SUITE))
    stage = f"{{params.kind}} {how} --id {{params.kind}}/{{wildcards.stage}} --threads {{threads}}"
    return f"{command('stage')} {stage}"


def manifest(stage):
    return f"{RESULTS}/stages/{stage}/manifest.json"


def parents(kind):
    """Manifests, of any age: a digest names its content, so a newer copy of a parent runs nothing again."""
    return lambda wildcards: [
        ancient(manifest(stage))
        for stage in PLAN.stage(f"{kind}/{wildcards.stage}").parents.values()
    ]


def arms(kind):
    """The arms that need a job's stage, for messages."""

    def named(wildcards):
        users = PLAN.arms_of(f"{kind}/{wildcards.stage}")
        return ", ".join(users) if 0 < len(users) < 5 else f"{len(users) or 'all'} arms"

    return named


def caption(name):
    """The report's text on a table or figure; None for an installed package's, which has none here."""
    return f"../report/{name}.rst" if (TEXTS / f"{name}.rst").is_file() else None


def probe_teachers(wildcards):
    """Those of this suite; `hdbench probes` says which of other suites are missing, and every mistake in the configuration."""
    from hdbench.experiments.probes.config import read_probes, teachers

    try:
        sources = teachers(read_probes(Path(config["probes"]))).values()
    except UserError:
        return []
    stages = [source.stage.id for source in sources]
    return [ancient(manifest(stage)) for stage in stages if stage in PLAN.stages]


def print_cost():
    """Of the jobs that a dry run plans; where planning fails there is no scheduler."""
    from hdbench.tools.cost.model import read_model
    from hdbench.tools.cost.report import report
    from hdbench.tools.doctor.report import look
    from hdbench.tools.doctor.sources import read_sources
    from hdbench.tools.rehearsal.counts import counts_of

    if workflow.scheduler:
        jobs = list(workflow.dag.needrun_jobs(exclude_finished=False))
        stages = [
            f"{job.rule.name}/{job.wildcards.stage}"
            for job in jobs
            if "stage" in job.wildcards.keys()
        ]
        local = len(jobs) - len(stages)
        try:
            counts = counts_of(PLAN, Path(RESULTS))
            table = report(PLAN, stages, read_model(), Path("paper_tables"), local, counts)
            print(f"\n{table}")
            findings = look(PLAN, Path(RESULTS), read_sources())
            absent = [finding for finding in findings if finding.state in ("missing", "broken")]
            for need in (finding.need for finding in absent):
                print(f"hdbench: {need.what} is not at {need.path}, or broken", file=sys.stderr)
            if absent:
                print(f"hdbench: `hdbench doctor {shlex.join(SUITE)}` says more", file=sys.stderr)
        except UserError as error:
            print(f"hdbench: {error}", file=sys.stderr)
