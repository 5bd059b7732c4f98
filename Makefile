# make run [ARGS="--epoch 2 --data DIR"]   train and test       make test   the test suite
# make judge [ARGS="RESULTS"]   what a face recogniser says of a test's results; sets up tests/benchmarks
# make soak   kill the program and damage images at length (docs/reliability.md)
# RUNTIME=tf2 does each on today's TensorFlow, in an environment of its own.
RUNTIME ?= tf1
ifeq ($(RUNTIME),tf2)
VENV := .venv-tf2
REQUIREMENTS := requirements-tf2.txt
PYTHONS := 3.12 3.11 3.10
else
VENV := .venv
REQUIREMENTS := requirements.txt
PYTHONS := 3.7
endif
PYTHON := $(VENV)/bin/python

run: $(VENV)/ready
	@$(PYTHON) run.py $(ARGS)

test: $(VENV)/ready
	$(PYTHON) -m pytest -q -n 2 tests $(ARGS)

soak: $(VENV)/ready
	@$(PYTHON) -W ignore tests/soak.py $(ARGS)

judge: $(VENV)/judge
	@$(PYTHON) tests/benchmarks/judge.py $(or $(ARGS),results)

$(VENV)/judge: $(VENV)/ready tests/benchmarks/requirements.txt
	$(PYTHON) -m pip install -q --disable-pip-version-check -r tests/benchmarks/requirements.txt && touch $@

# The first of: pythonX.Y on the path, pyenv's newest X.Y, one that uv fetches (uv itself comes from pip).
$(VENV)/ready: $(REQUIREMENTS) requirements-photos.txt
	@echo "Installing $(REQUIREMENTS) into $(VENV), once: TensorFlow alone is some hundred megabytes ..." >&2
	@set -e; rm -rf $(VENV); found=; \
	for version in $(PYTHONS); do \
	  for python in python$$version $$(ls -d "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$$version.*/bin/python 2>/dev/null | sort -V -r); do \
	    if [ -z "$$found" ] && "$$python" -c 'import sys, venv, ensurepip; sys.exit("%d.%d" % sys.version_info[:2] != "'$$version'")' 2>/dev/null; \
	    then found="$$python"; fi; done; done; \
	if [ -n "$$found" ]; then "$$found" -m venv $(VENV); else \
	  version=$(firstword $(PYTHONS)); uv=$$(command -v uv || true); \
	  if [ -z "$$uv" ]; then uv=.uv/bin/uv; \
	    [ -x $$uv ] || { python3 -m venv .uv && .uv/bin/pip install -q uv; } >/dev/null 2>&1 || true; fi; \
	  "$$uv" venv -q --seed --python $$version $(VENV) 2>/dev/null || { \
	    rm -rf $(VENV); \
	    echo "No Python $$version here and uv could not fetch one: install it with 'pyenv install $$version', or put python$$version on the path. TensorFlow 1.14 (the default) needs Python 3.7, RUNTIME=tf2 3.10 to 3.12." >&2; \
	    exit 2; }; fi; \
	$(PYTHON) -m pip install -q --disable-pip-version-check -r $(REQUIREMENTS); \
	$(PYTHON) -m pip install -q --disable-pip-version-check --no-deps -r requirements-photos.txt; touch $@

.PHONY: run test judge soak
