# Two commands set everything up on a machine that has only Python ≥ 3.10: make demo, make test.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The tests are many and small: one thread each, and as many workers as there are cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

.PHONY: demo test check phone clean

demo: $(READY)
	$(BIN)/spkadapt prepare synthetic runs/corpora/synthetic
	$(BIN)/spkadapt run recipes/demo/source_only.yaml recipes/demo/mmd.yaml

test: $(READY)
	$(PYTEST)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

phone: $(READY)
	PATH=$(abspath $(BIN)):$$PATH recipes/phone/run_all.sh ../shared/corpora runs

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[test,dev]"
	touch $@

clean:
	rm -rf $(VENV) runs
