# Every target sets up what it needs by itself: Python 3.11 and make are all that a machine has to have.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
export ORT_DISABLE_TELEMETRY := 1
# Pulumi's SDKs, torch and Ray take seconds to compile, in every process that finds nothing compiled.
unexport PYTHONDONTWRITEBYTECODE
# Processes that share the tests; the whole stack is mostly waited for. See TOGETHER in tests/conftest.py.
WORKERS ?= 3

.PHONY: help setup demo test lint types style suite unit whole test-faults check format down tools browser images cluster-demo locks schema pin-images network-docs benchmarks clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: .venv/.installed ## install everything into .venv and .venv-triton

# uv installs gigabytes in seconds and checks every hash; it comes from its own wheel.
.venv/.installed: locks/dev.txt locks/uv.txt locks/triton.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/uv.txt
	@echo "installing the Python environment (several GB the first time)"
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes locks/dev.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@$(BIN)/python -m modelport.local.triton
	@touch $@

demo: setup ## train, gate, serve, load-test polyp_seg on this machine, and print what happened
	@$(BIN)/modelport demo

cluster-demo: setup tools ## the whole stack in a real cluster on this machine: train, serve, promote under load, take down
	@$(BIN)/python -m tests.whole

down: setup ## stop the platform that the demo left running
	@$(BIN)/modelport local down

test: style tools browser ## everything that CI runs: lint, unit and whole; types are checked beside the tests
	@$(MAKE) --no-print-directory --jobs=2 types suite

suite: # a part of `test`, which has set up what it wants
	$(BIN)/python -m pytest -m "not faults" -n $(WORKERS) $(PYTEST_ARGS)

lint: setup ## formatting, lint, types, directions of imports, model folders
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target types style

types: setup
	$(BIN)/pyright

style: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/modelport check

unit: setup tools browser ## every test but those of the whole stack
	$(BIN)/python -m pytest --ignore=tests/whole -n $(WORKERS) $(PYTEST_ARGS)

whole: setup tools ## the whole stack in a real cluster, with three faults: root on Linux, 14 GiB, a quarter of an hour
	$(BIN)/python -m pytest tests/whole -m "not faults" $(PYTEST_ARGS)

test-faults: setup tools ## what else goes wrong in a real cluster: half an hour more
	$(BIN)/python -m pytest tests/whole -m faults $(PYTEST_ARGS)

tools: setup ## build the programs that tests of the infrastructure run; a quarter of an hour the first time
	@$(BIN)/python -m tools

browser: setup ## find Chromium for the tests of the page; as root on Debian, install it
	@$(BIN)/python -m tools.browser

format: setup ## format and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schema: setup ## write the JSON schema of model.yaml, and the component package's
	$(BIN)/modelport schema > docs/model.schema.json
	$(BIN)/python -m components.package > components/schema.json

images: setup ## build the platform's image; PUSH=REGISTRY/FOLDER pushes it, STACK=NAME pins it there, see docs/images.md
	@$(BIN)/python -m tools.images.publish $(NAMES) $(if $(PUSH),--push $(PUSH)) $(if $(STACK),--stack $(STACK)) \
		$(if $(ACCELERATOR),--accelerator $(ACCELERATOR))

pin-images: setup ## ask the registries for the digests of external images (needs skopeo)
	$(BIN)/python -m tools.pin_images

network-docs: setup ## write docs/network.md from the matrix of who may talk to whom
	$(BIN)/python -m infra.network > docs/network.md

benchmarks: setup ## side-by-side measurements; see benchmarks/README.md
	$(BIN)/python benchmarks/serving_overhead.py

# Compiled for every platform at once, with hashes and without addresses.
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-annotate --custom-compile-command "make locks"
locks: ## compile locks/ anew from pyproject.toml
	@test -x $(BIN)/uv || { $(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet --require-hashes -r locks/uv.txt; }
	$(LOCK) --extra infra --extra local --group dev pyproject.toml -o locks/dev.txt
	$(LOCK) -c locks/dev.txt pyproject.toml -o locks/core.txt
	for extra in cluster export infra train promote serve loadtest platform local; do \
		$(LOCK) -c locks/dev.txt --extra $$extra pyproject.toml -o locks/$$extra.txt || exit 1; done
	$(LOCK) -c locks/dev.txt locks/uv.in -o locks/uv.txt
	$(BIN)/uv pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
		--custom-compile-command "make locks" --no-deps locks/triton.in -o locks/triton.txt
	$(LOCK) --no-deps locks/go.in -o locks/go.txt
	$(LOCK) --no-deps images/platform/headless.in -o images/platform/headless.txt
	$(LOCK) images/platform/wheel.in -o images/platform/wheel.txt
	$(LOCK) locks/policy.in -o locks/policy.txt
	$(LOCK) --override locks/checks.overrides locks/checks.in -o locks/checks.txt

clean: ## remove environments and built files; the platform's state stays
	rm -rf .venv .venv-triton build
