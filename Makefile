# `make demo` and `make test` need Python 3.11 or later and make, and nothing else.
PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.13 python3 2>/dev/null))
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: install demo test test-slow check format generated docs clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt $(wildcard plugins/*/pyproject.toml)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs]' \
		$(addprefix --editable ,$(wildcard plugins/*))
	touch $(INSTALLED)

demo: install
	$(BIN)/python -m renaissance.demo

# One thread per process: the tests run tiny models, and ranks and workers share the cores.
test: export OMP_NUM_THREADS := 1
test: install
	$(BIN)/python -m pytest -m 'not slow' --numprocesses auto --dist loadfile

test-slow: install
	$(BIN)/python -m pytest -m slow

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Pages and pictures that are made from the code; a test says when they are out of date.
generated: install
	$(BIN)/python -m renaissance.spec.document run-spec > docs/run-spec.md
	$(BIN)/python -m renaissance.spec.document components > docs/components.md
	$(BIN)/python docs/layers.py
	$(BIN)/python docs/families.py
	$(BIN)/python docs/draw_architectures.py docs/images

# The site, in site/; a warning is an error.
docs: export NO_MKDOCS_2_WARNING := 1
docs: generated
	$(BIN)/mkdocs build --strict

clean:
	rm -rf .venv runs site
