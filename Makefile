# `make` lists the targets. Everything is installed into .venv from the exact pins of constraints.txt.

VENV := .venv
EXTRAS ?= test
JOBS ?= 2
PYTEST_ARGS ?= -n $(JOBS) --dist worksteal
DEMO_DIR ?= $(if $(SHORT),demo-short,demo)
DEMO_ARGS ?= --workdir="$(DEMO_DIR)" $(if $(SHORT),--short) $(if $(DATA),--data="$(DATA)")

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
INSTALL := $(PIP) install -qq --constraint constraints.txt
# One stamp per set of extras: another set, or a change of the ranges or pins, installs again.
INSTALLED := $(VENV)/installed-$(EXTRAS)

# Most of a JAX test is compilation; the second run of anything reads it from here.
export JAX_COMPILATION_CACHE_DIR := $(CURDIR)/.cache/jax
# Huge pages for the C library (glibc 2.35 or later): see docs/speed.md.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: help env test test-slow lint format demo readme clean
.DEFAULT_GOAL := help

help:
	@echo 'make demo     train the three stages on synthetic faces, evaluate, restore, write a report'
	@echo '              [DEMO_DIR=demo] [SHORT=1: a run of few steps, in demo-short] [DATA=a folder of images]'
	@echo 'make test     check the style, then run what every change needs (about 10 minutes on two cores)'
	@echo '              [ARGS="-k jpeg"] [JOBS=2: worker processes, 0: none]'
	@echo 'make test-slow  the rest: kills, several processes, full-size twins, long compiles'
	@echo 'make readme   run every command of README.md, in its order, at tiny size'
	@echo 'make env      install into $(VENV) [EXTRAS=test,torch] [PYTHON=/path/to/python3.12]'
	@echo 'make lint     check the style'
	@echo 'make format   mend the style'
	@echo 'make clean    remove $(VENV) and the caches; runs and reports stay'

env: $(INSTALLED)

# A command named python3.12 may be a launcher that fails, or lack venv: only running it tells.
$(INSTALLED): pyproject.toml constraints.txt
	@set -e; \
	if ! $(PIP) --version >/dev/null 2>&1; then \
	  for python in $(or $(PYTHON),python3.12 python3.11 python3); do \
	    if "$$python" -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
	      >/dev/null 2>&1; then found="$$python"; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo 'No Python 3.11 or 3.12 with venv was found among: $(or $(PYTHON),python3.12 python3.11 python3).' >&2; \
	    echo 'Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12' >&2; \
	    exit 1; \
	  fi; \
	  echo "Making $(VENV) with $$found"; \
	  "$$found" -m venv --clear $(VENV); \
	fi
	@echo 'Installing the packages of constraints.txt into $(VENV) (a minute, more if they are not cached)'
	@$(INSTALL) pip setuptools
	@$(INSTALL) --no-build-isolation --editable '.[$(EXTRAS)]'
	@touch $@

test: lint
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m "not slow" $(ARGS)

test-slow: env
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m slow $(ARGS)

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: env
	$(BIN)/codeformer-jax demo $(DEMO_ARGS)

readme: env
	$(BIN)/python tools/readme_commands.py

clean:
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
