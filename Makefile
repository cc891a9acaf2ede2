# One word list for people and for CI. `make` alone prints it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# one more than cores: many tests wait for a server
WORKERS := $(shell expr $$(nproc) + 1)

.PHONY: help setup demo test test-fast test-live test-pythons test-lowest test-newest wheel-demo check bench bench-peers docs stack clean

help:  ## print this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 13

setup: $(STAMP)  ## create .venv and install rayotel with all that developing it needs

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "hint: rayotel needs Python 3.11 or newer: make PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,s3]'
	touch $(STAMP)

demo: $(STAMP)  ## replay a recorded Ray cluster and see the answers, in a temporary directory
	@$(BIN)/rayotel demo

test: $(STAMP)  ## run all tests that need nothing but Python
	$(BIN)/pytest -q -n $(WORKERS) --dist loadfile -m "not live"

test-fast: $(STAMP)  ## run the tests that start no process
	$(BIN)/pytest -q -n auto --dist loadfile -m "not system and not thorough and not live" --hypothesis-profile=fast

test-live: $(STAMP)  ## run the tests that need Ray and Fluent Bit, where those are
	$(BIN)/pytest -q -rs -m live

test-pythons: $(STAMP)  ## run the fast tests on each Python from 3.11 to 3.14 that is there
	.ci/test-pythons 3.11 3.12 3.13 3.14

test-lowest:  ## run all but the thorough tests on the lowest versions that pyproject.toml allows
	.ci/test-versions lowest

test-newest: $(STAMP)  ## run them on the newest versions, unless those are in .venv
	.ci/test-versions newest

wheel-demo:  ## build the wheel and run the demo from it, without development tools
	PYTHON=$(PYTHON) .ci/wheel-demo

check: $(STAMP)  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)  ## write the generated parts of the documents anew
	$(BIN)/python docs/generate.py

bench: $(STAMP)  ## measure ingest, storage and questions, some ten minutes, and print a table of each
	$(BIN)/python benchmarks/bench.py
	$(BIN)/python benchmarks/storage.py
	$(BIN)/python benchmarks/questions.py 20 6

bench-peers: $(STAMP)  ## measure beside VictoriaMetrics and Prometheus, fetched from Debian for it
	$(BIN)/python benchmarks/peers.py $(ARGS)

stack: $(STAMP)  ## run the processes of docker-compose.yml on loopback, without Docker
	$(BIN)/python stack/run.py $(ARGS)

clean:  ## remove the environment and caches
	rm -rf $(VENV) .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
