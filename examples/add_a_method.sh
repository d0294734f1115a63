#!/usr/bin/env bash
# Adds the method of examples/my_method, trains it beside its plain twin, and prints the table of both: about a minute.
# From the repository, in the environment: bash examples/add_a_method.sh [RESULTS]
set -euo pipefail
cd "$(dirname "$0")/.."
suite=examples/my_method/suite.yaml
results=${1:-results}

pip install --quiet --no-deps --no-build-isolation ./examples/my_method
for arm in plain mine; do
    hdbench arm "$arm" --suite "$suite" --results "$results"
done
hdbench collect --partial --suite "$suite" --results "$results"
hdbench tables --suite "$suite" --results "$results"
hdbench show --suite "$suite" --results "$results"
