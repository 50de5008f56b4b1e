# Two commands: `make run` sets up and does the main job, `make test` sets up and passes the tests.
# Needs python3 (3.11 or later); the rest is installed into .venv, at the versions of constraints.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
PIP_INSTALL := $(BIN)/python -m pip install --quiet

.PHONY: run test test-kernel bare dist browser lint bench fuzz mutants docs site clean

run: $(VENV)/.ready-run
	$(BIN)/dpamt run

# On all CPUs, the tests of one file on one of them.
test: $(VENV)/.ready-test
	$(BIN)/python -m pytest -n auto --dist loadfile

# The tests that boot a real kernel: built from Debian's source package, kept in the user's cache.
# A boot depends on the machine's load: one that fails is tried once more, and the output says so.
# make test-kernel MISTAKES=all: each of the twenty mistakes in KVM, not one of each kind.
test-kernel: $(VENV)/.ready-test
	@if build=$$($(BIN)/python -m tests.boot.kernel.build); then \
	  DPAMT_MISTAKES=$(MISTAKES) DPAMT_KERNEL_BUILD=$$build $(BIN)/python -m pytest --reruns 1 -rR tests/boot/kernel; \
	else echo "test-kernel: SKIPPED, see above"; fi

# The wheel without extras, outside the checkout: every command of the documents is run there.
bare: $(VENV)/.ready-test
	$(BIN)/python -m tests.bare

# The sdist and the wheel, the same bytes whenever they are made.
dist: $(VENV)/.ready-test
	$(BIN)/python packaging/dist.py dist

# A browser for the tests of pages: root gets Debian's, others are told by the tests.
browser:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } \
	  || echo "make: no chromium: tests of pages will be skipped" >&2

lint: $(VENV)/.ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.ready-test
	$(BIN)/python -m benchmarks.bench_seamcall
	$(BIN)/python -m benchmarks.bench_fault
	$(BIN)/python -m benchmarks.bench_bulk
	$(BIN)/python -m benchmarks.bench_startup
	$(BIN)/python -m benchmarks.bench_default_run
	$(BIN)/python -m benchmarks.bench_ageing
	$(BIN)/python -m benchmarks.bench_fleet
	$(BIN)/python -m benchmarks.bench_trace

# Random hosts against the module until something is found: make fuzz, make fuzz N=1000000 SEED=17.
fuzz: $(VENV)/.ready-test
	$(BIN)/python -m tests.module.fuzz $(if $(N),--calls $(N)) $(if $(SEED),--seed $(SEED))

# Small bugs put into the source, one after another: what the tests see of them.  A sample of each package,
# or: make mutants PACKAGE=plan SAMPLE=40 SEED=7, make mutants FILE=plan/fresh.py.
mutants: $(VENV)/.ready-mutants
	$(BIN)/python -m tests.mutants $(PACKAGE) $(FILE) $(if $(SAMPLE),--sample $(SAMPLE)) $(if $(SEED),--seed $(SEED))

docs: $(VENV)/.ready-docs
	$(BIN)/python -m dpamt.run.schema_text > docs/scenario.md
	$(BIN)/python -m dpamt.report.leaf_pages docs/leaves
	$(BIN)/python -m dpamt.report.hazard_page > docs/hazards.md
	$(BIN)/python -m dpamt.report.json_schemas docs/schemas
	$(BIN)/python docs/pictures/draw.py
	$(BIN)/python docs/shell/make.py
	$(BIN)/python docs/shown.py

# The documents as a site, in build/site/index.html; a warning is an error.  The pictures of docs/ are
# drawn too, beside it: whether the script still does is seen here.
site: $(VENV)/.ready-docs
	$(BIN)/python docs/pictures/draw.py build/pictures
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

clean:
	rm -rf $(VENV) build src/*.egg-info .mypy_cache .ruff_cache .hypothesis

# Debian's python3 comes without venv; root can add it here, others are told how.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "make: $(PYTHON) is older than 3.11" >&2; exit 1; }
	@rm -rf $(VENV); $(PYTHON) -m venv $(VENV) >/dev/null 2>&1 \
	  || { rm -rf $(VENV); [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	       && apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null \
	       && $(PYTHON) -m venv $(VENV); } \
	  || { rm -rf $(VENV); echo "make: $(PYTHON) -m venv failed: apt-get install python3-venv" >&2; exit 1; }

$(VENV)/.ready-run: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.ready-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP_INSTALL) --editable '.[test,lint]'
	@touch $@ $(VENV)/.ready-run

$(VENV)/.ready-mutants: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP_INSTALL) --editable '.[test,mutants]'
	@touch $@ $(VENV)/.ready-run

$(VENV)/.ready-docs: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP_INSTALL) --editable '.[docs]'
	@touch $@ $(VENV)/.ready-run
