# Two commands set up everything: `make demo` runs the default suite, `make test` the tests.
PYTHON ?= python3
VENV ?= .venv
CORES ?= all
SUITE ?= demo
INSTALLED := $(VENV)/.installed

.PHONY: demo run test bench clean

demo: run

run: $(INSTALLED)  ## any suite: make run SUITE=digits
	$(VENV)/bin/snakemake --cores $(CORES) all_ablations --config suite=$(SUITE)
	@$(VENV)/bin/hdbench show --suite $(SUITE)

test: $(INSTALLED)
	$(VENV)/bin/pytest

bench: $(INSTALLED)
	$(VENV)/bin/python benchmarks/step_cost.py

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hdbench needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --no-compile -e '.[test]'
	@touch $@

clean:  ## removes what was computed; the environment and rendered tables stay
	rm -rf results .snakemake
