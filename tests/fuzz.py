"""Random faults in the inputs of every command, for a time: `python -m tests.fuzz --seconds 600`.

Prints the number of inputs and of failures by command, and of each kind of failure one input, which
`--keep` writes into a folder.  The exit code is 1 if anything failed.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.support.fuzzing import Case, cases, nothing_is_computed, outcome
from tests.support.grounds import Ground, prepare
from tests.support.mutations import put


def fuzz(ground: Ground, seconds: float, names: tuple[str, ...], first_seed: int):
    """Counts of inputs and failures by command, and the first case of each failure."""
    inputs: collections.Counter[str] = collections.Counter()
    failures: collections.Counter[str] = collections.Counter()
    firsts: dict[str, tuple[int, Case]] = {}
    end = time.monotonic() + seconds
    number = first_seed
    while time.monotonic() < end:

        @seed(number)
        @settings(
            max_examples=200,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(cases(ground, names))
        def examples(case: Case) -> None:
            if time.monotonic() > end:
                return
            inputs[case.command] += 1
            problem, _ = outcome(ground, case)
            if problem:
                failures[case.command] += 1
                print(f"{case.command}: {problem}", file=sys.stderr, flush=True)
                firsts.setdefault(f"{case.command}: {problem[:90]}", (number, case))

        examples()
        number += 1
    return inputs, failures, firsts


def report_good(ground: Ground) -> None:
    """Say which good inputs are refused, since no fault in these would be tried."""
    for name, kind in ground.kinds.items():
        for words in dict.fromkeys(kind.commands):
            problem, code = outcome(
                ground, Case(words, kind.path, ground.good(kind.path), kind.own)
            )
            if problem or (code and name != "prereg"):  # which is in no commit here
                print(f"good {name}: code {code}: {' '.join(words)} {problem}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--kinds", nargs="*", default=[], help="Of files, by default all.")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--keep", type=Path, help="Folder for an input of each kind of failure.")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as monkeypatch:
        with nothing_is_computed(monkeypatch):
            ground = prepare(Path(name) / "ground", binary=True)
            report_good(ground)
            inputs, failures, firsts = fuzz(
                ground, options.seconds, tuple(options.kinds), options.seed
            )
    for command, count in sorted(inputs.items()):
        print(f"{command:24}{count:8}{failures[command]:8}")
    print(f"{'all':24}{inputs.total():8}{failures.total():8}")
    for index, (problem, (number, case)) in enumerate(firsts.items()):
        print(f"\n{problem}\n  seed {number}: {' '.join(map(repr, case.words))}")
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
            put(options.keep / f"{index}-{Path(case.path).name or 'none'}", case.content or b"")
            about = {"problem": problem, "words": case.words, "path": case.path}
            (options.keep / f"{index}.json").write_text(json.dumps(about))
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
