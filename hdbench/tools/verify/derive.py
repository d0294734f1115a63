"""Tables, claims and documents re-derived from the committed metrics, and what differs in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from hdbench.core.errors import UserError
from hdbench.experiments import flops
from hdbench.experiments.probes import report as probes
from hdbench.experiments.probes.config import read_probes
from hdbench.experiments.report import csv
from hdbench.experiments.sources import experiments_of
from hdbench.experiments.theory import report as theory
from hdbench.experiments.theory.config import read_theory_config
from hdbench.metrics.records import read_metrics
from hdbench.report import document
from hdbench.report.claims import write_claims
from hdbench.report.numbers import Numbers
from hdbench.report.provenance import METRICS, STAGES, faults, is_collected, read_run
from hdbench.report.published import write_published
from hdbench.report.registration import rules_for
from hdbench.report.tables import write_tables
from hdbench.report.validation import expected_digests, of_suite
from hdbench.suite.load import load_plan
from hdbench.suite.plan import Plan
from hdbench.tools import prose
from hdbench.tools.verify.compare import differences

PUBLISHED = "published.csv"
KINDS = (".csv", ".md", ".tex")
READ = (METRICS, STAGES, PUBLISHED)  # what is not derived


def suites_in(tables: Path) -> list[str]:
    """The suites whose metrics are in a folder of tables."""
    return sorted(path.parent.name for path in tables.glob(f"*/{STAGES}"))


def check_suite(plan: Plan, tables: Path) -> Iterator[str]:
    """What differs of a suite's tables and claims, and of its record."""
    folder = tables / plan.name
    committed = read_metrics(folder / METRICS)
    run = read_run(folder)
    if METRICS in run.digests and not is_collected(folder / METRICS):
        yield f"{folder / METRICS}: is not the file that was collected with {folder / STAGES}"
    # of whatever version of the suite: what is compared is how its numbers are rendered
    frame = of_suite(plan, committed, [])
    frame = frame.assign(digest=expected_digests(plan, frame))
    with TemporaryDirectory() as place:
        out = Path(place)
        write_tables(plan, frame, out, out)
        numbers = Numbers(plan, frame, out)
        rules, status = rules_for(plan, committed, folder / METRICS, None, None)
        values, counts = experiments_of(tables)
        write_claims(numbers, rules, out, values, status, counts)
        # of one chain, an interval of a difference is of artifacts that are not committed
        yield from check_files(folder, out / plan.name, one_chain=numbers.alone)


def check_files(folder: Path, derived: Path, one_chain: bool = False) -> Iterator[str]:
    """What differs of the tables in a folder; with `one_chain` of csv alone, and not intervals."""
    for path in sorted(folder.iterdir()):
        if path.suffix not in (KINDS[:1] if one_chain else KINDS) or path.name in READ:
            continue
        new = derived / path.name
        if new.is_file():
            texts = (file.read_text(encoding="utf-8") for file in (path, new))
            yield from differences(path, *texts, without=one_chain)
        else:
            yield f"{path}: is not re-derived: the suite has no such table"


def check_published(tables: Path) -> Iterator[str]:
    """What differs of the tables of published numbers."""
    with TemporaryDirectory() as place:
        write_published((), tables / PUBLISHED, (), True, Path(place))
        yield from check_files(tables, Path(place))


def check_theory(tables: Path) -> Iterator[str]:
    config = read_theory_config(Path("workflow/theory.yaml"))
    table = theory.render(config, read_metrics(tables / "theory" / METRICS))
    texts = {"theory.csv": csv(table).decode(), "theory.md": theory.to_markdown(config, table)}
    for name, text in texts.items():
        path = tables / "theory" / name
        yield from differences(path, path.read_text(encoding="utf-8"), text)


def check_probes(tables: Path) -> Iterator[str]:
    config = read_probes(Path("workflow/probes.yaml"))
    intervals = probes.reported(read_metrics(tables / "probes" / METRICS))
    table = probes.render(config, intervals)
    paired = probes.differences(config, intervals)
    missing = probes.without_number(config, intervals)
    texts = {
        "probes.csv": csv(table).decode(),
        "differences.csv": csv(paired).decode(),
        "probes.md": probes.to_markdown(config, table, paired, missing),
    }
    for name, text in texts.items():
        path = tables / "probes" / name
        yield from differences(path, path.read_text(encoding="utf-8"), text)


def check_flops(tables: Path) -> Iterator[str]:
    frame = flops.read_numbers(tables / "flops" / METRICS, "flops")
    shown = flops.document_of(flops.read_flops_config(flops.CONFIG), flops.render(frame))
    with TemporaryDirectory() as place:
        document.write(shown, Path(place) / "flops")
        yield from check_files(tables / "flops", Path(place))


def check_document(source: Path, tables: Path) -> Iterator[str]:
    """What differs of a document from its source with the numbers filled in."""
    target = prose.rendered_path(source)
    filled = prose.fill(source.read_text(encoding="utf-8"), tables, str(source))
    if target.is_file():
        yield from differences(target, target.read_text(encoding="utf-8"), filled)
    else:
        yield f"{target}: is missing; `hdbench prose {source}` renders it"


def check_suite_of(name: str, tables: Path) -> Iterator[str]:
    return check_suite(load_plan(name), tables)


Check = Callable[[], Iterator[str]]


def checks(tables: Path, suite: str | None) -> dict[str, Check]:
    """All that can be re-derived, by what it is called; with `suite` its tables and claims alone.

    UserError where there is nothing.
    """
    suites = [name for name in suites_in(tables) if suite in (None, name)]
    named = {name: partial(check_suite_of, name, tables) for name in suites}
    if suite is None:
        experiments = {"theory": check_theory, "probes": check_probes, "flops": check_flops}
        for name, check in experiments.items():
            if (tables / name / METRICS).is_file():
                named[name] = partial(check, tables)
        if (tables / PUBLISHED).is_file():
            named["published numbers"] = partial(check_published, tables)
        for source in filter(Path.is_file, prose.sources()):
            named[str(source)] = partial(check_document, source, tables)
    if not named:
        of = f" of the suite {suite}" if suite else ""
        raise UserError(f"{tables}: has no metrics{of} that tables were rendered from")
    return named


def check_release(tables: Path) -> Iterator[str]:
    """What a release may not have, of every run whose record is there."""
    for name in suites_in(tables):
        yield from faults(read_run(tables / name), tables / name)


def sentences(check: Check) -> list[str]:
    """What a check finds; what cannot be read is a sentence, too."""
    try:
        return list(check())
    except UserError as error:
        return [str(error)]
    except (OSError, UnicodeDecodeError) as error:
        return [f"cannot be read: {error}"]
