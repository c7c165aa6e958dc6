# Two commands on a fresh machine with Python 3.11 and make:
#   make demo   builds .venv and runs the main job on the embedded data
#   make test   builds .venv with the test extras; lint, types, tests in two processes (WORKERS=8: in eight)
# make fuzz tries broken files, arguments and kills, 20 times as many as the tests do (FUZZ=100: 100 times).
# make site builds build/site/html/index.html, the documentation with a search; a broken link fails it.
# make notebooks runs the examples and stores them with their outputs.
# make wheel builds dist/*.whl, which installs anywhere with pip.
# make bench measures speed beside the notebook's way; NORMSCOPE_CIFAR10 names the folder of the images.
PYTHON ?= python3.11
WORKERS ?= 2
FUZZ ?= 20
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt

.PHONY: demo test fuzz lint types bench site notebooks wheel clean

demo: .venv/installed
	$(BIN)/normscope compare

test: lint types .venv/installed-test
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

fuzz: .venv/installed-test
	FUZZ=$(FUZZ) $(BIN)/python -m pytest tests/fuzz -n $(WORKERS) --timeout 0 -rA -q

bench: .venv/installed
	$(BIN)/python benchmarks/training.py --parts job
	$(BIN)/python benchmarks/training.py --parts jobs fusion scaling ceilings profile memory

site: .venv/installed-test
	$(BIN)/python docs/site/build.py build/site

notebooks: .venv/installed-test
	$(BIN)/python examples/notebooks/make.py

wheel: .venv/installed-test
	$(BIN)/python -m build --wheel --no-isolation --outdir dist

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/installed-test
	$(BIN)/pyright

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "normscope needs Python 3.11 or newer; '$(PYTHON)' is not it. Try: make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing normscope and its dependencies into .venv (a few minutes the first time)"
	$(PIP) -e .
	@touch $@

.venv/installed-test: pyproject.toml constraints.txt .venv/installed
	@echo "Installing all extras and what the tests need into .venv"
	$(PIP) 'pip>=25.1'
	$(PIP) -e '.[dataframe,examples,lightning,ray,safetensors,tensorboard,transformers,wandb]' --group test
	@touch $@

clean:
	rm -rf .venv .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist build
