# Two commands for newcomers: `make quickstart` and `make test`. Both set up all they need.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# Tests and the quickstart run several processes on the same cores: threads must not wait by spinning.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: packages env quickstart test torture bench-registry bench-train bench-serve vllm-env format clean

packages:
	@echo "== packages: what the tests need of Debian: PostgreSQL, strace, openssl, compilers (as root)"
	@.ci/packages

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@echo "== env: virtual environment in $(VENV), tested versions from constraints.txt (about a minute)"
	@$(PYTHON) -c 'import sys; sys.exit("adaptery needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

quickstart: env
	@echo "== quickstart: the main job on real data: train, serve, roll back, merge, publish (a few minutes)"
	@$(BIN)/python -m examples.quickstart

test: env
	@echo "== test: lint, types, test suite"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --ignore tests/torture
	$(BIN)/python -m pytest tests/torture

torture: env
	@echo "== torture: the registry killed at every call, starved, corrupted and raced (an hour or more)"
	$(BIN)/python -m pytest -m torture --timeout 1800

bench-registry: env
	@echo "== bench-registry: looking up, listing and publishing, beside MLflow (about five minutes)"
	@$(BIN)/python -m benchmarks.registry

bench-train: env
	@echo "== bench-train: training beside transformers' Trainer and TRL's SFTTrainer (about ten minutes)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,bench]'
	@$(BIN)/python -m benchmarks.train

bench-serve: env
	@echo "== bench-serve: serving beside vLLM and transformers + PEFT (about forty minutes)"
	@$(BIN)/python -m benchmarks.serve

vllm-env:
	@echo "== vllm-env: vLLM on the CPU, for bench-serve, in .venv-vllm (two minutes, 2.5 GB)"
	@$(PYTHON) benchmarks/vllm_env.py .venv-vllm

format: env
	@echo "== format: put the code into its form"
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	@echo "== clean: remove the environment and what tools left"
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist
