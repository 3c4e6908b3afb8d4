# What CI calls, and nothing else. `make demo` and `make test` are all a newcomer needs.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
LOCK   := requirements.lock.txt
BENCH_LOCK := requirements-bench.lock.txt
IMAGE_LOCK := deploy/requirements.lock.txt
BACKEND_LOCK := deploy/backend.lock.txt

# A stamp carries the checksum of its lock in its name: another lock, another install.
checksum    = $(firstword $(shell cksum < $(1)))
INSTALLED   := $(VENV)/installed-$(call checksum,$(LOCK))
INSTALLED_BENCH := $(VENV)/installed-bench-$(call checksum,$(BENCH_LOCK))

PYTEST_ARGS ?=

# Most tests wait for servers, disks and clocks more than they compute. `make test WORKERS=` runs them one by one.
WORKERS ?= -n 3 --dist loadgroup

.PHONY: demo test check bench torture format lock install
.DEFAULT_GOAL := test

demo: $(INSTALLED)             ## the whole thing, running, with something to look at
	$(BIN)/twofold demo

test: $(INSTALLED)             ## every test but the long ones
	@scripts/install-browser
	@scripts/install-servers
	$(BIN)/python -m pytest -m "not torture" $(WORKERS) $(PYTEST_ARGS)

torture: $(INSTALLED)          ## the long ones: kill, starve, disturb
	$(BIN)/python -m pytest -m torture $(PYTEST_ARGS)

check: $(INSTALLED)            ## format, lint, types, the import rule, the rules of the house
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/architecture $(wildcard tests/documentation)

bench: $(INSTALLED_BENCH)      ## measure, side by side with peers and raw drivers
	$(BIN)/python -m benchmarks

format: $(INSTALLED)           ## what `check` would complain about, where a tool can fix it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(INSTALLED)

$(INSTALLED): $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Twofold needs Python 3.11 or newer; '$(PYTHON)' is `$(PYTHON) -V 2>&1`. Try: make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r $(LOCK)
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e .
	@rm -f $(VENV)/installed-[0-9]*
	@touch $@

$(INSTALLED_BENCH): $(INSTALLED) $(BENCH_LOCK)
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r $(BENCH_LOCK)
	@rm -f $(VENV)/installed-bench-*
	@touch $@

# Locks carry hashes for every platform and no address of any index. Needs uv on the PATH; nothing else here does.
COMPILE := uv pip compile -q --universal --generate-hashes --python-version 3.11 --no-header --no-annotate
lock:                          ## pin again what pyproject.toml asks for (`make lock UPGRADE=--upgrade` for the newest)
	$(COMPILE) $(UPGRADE) pyproject.toml --group dev -o $(LOCK)
	$(COMPILE) $(UPGRADE) pyproject.toml --group bench -c $(LOCK) -o $(BENCH_LOCK)
	$(COMPILE) $(UPGRADE) pyproject.toml --extra postgres --extra mongodb --extra otel -c $(LOCK) -o $(IMAGE_LOCK)
	$(COMPILE) $(UPGRADE) --group pyproject.toml:build -c $(LOCK) -o $(BACKEND_LOCK)
