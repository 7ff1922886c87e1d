# Two commands do everything on a machine with Python >= 3.11 and make: `make demo` and `make test`.
# Both use .venv, which they make; a second call installs nothing. Inside an environment of your own:
#   pip install -e ".[dev]"; python recipes/train_detr.py; make check BIN=
PYTHON ?= python3
VENV   ?= .venv
BIN    ?= $(VENV)/bin/
# one process a core, each of one thread; the tests of a file stay together, since they share what is slow to make
PYTEST_ARGS ?= --numprocesses auto --dist loadfile

.PHONY: demo test check types tests notebooks clean

demo: $(VENV)/.installed
	$(BIN)python recipes/train_detr.py

test: $(VENV)/.installed-dev
	$(MAKE) --no-print-directory check

check:
	$(BIN)ruff check .
	$(BIN)ruff format --check .
# beside each other, since the type checker has one thread and would leave the other cores idle for a minute
	$(MAKE) --no-print-directory --jobs 2 types tests

types:
	$(BIN)mypy
	$(BIN)lint-imports

tests:
	OMP_NUM_THREADS=1 $(BIN)python -m pytest $(PYTEST_ARGS)

notebooks: $(VENV)/.installed-dev
	$(BIN)python notebooks/build.py

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "dlrecipes needs Python 3.11 or newer, $(PYTHON) is older: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Stamps: pip runs again only when pyproject.toml, so perhaps a dependency, has changed.
$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)python -m pip install --quiet --editable ".[dev]"
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
