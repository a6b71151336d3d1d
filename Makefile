# Every target sets itself up: a fresh machine needs Python 3.11 or later (with venv), git and make, nothing else.
# A second call finds the stamp in .venv newer than pyproject.toml and constraints.txt and starts at once.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST_FLAGS ?= -q -n auto --maxprocesses 4 --dist loadfile
ARGS ?=

# Where this is set, each of the suite's several hundred processes would compile torch and all else anew: 23 seconds of
# processor time for `import hedgerl.train` instead of 6. What is compiled is kept in .venv and __pycache__, which `make clean` removes.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup run test lint typecheck simulate backtest optimize bench clean

help:
	@echo "make run        compare hedges of a monthly call on rough Bergomi, Heston and the S&P 500, and write a report"
	@echo "make test       all tests"
	@echo "make lint typecheck"
	@echo "make optimize   train a small grid of reward weights and draw risk against cost (a few minutes)"
	@echo "make simulate | backtest | optimize   ARGS=\"key=value ...\" are passed on"
	@echo "make bench      measure the generators, marks, environments, agents and studies"
	@echo "make clean      remove caches and the virtual environment"

setup: $(STAMP)

# Compiling every module of every package takes as long as the rest: Python compiles those that are imported.
PIP_FLAGS := --quiet --disable-pip-version-check --no-compile -c constraints.txt

# torch comes first and by itself: its index is the slowest, and every other requirement then finds it satisfied.
$(STAMP): pyproject.toml constraints.txt
	@set -e; python=; \
	for candidate in $(PYTHON) python3 python3.11 python3.12 python3.13 python3.14 python; do \
	  if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	  then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "hedgerl: error: no Python 3.11 or later with the venv module on PATH" \
	       "(Debian and Ubuntu: apt install python3-venv); name one with make PYTHON=/path/to/python3" >&2; \
	  exit 2; \
	fi; \
	echo "setting up $(VENV) with $$($$python --version) (a few minutes, once)"; \
	[ -x $(BIN)/python ] || "$$python" -m venv $(VENV); \
	$(BIN)/python -m pip install $(PIP_FLAGS) torch==2.13.0; \
	$(BIN)/python -m pip install $(PIP_FLAGS) -e '.[dev]'; \
	touch $(STAMP)

run: $(STAMP)
	$(BIN)/hedgerl backtest $(ARGS)

backtest: $(STAMP)
	$(BIN)/hedgerl backtest $(ARGS)

simulate: $(STAMP)
	$(BIN)/hedgerl simulate $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest $(PYTEST_FLAGS) $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

typecheck: $(STAMP)
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(STAMP)
	$(BIN)/python scripts/bench_simulate.py $(ARGS)
	$(BIN)/python scripts/bench_envs.py --append docs/benchmarks.md $(ARGS)
	$(BIN)/python scripts/bench_agents.py --append docs/benchmarks.md $(ARGS)
	$(BIN)/python scripts/bench_sweeps.py --append docs/benchmarks.md $(ARGS)

# Small enough for ten minutes on two cores; without SMALL it is the whole grid of conf/generate_pareto.yaml.
SMALL := study=optimize loss=[mse,cvar] w=[1e-4,1e-3,0.01] lam=[0.01] workers=2 \
	agent.iterations=150 agent.batch_paths=2048 agent.learning_rate=0.015 hpo.n_trials=2 hpo.iterations=40 \
	'hpo.space={agent.batch_paths: null, agent.recurrent: null}'
optimize: $(STAMP)
	$(BIN)/hedgerl generate-pareto $(SMALL) $(ARGS)

clean:
	rm -rf $(VENV) build dist hedgerl.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
