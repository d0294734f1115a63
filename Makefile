# Two commands set up everything: `make demo` runs the default suite, `make test` the tests.
PYTHON ?= python3
VENV ?= .venv
CORES ?= all
SUITE ?= demo
INSTALLED := $(VENV)/.installed
PLUGIN := ./plugins/snakemake-executor-plugin-submitit
LOCK := requirements.lock
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: demo run test test-slurm bench clean

demo: run

run: $(INSTALLED)  ## any suite: make run SUITE=digits
	$(VENV)/bin/snakemake --cores $(CORES) all_ablations --config suite=$(SUITE)
	@$(VENV)/bin/hdbench show --suite $(SUITE)

test: $(INSTALLED)  ## on all cores, each file in one process; `make test-slurm` has those that need SLURM
	$(VENV)/bin/pytest --numprocesses logical --dist loadfile --ignore tests/slurm

test-slurm: $(INSTALLED)  ## on a real one-node SLURM, from Debian's packages, installed if missing
	command -v slurmctld >/dev/null || { $(SUDO) apt-get update && $(SUDO) apt-get install -y slurm-wlm munge; }
	$(VENV)/bin/pytest tests/slurm

bench: $(INSTALLED)
	$(VENV)/bin/python benchmarks/step_cost.py

$(INSTALLED): $(LOCK) pyproject.toml $(PLUGIN)/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hdbench needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --require-hashes -r $(LOCK)
	$(VENV)/bin/pip install --no-deps --no-build-isolation -e . -e $(PLUGIN)
	@touch $@

clean:  ## removes what was computed and rendered; the environment and published tables stay
	rm -rf results .snakemake

.PHONY: lint test-fast docs lock

lint: $(INSTALLED)  ## format, lint, workflow, types; nothing is changed
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/snakefmt --check Snakefile workflow
	$(VENV)/bin/python -m tests.support.lint_workflow
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python

test-fast: $(INSTALLED)  ## what is quick of the units and the science
	$(VENV)/bin/pytest --numprocesses logical --dist loadfile -m "(unit or science) and not slow" tests/unit tests/science

docs: $(INSTALLED)  ## the site in results/site/index.html; a warning or a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build

lock: $(INSTALLED)  ## what pyproject.toml asks for, at the locked versions where they still do; UPGRADE=--upgrade renews all
	$(VENV)/bin/uv pip compile --quiet pyproject.toml $(PLUGIN)/pyproject.toml --all-extras --universal --python-version 3.11 \
	    --generate-hashes --no-annotate --custom-compile-command "make lock" $(UPGRADE) --output-file $(LOCK)
