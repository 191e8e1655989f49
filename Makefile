# For a machine that has Python (3.10 or newer) and nothing else:
#
#   make quick       the comparison of seven ways to pretrain: about two minutes on two CPU cores after installation
#   make test        linters, types, tests; closes with the 20 slowest
#   make test-long   what takes minutes: fresh environments, many kills, whole runs
#
# Each makes the environment in .venv first; a second call finds it ready. Another interpreter: make quick PYTHON=python3.12
# An environment that is there already, whose torch is kept: make quick VENV=PATH
# More words for the command: make quick ARGS="--out /tmp/quick"

PYTHON ?= python3
PIP_ARGS ?=
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help quick test test-long clean
.DEFAULT_GOAL := help

help:
	@sed -n '1,9s/^# \{0,1\}//p' Makefile

quick: $(VENV)/.installed
	$(BIN)/ssl-bench run quick $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses=auto --durations=20 $(ARGS)

test-long: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m long --durations=20 $(ARGS)

# Stamps are newer than pyproject.toml once its dependencies are installed.
$(VENV)/.installed: pyproject.toml $(VENV)/.constraints
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --constraint $(VENV)/.constraints --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.constraints
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --constraint $(VENV)/.constraints --editable '.[dev]'
	@touch $@ $(VENV)/.installed

# torchvision asks for the torch of its own release, so a build that is installed already would give way to another of gigabytes.
$(VENV)/.constraints: pyproject.toml | $(BIN)/python
	@$(BIN)/python -c 'from importlib.metadata import distributions as d; \
		print("\n".join({f"{p.name}=={p.version}" for p in d() if p.name in ("torch", "torchvision")}))' > $@

# Debian and Ubuntu split `venv` from Python: without python3-venv it can make an environment, but not put pip into it.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "$(PYTHON) is missing or older than Python 3.10; name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@test $(VENV) = .venv -o ! -e $(VENV) || { echo "$(VENV) is no environment: it has no bin/python" >&2; exit 1; }
	@echo "making the environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 \
		|| { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install --quiet $(PIP_ARGS) pip; } >/dev/null 2>&1 \
		|| $(PYTHON) -m virtualenv --quiet --clear $(VENV) >/dev/null 2>&1 \
		|| { rm -rf $(VENV); echo "Python cannot make an environment here. On Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }

clean:
	rm -rf .venv
