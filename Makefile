# Every target makes the virtual environment when it is missing. Needs Python 3.11+, make and gcc; nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
VENV_GPU := .venv-gpu
STAMP_GPU := $(VENV_GPU)/.installed
ZOO := $(VENV)/.installed-zoo

.PHONY: demo test test-gpu lint bench clean install

install: $(STAMP)

# torch comes first and pinned, so that pip takes the CPU build where one is offered and nothing upgrades it later.
$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[cpu,dev,rtx,triton]'
	touch $@

$(ZOO): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[zoo]'
	touch $@

# An environment of its own: onnxruntime and onnxruntime-gpu are one module, and so are xgboost-cpu and xgboost.
$(STAMP_GPU): pyproject.toml
	test -x $(VENV_GPU)/bin/python || $(PYTHON) -m venv $(VENV_GPU)
	$(VENV_GPU)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[gpu,tensorrt,triton,dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/python -m hwnas.cli demo

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 -q --durations=10 -m 'not gpu'

# The hardware suite, on a machine with an NVIDIA card; docs/gpu.md says what to look at.
test-gpu: $(STAMP_GPU)
	$(VENV_GPU)/bin/python -m pytest -q -rs -m gpu

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(ZOO)
	for script in bench/[a-z]*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) $(VENV_GPU) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build
