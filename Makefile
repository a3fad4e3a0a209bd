# Each target sets up what it needs (.venv with the packages of requirements.txt) and then does its one job.
#   make setup                                .venv alone, which all other targets make when needed
#   make repro [PRESET=name in presets.yaml]   every number and figure again: the DVC pipeline, in runs/default or runs/PRESET
#   make keep [PRESET=name] [NAME=name]       copy a run's report, metrics, tables, figures and parameters to comparisons/, by the preset's name or this
#   make test                                 notebooks as tests, then tests/
#   make lab                                  JupyterLab, kernel "python3" = .venv
#   make docs [MODELS="a b"]                  the site, in _docs/html; its steering page with these models (names or folders)
#   make steering [FURNITURE=folder]          the pictures of the steering page again, in docs/steering
#   make bench                                speed and memory tables
#   make export | readme | requirements       sie/ from nbs/, README.md from nbs/index.ipynb, requirements.txt from settings.ini
#   make check                                are sie/, README.md and the notebooks what they should be?
# ARGS="..." is handed on to the program that a target runs.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup repro keep test lab docs steering bench export readme requirements check

PYTHON ?= $(shell for p in python3 python3.11 python3.12; do $$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && echo $$p && break; done)
SETUP := .venv/.setup
# dvc, papermill and the notebooks' kernel find the programs of .venv first
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# uv installs there, whatever environment is active
export VIRTUAL_ENV := $(CURDIR)/.venv
# torch takes seconds to import where Python may not keep its bytecode, and dozens of processes import it
unexport PYTHONDONTWRITEBYTECODE

help:
	@sed -n '2,11s/^# *//p' Makefile

setup: $(SETUP)

$(SETUP): requirements.txt settings.ini setup.py
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	python -m pip install --quiet uv
	uv pip install --quiet --require-hashes -r requirements.txt
	uv pip install --quiet --no-build-isolation --no-deps -e .
	mkdir -p .venv/etc/ipython && echo 'c.IPKernelApp.log_level = 40' > .venv/etc/ipython/ipython_kernel_config.py   # errors alone: each kernel warns of its own TCP port
	touch $@

repro: $(SETUP)
	@sie repro $(or $(PRESET),default) $(ARGS)

keep: $(SETUP)
	@sie keep $(or $(PRESET),default) $(NAME)

test: $(SETUP)
	OMP_NUM_THREADS=1 nbdev_test --n_workers 2 --timing --skip_file_re '^([_.]|(fetch|pretrain|embed|evaluate|report)\.)'   # not the pipeline's stages
	OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile $(ARGS)

lab: $(SETUP)
	jupyter lab $(ARGS)

docs: $(SETUP)
	python docs/build.py site $(MODELS)
	sphinx-build -W --keep-going -q -b html -c docs _docs/source _docs/html
	@echo "The site: _docs/html/index.html"

steering: $(SETUP)
	python docs/steering.py $(or $(FURNITURE),data/furniture)

bench: $(SETUP)
	python benchmarks/run.py $(ARGS)

export: $(SETUP)
	nbdev_export
	nbdev_clean

readme: $(SETUP)
	python docs/build.py readme

check: $(SETUP)
	pytest tests/test_repo.py $(ARGS)

requirements: $(SETUP)
	sed -nE '/^blender/d; s/^([a-z]+_)?(requirements|pins) = //p' settings.ini | tr ' ' '\n' \
	| uv pip compile - --universal --python-version 3.11 --fork-strategy fewest --generate-hashes --no-emit-index-url \
	  --no-annotate --custom-compile-command "make requirements" --quiet --output-file requirements.txt $(ARGS)
