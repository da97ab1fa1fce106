# make demo        build the demo bundles and generate with the sorted draft, without torch
# make observe     serve the demo bundles, with Prometheus and Alertmanager beside the server (Debian's packages)
# make embed-demo  build the C library, and run its examples in C and C++ over the demo bundles
# make test        lint, type check and test everything
# All set themselves up in .venv; the second time nothing is installed again.

PYTHON ?= python3
VENV   ?= .venv
DEMO   := engines/demo
SERVE_ARGS ?= --target target-17m --target target-6m
RUN_ARGS ?= --target target-17m --prompt-file runtime/evaluation/prompts/demo.txt --baseline

BIN  := $(VENV)/bin
PIP  := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
DRAFT   := engines/draft.engine/manifest.json
TARGETS := engines/target-17m.engine/manifest.json engines/target-6m.engine/manifest.json

EXAMPLES := runtime/embedding/examples
STRICT   := -O2 -pedantic -Wall -Wextra -Werror
S2D      := -Idist -Ldist -ls2d -Wl,-rpath,'$$ORIGIN'

.PHONY: demo observe embed-demo test lint format clean
.DELETE_ON_ERROR:

demo: $(DRAFT) $(TARGETS)
	@echo "== greedy: with the sorted draft, then with the target alone"
	@$(BIN)/python -m runtime.run $(RUN_ARGS)
	@echo
	@echo "== temperature 1: the same seed gives the target's own text"
	@$(BIN)/python -m runtime.run $(RUN_ARGS) --temperature 1 --seed 7

observe: $(DRAFT) $(TARGETS) $(VENV)/serve.stamp
	@$(BIN)/python -m runtime.observe $(OBSERVE_ARGS) -- $(SERVE_ARGS)

embed-demo: $(DRAFT) $(TARGETS) | $(VENV)/embed.stamp
	@echo "== building the C library in dist, and the examples"
	@$(BIN)/python -m runtime.embedding.build --out dist
	@$(CC) $(STRICT) -std=c99 $(EXAMPLES)/stream.c $(S2D) -o dist/stream_c
	@$(CXX) $(STRICT) -std=c++11 $(EXAMPLES)/stream.cpp $(S2D) -pthread -o dist/stream_cpp
	@echo "== C: two targets over one draft"
	@dist/stream_c draft target-17m target-6m "def read(self, size=-1):"
	@echo "== C++: each target in a thread of its own, temperature 1, seed 7"
	@dist/stream_cpp draft target-17m target-6m "def read(self, size=-1):" 1 7

test: $(VENV)/test.stamp
	@echo "== ruff: style"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@echo "== mypy: types"
	@$(BIN)/mypy
	@echo "== pytest: behaviour"
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/test.stamp
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy

format: $(VENV)/test.stamp
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean:
	@echo "== removing .venv, built bundles and caches; demo checkpoints stay"
	@rm -rf $(VENV) engines/*.engine build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find s2d_trt export runtime tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(DRAFT): $(wildcard $(DEMO)/draft/*) | $(VENV)/demo.stamp
	@echo "== building engines/draft.engine: exits 6, 9 and 12 of the demo draft"
	@$(BIN)/python -m export.build --exits 6,9,12
	@touch $@

engines/%.engine/manifest.json: $(DEMO)/%/config.json $(DEMO)/%/model.safetensors | $(VENV)/demo.stamp
	@echo "== building engines/$*.engine"
	@$(BIN)/python -m export.target --checkpoint $(DEMO)/$* --out engines/$*.engine
	@touch $@

# One environment, two depths: the demo never installs torch.
$(VENV)/demo.stamp: pyproject.toml constraints.txt | $(BIN)/python
	@echo "== installing the runtime and the exporter into $(VENV) (about 60 MB, no torch)"
	@$(PIP) --editable '.[export]'
	@touch $@

$(VENV)/serve.stamp: pyproject.toml constraints.txt | $(BIN)/python
	@echo "== installing what the server needs into $(VENV)"
	@$(PIP) --editable '.[serve]'
	@touch $@

$(VENV)/embed.stamp: pyproject.toml constraints.txt | $(VENV)/demo.stamp
	@echo "== installing what builds the C library"
	@$(PIP) --editable '.[export,embed]'
	@touch $@

$(VENV)/test.stamp: pyproject.toml constraints.txt | $(BIN)/python
	@echo "== installing what the tests need into $(VENV), torch and TensorRT-RTX included (minutes the first time)"
	@$(PIP) --editable '.[export,tensorrt,gpu,train,serve,grammar,evaluate,embed,dev]'
	@touch $@ $(VENV)/demo.stamp $(VENV)/serve.stamp $(VENV)/embed.stamp

$(BIN)/python:
	@echo "== creating $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv $(VENV)
