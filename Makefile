# `make demo` trains a recogniser and prints its word error rate; `make test` runs the tests.
# Both set up .venv first, once. Nothing here needs root.

PYTHON ?= python3
CORPUS ?= espeak_digits
VENV := .venv
READY := $(VENV)/.ready

# Real corpora and Kaldi's reference outputs, where this checkout has them beside it.
ifneq ($(wildcard ../shared/corpora),)
export MARIANA_CORPORA ?= $(abspath ../shared/corpora)
endif
ifneq ($(wildcard ../shared/golden),)
export MARIANA_GOLDEN ?= $(abspath ../shared/golden)
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-recipes lint format clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

setup: $(READY)  ## make .venv with the package and its test tools

$(READY): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

demo: $(READY)  ## recordings to a word error rate; CORPUS=espeak_digits, fsdd or an4
	$(VENV)/bin/mariana-asr train recipes/$(CORPUS)/recipe.yaml

test: $(READY)  ## run the tests
	$(VENV)/bin/python -m pytest -m 'not recipes' -n 2 --dist loadfile

test-recipes: $(READY)  ## run the slow end-to-end recipes and check their error rates
	$(VENV)/bin/python -m pytest -m recipes

lint: $(READY)  ## style, types and the arrows between the rooms
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(READY)  ## put the code into the project's style
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

clean:  ## remove .venv and caches, keep experiments
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info
