# make small: set up and run the main job.  make test: the same environment with the dev extra, and the default suite.
PYTHON ?= python3
VENV ?= .venv

.PHONY: small test slow lint clean

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml
	$(VENV)/bin/python -m pip install --quiet -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet -e ".[dev]"
	touch $@

small: $(VENV)/installed
	$(VENV)/bin/python -m gptjax.main --config=experiments/small.py

test: $(VENV)/installed-dev
	$(VENV)/bin/python -m pytest -m "not slow" -n auto --dist loadfile

slow: $(VENV)/installed-dev
	$(VENV)/bin/python -m pytest -m slow -n auto --dist loadfile

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright

clean:
	rm -rf $(VENV) build *.egg-info
