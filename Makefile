# Every target makes the virtual environment when it is missing. Needs Python 3.11+, make and gcc; nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ZOO := $(VENV)/.installed-zoo

.PHONY: demo test lint bench clean install

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

demo: $(STAMP)
	$(BIN)/python -m hwnas.cli demo

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 -q --durations=10

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(ZOO)
	for script in bench/[a-z]*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build
