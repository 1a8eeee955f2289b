# make run     check the model and this machine's QEMU against the specification
# make test    ruff, mypy --strict, pytest on all cores
# make test-slow, make fuzz, make fuzz-dmar    tests that take minutes
# make lock    write the lock files again, with the newest versions
# make release    what is published, in dist/: sdist, wheel, SBOM
#
# Each sets up everything it needs on a machine with Python 3.11, git and make; later calls start at once. Python packages
# are those of requirements/*.txt, checked by their hashes; NEWEST=1 takes the newest versions instead, into .venv-newest.

PYTHON ?= python3
NEWEST ?=
VENV := .venv$(if $(NEWEST),-newest)
READY := $(VENV)/ready
LOCK := requirements/test.txt
PIP_INSTALL := -m pip install -qq --disable-pip-version-check
LOCKED := --require-hashes --only-binary :all: --requirement
# Each worker runs tests that follow each other, so that most fixtures of a module are set up once; a worker that has
# finished takes over tests from another.
ALL_CORES := -n auto --dist worksteal

.PHONY: run test test-slow fuzz fuzz-dmar lock release packages test-packages clean

# A virtual environment contains its own path: a clone that was copied or moved is set up again.
ifneq ($(shell test -x $(VENV)/bin/python && cat $(READY) 2>/dev/null),$(CURDIR))
.PHONY: $(READY)
endif

run: packages $(READY)
	@$(VENV)/bin/vtd conform

test: test-packages $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/pytest $(ALL_CORES)

test-slow: test-packages $(READY)
	$(VENV)/bin/pytest -m slow
	HYPOTHESIS_PROFILE=search $(VENV)/bin/pytest $(ALL_CORES) tests/engine tests/batch tests/test_fields.py

# Changed inputs for every way in, for SECONDS, by default five minutes: tests/fuzz.
SECONDS ?= 300
SEED ?= 1
fuzz: packages $(READY)
	$(VENV)/bin/python -m tests.fuzz --seconds $(SECONDS) --seed $(SEED)

# Coverage-guided fuzzing of the DMAR parser.
fuzz-dmar: packages $(READY)
	@$(VENV)/bin/python -c 'import atheris' 2>/dev/null || $(VENV)/bin/python -m pip install --quiet --editable '.[fuzz]'
	$(VENV)/bin/python -m tests.dmar.fuzz -max_total_time=$(SECONDS)

packages:
	@sh tools/debian-packages.sh $(PYTHON)

test-packages:
	@sh tools/debian-packages.sh $(PYTHON) chromium cpio gcc libkdumpfile-dev

$(READY): pyproject.toml $(LOCK) | packages
	@echo "setting up $(VENV) ..."
	@$(PYTHON) -m venv --clear $(VENV)
ifdef NEWEST
	@$(VENV)/bin/python $(PIP_INSTALL) --upgrade --editable '.[test]'
else
	@$(VENV)/bin/python $(PIP_INSTALL) $(LOCKED) $(LOCK)
	@$(VENV)/bin/python $(PIP_INSTALL) --no-deps --no-build-isolation --editable .
endif
	@pwd -P > $@

.venv-release/ready: requirements/release.txt | packages
	@$(PYTHON) -m venv --clear .venv-release
	@.venv-release/bin/python $(PIP_INSTALL) $(LOCKED) $<
	@touch $@

lock: .venv-release/ready
	@sh tools/lock.sh .venv-release/bin/uv

release: .venv-release/ready
	@sh tools/release.sh .venv-release/bin

clean:
	rm -rf .venv .venv-newest .venv-release .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
