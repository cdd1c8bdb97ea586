# `make train` and `make test` need Python 3.11 or newer with pip, and make .venv by themselves.
#
#   make train ENV=Pendulum-v1 SEED=3 ARGS="--steps 3000"
#   make test  ARGS="tests/core -x"
#   make test  ARGS="-n 0 --pdb"      one process, as a debugger needs

ENV = CartPole-v1
SEED = 0
ARGS =

# The first Python on the PATH that is new enough; `make PYTHON=/path/to/python` takes another.
PYTHON = $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin

# One process a processor, but not more than four, of a few GB each; a file's tests stay together,
# since they share its fixtures.
SPREAD = -n logical --maxprocesses 4 --dist loadfile

.PHONY: help train test slow lint docs format clean
.DELETE_ON_ERROR:

help:
	@echo "make train    train an agent on ENV=$(ENV) with SEED=$(SEED)"
	@echo "make test     run the tests (make slow: the slow ones)"
	@echo "make lint     check style, types and imports (make format: lay out the code)"
	@echo "make docs     build the pages of docs/ with a reference into build/docs"
	@echo "make clean    remove .venv and what builds and checks leave behind; runs/ stays"

train: .venv/.installed
	$(BIN)/loopwm train $(ENV) --seed $(SEED) $(ARGS)

test: .venv/.installed-dev
	$(BIN)/pytest $(SPREAD) $(ARGS)

slow: .venv/.installed-dev
	$(BIN)/pytest -m slow $(ARGS)

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

docs: .venv/.installed-dev
	$(BIN)/sphinx-build --fail-on-warning --quiet docs build/docs

format: .venv/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache

.venv/.installed: pyproject.toml | $(BIN)/pip
	$(BIN)/pip install --quiet --editable .
	@touch $@

.venv/.installed-dev: pyproject.toml | $(BIN)/pip
	$(BIN)/pip install --quiet --editable ".[dev]"
	@touch .venv/.installed $@

# Some systems ship Python without ensurepip: there pip itself puts pip into the new environment.
$(BIN)/pip:
	@test -n "$(PYTHON)" || { echo "loopwm needs Python 3.11 or newer; install it, or say" \
		"make PYTHON=/path/to/python." >&2; exit 1; }
	$(PYTHON) -m venv .venv || { $(PYTHON) -m venv --clear --without-pip .venv && \
		$(PYTHON) -m pip --python $(BIN)/python install pip; }
