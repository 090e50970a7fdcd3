# The verbs of this project; `make` alone lists them. Each runs `setup` first, which does nothing when nothing changed.
#
# Variables, on the command line or in the environment:
#   PYTHON       the Python (3.11 or newer) that makes .venv; by default the first one found
#   TORCH_INDEX  a package index with the build of torch that is wanted, such as PyTorch's own one for CPU builds
#   ARGS         more arguments for the verb, e.g. make test ARGS="tests/model -x"
#   SEGGPT_*     settings of the service, see docs/settings.md

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup serve test test-slow test-gpu test-browser check format bench bench-gpu eval train docs clean distclean

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTHON ?= $(shell for name in python3 python python3.14 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## make .venv with everything in it; nothing to do when it is up to date

# Torch goes first, because only here is its build chosen. With an NVIDIA driver "===" asks for the plain number, which
# on PyPI is the CUDA build, and shuts out a CPU build that may lie in a local folder ("2.13.0+cpu" equals "2.13.0").
# No build isolation: with the packages in place, setup then needs no network.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "setup: found no Python 3.11 or newer; name one: make setup PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "setup: making $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@version=$$(sed -n 's/^torch==//p' constraints.txt); \
	if [ -n "$${TORCH_INDEX:-}" ]; then build=(--index-url "$$TORCH_INDEX" "torch==$$version"); \
	elif nvidia-smi >/dev/null 2>&1; then build=("torch===$$version"); \
	else build=("torch==$$version"); fi; \
	echo "setup: torch $$version"; $(PIP_INSTALL) "$${build[@]}"
	@echo "setup: the other packages"
	@$(PIP_INSTALL) --quiet setuptools
	@$(PIP_INSTALL) --quiet --no-build-isolation --editable '.[dev]'
	@touch $@
	@echo "setup: done"

# Large pages for decoded photos, as in the Dockerfile.
serve: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
serve: $(READY) ## run the service on SEGGPT_HOST and SEGGPT_PORT (127.0.0.1:8000)
	@exec $(BIN)/python -m app $(ARGS)

# A file's tests stay together, since they share what its fixtures start.
test: $(READY) ## run the tests
	$(BIN)/python -m pytest --timeout 300 --numprocesses auto --maxprocesses 4 --dist loadfile $(ARGS)

test-slow: $(READY) ## run the tests at full ViT-L size and the long ones
	$(BIN)/python -m pytest --timeout 1800 -m slow $(ARGS)

test-gpu: $(READY) ## run the tests that need a GPU
	$(BIN)/python -m pytest --timeout 600 -m gpu $(ARGS)

test-browser: $(READY) ## run the tests that drive a real Chromium (CHROMIUM names it, else PATH)
	$(BIN)/python -m pytest --timeout 600 -m browser $(ARGS)

check: $(READY) ## formatting, lint, types, import contracts, compose file
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

format: $(READY) ## format the code, and mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## measure on the CPU: beside transformers, part by part, and the service (about 15 minutes)
	$(BIN)/python -m benchmarks $(ARGS)

bench-gpu: $(READY) ## measure on a GPU: images per second beside transformers, and the service
	$(BIN)/python -m benchmarks.gpu $(ARGS)

eval: $(READY) ## measure the checkpoint's masks; other sets by ARGS="fss1000 --data DIR" (docs/evaluation.md)
	$(BIN)/python -m evaluation $(ARGS)

train: $(READY) ## train the small checkpoint (hours on a CPU, minutes on a GPU)
	$(BIN)/python -m training bundled --out runs/train $(ARGS)

docs: $(READY) ## write docs/openapi.json anew
	$(BIN)/python -c 'import json; from app.main import create_app; print(json.dumps(create_app().openapi(), indent=2))' \
		> docs/openapi.json

clean: ## remove caches and build output
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## remove .venv too
	rm -rf $(VENV)
