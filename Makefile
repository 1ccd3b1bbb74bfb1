# Each target sets up what it needs in .venv; nothing has to be activated.
#   make demo ARGS="--photo me.jpg"     make test     make PYTHON=/usr/bin/python3.12 test

PYTHON ?= $(shell command -v python3.11 || command -v python3)
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
CODE := src tests benchmarks deploy
PINS := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup demo test bench web docs weights clean

help: ## what there is (default)
	@awk -F':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' Makefile

setup: $(VENV)/.ready-run ## .venv with what the demo needs

demo: $(VENV)/.ready-run ## a photo, protected and still recognised: writes runs/demo/report.html (ARGS="--photo FILE")
	@$(BIN)/minusface demo $(ARGS)

test: export OMP_NUM_THREADS := 1
test: $(VENV)/.ready-dev ## style, types and the whole test suite (ARGS="-k codec", JOBS=2)
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

bench: $(VENV)/.ready-dev ## codec and training step against the literal computation; results in runs/bench/
	@mkdir -p runs/bench
	@set -e; for script in benchmarks/codec.py benchmarks/train_step.py; do \
	  echo "$$script"; \
	  $(BIN)/python $$script --json runs/bench/$$(basename $$script .py).json $(ARGS); \
	done

web: ## what the page of minusface serve runs on: onnxruntime-web, by npm, into the package
	@npm --prefix web ci --no-audit --no-fund --ignore-scripts --silent
	@mkdir -p src/minusface/serve/web/ort
	@cd web/node_modules/onnxruntime-web/dist && cp ort.wasm.min.mjs ort-wasm-simd-threaded.mjs \
	  ort-wasm-simd-threaded.wasm $(CURDIR)/src/minusface/serve/web/ort/
	@cp web/LICENSE.onnxruntime src/minusface/serve/web/ort/LICENSE

docs: $(VENV)/.ready-docs ## the documentation as a site in runs/site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "look at: runs/site/index.html"

weights: ## the default weights, trained anew into runs/weights/ (goes on where it stopped)
	@runs/weights.sh $(ARGS)

clean: ## remove .venv and caches; runs/ stays
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	@echo "making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.ready-run: $(PINS) | $(BIN)/python
	@echo "installing minusface into $(VENV) (once; PyTorch is large)"
	@$(INSTALL) -e ".[data,faces,report]"
	@touch $@

$(VENV)/.ready-dev: $(PINS) | $(BIN)/python
	@echo "installing minusface and its test tools into $(VENV) (once; PyTorch is large)"
	@$(INSTALL) -e ".[data,faces,report,dev]"
	@touch $@ $(VENV)/.ready-run

$(VENV)/.ready-docs: $(PINS) | $(VENV)/.ready-run
	@$(INSTALL) -e ".[docs]"
	@touch $@
