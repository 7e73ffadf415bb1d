# Two commands do everything on a fresh machine: `make demo` and `make test`. The rest is plain Snakemake in .venv.
PYTHON ?= python3
CORES ?= all
BIN := .venv/bin
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help demo test test-all lint report env lock clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

demo: env  ## create the environment and run the embedded default
	snakemake --cores $(CORES)
	@echo; cat results/tables/scores.md
	@echo "Pictures: results/parts/plain/cam/crf/overlays.val.png. A report: make report"

report: demo  ## the HTML report of the default, with all studies and the gallery
	snakemake --cores $(CORES) all studies gallery
	snakemake --cores 1 all studies gallery --report report.html

test: env lint  ## create the environment and run the tests (about six minutes)
	python -m pytest -m "not long" -n 2 --dist worksteal

test-all: env lint  ## every test, the long ones too
	python -m pytest -n 2 --dist worksteal

lint: env  ## ruff, snakefmt and snakemake --lint
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow
	snakemake --lint

env: .venv/installed  ## create or update the environment in .venv

.venv/installed: envs/requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("camflow needs Python 3.11 or later, this is " + sys.version.split()[0] + "; set PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r envs/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

lock:  ## pin every package anew (needs uv)
	uv pip compile --universal --quiet --no-header --python-version 3.11 --extra dev --constraint envs/constraints.txt pyproject.toml -o envs/requirements.txt
	python envs/pin_conda.py

clean:  ## remove what the default run made (keeps the environment)
	rm -rf results .snakemake
