# env: .venv with everything; the other targets build on it.
PYTHON ?= python3
PY := .venv/bin/python

.PHONY: env demo demo-water test slow check check-types check-style format docs test-docs reference notebooks wheel \
  test-wheel bench bench-docs bench-env bench-openmm bench-allscaip test-torchforce clean
.DEFAULT_GOAL := help

help:
	@echo "make env     .venv with uip (editable), its compiled libraries, tests, tools and published weights"
	@echo "make demo    LAMMPS on two ranks: a cathode oxide with the published CHGNet"
	@echo "make demo-water  salt water: AllScAIP in LAMMPS and OpenMM against the force field it learned (15 min)"
	@echo "make test    the fast test suite          make slow   the tests that take minutes"
	@echo "make docs    the documentation as a site, build/site     make test-docs   looks at it in Chromium"
	@echo "make reference   docs/reference from the program        make notebooks   runs docs/notebooks again"
	@echo "make wheel   dist/uip-*.whl, for every Python      make test-wheel   tries it in a fresh environment (1.5 GB)"
	@echo "make bench-openmm   native force, PythonForce, chgnet   make test-torchforce   stock openmm-torch (2.8 GB)"
	@echo "make bench-allscaip REQUIREMENTS=file   AllScAIP against fairchem-core, in an environment of its own"
	@echo "make check   style, types, import direction, generated files"
	@echo "make bench   CHGNet, all questions, against the published code   make bench-docs   docs/benchmarks.md from it"

env: .venv/ready

# Warnings of the C++ compiler are errors in CI, not where users build.
STRICT := $(if $(CI),--config-settings=cmake.define.UIP_WERROR=ON)

# Without build isolation, torch is unpacked once and not twice.
# chgnet without dependencies: its weight files are read, its code is not imported.
.venv/ready: pyproject.toml CMakeLists.txt $(wildcard uip/csrc/* lammps_plugin/* openmm_plugin/*)
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet torch==2.13.0
	$(PY) .ci/build_requirements.py | $(PY) -m pip install --quiet --requirement /dev/stdin
	$(PY) -m pip install --quiet --no-build-isolation --editable '.[test,dev,wheel]' $(STRICT)
	$(PY) -m pip install --quiet --no-deps chgnet==0.4.2
	touch $@

demo: env
	$(PY) examples/lammps_oxide/demo.py

demo-water: env
	$(PY) examples/long_range/demo_water.py

# Threads that wait for work must not spin: tests run several programs at once.
test slow: export OMP_WAIT_POLICY = passive

# The processor's flags name its instruction sets; torch's compiler would also compile a file for each, 13 s in all.
test slow: export TORCHINDUCTOR_VEC_ISA_OK = 1

# Two processes with one thread each; WORKERS=0 runs all tests in one process with two threads.
WORKERS ?= 2
PYTEST := $(PY) -m pytest -q -n $(WORKERS) --dist loadgroup --durations 40 -rs

test: env
	$(PYTEST) -m "not slow"

slow: env
	$(PY) tests/export_files.py
	$(PYTEST) -m slow

check: check-types check-style

# The two run side by side with `make -j 2 check`.
check-types: env
	.venv/bin/mypy

check-style: env
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/codespell README.md CONTRIBUTING.md CHANGELOG.md docs uip lammps_plugin openmm_plugin examples benchmarks tests
	.venv/bin/clang-format --dry-run --Werror $$(git ls-files '*.cpp' '*.h' | grep -v schema.h)
	$(PY) -m uip.schema --check
	$(PY) -m pytest -q tests/test_architecture.py

format: env
	.venv/bin/ruff check --fix --quiet .
	.venv/bin/ruff format .

# What the environment compiled is linked once more, with paths relative to the wheel, and packed. auditwheel names the
# oldest glibc that will do. Its exclusions are libraries of packages that uip requires; torch brings libgomp.
IN_REQUIREMENTS := libtorch.so libtorch_cpu.so libc10.so libgomp.so.1 libOpenMM.so libvesin.so

wheel: env
	rm -rf build/wheel dist
	$(PY) -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir build/wheel --config-settings=build-dir=. .
	PATH="$(CURDIR)/.venv/bin:$$PATH" $(PY) -m auditwheel repair --wheel-dir dist $(IN_REQUIREMENTS:%=--exclude %) build/wheel/uip-*.whl
	$(PY) tests/wheel/inspect_wheel.py dist/uip-*.whl

test-wheel: wheel
	$(PY) tests/wheel/try_wheel.py write build/test_wheel
	$(PY) tests/wheel/try_wheel.py install dist/uip-*.whl build/test_wheel

# The site needs no torch: an environment of its own, 0.2 GB. A dead link is an error. Python compiles what is imported:
# `--no-compile` leaves out the rest.
.venv-docs/ready: pyproject.toml
	test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --upgrade pip
	.venv-docs/bin/python -m pip install --quiet --no-compile --group docs
	touch $@

docs: export NO_MKDOCS_2_WARNING = 1

docs: .venv-docs/ready
	.venv-docs/bin/mkdocs build
	@echo "written: build/site/index.html"

# Pictures of all pages are in build/screenshots.
test-docs: docs
	.venv-docs/bin/python -m pip install --quiet --group test-docs
	.venv-docs/bin/python tests/site/try_site.py build/site build/screenshots

reference: env
	$(PY) .ci/reference_pages.py

notebooks: env
	$(PY) -m pip install --quiet --group notebooks
	$(PY) .ci/run_notebooks.py docs/notebooks/*.ipynb

# The peer is needed with all its dependencies here.
bench-env: env
	$(PY) -m pip install --quiet chgnet==0.4.2

# BENCH="--before OLD.pt2 --before-path DIR": also an older program; more: benchmarks/chgnet_suite --help.
bench: bench-env
	$(PY) benchmarks/chgnet_suite $(BENCH)

bench-docs: env
	$(PY) benchmarks/chgnet_suite/document.py
	$(PY) benchmarks/chgnet_suite/figure.py

bench-openmm: bench-env
	$(PY) benchmarks/openmm_native.py

# fairchem-core needs other versions than uip: an environment of its own. REQUIREMENTS is a complete list of pinned
# packages, `pip freeze` of an environment with fairchem-core==2.24.0 and torch==2.13.0.
FAIRCHEM := .venv-fairchem/bin/python
.venv-fairchem/ready:
	test -f "$(REQUIREMENTS)" || { echo "make bench-allscaip needs REQUIREMENTS=file, see README.md"; exit 1; }
	test -x $(FAIRCHEM) || $(PYTHON) -m venv .venv-fairchem
	$(FAIRCHEM) -m pip install --quiet torch==2.13.0
	$(FAIRCHEM) -m pip install --quiet --no-deps -r "$(REQUIREMENTS)"
	touch $@

bench-allscaip: export OMP_WAIT_POLICY = passive

bench-allscaip: env .venv-fairchem/ready
	$(PY) benchmarks/allscaip_vs_fairchem.py --peer $(FAIRCHEM)

# Stock openmm-torch lives with an older torch: an environment of its own, 2.8 GB.
TORCHFORCE := .venv-torchforce/bin/python
.venv-torchforce/ready:
	test -x $(TORCHFORCE) || $(PYTHON) -m venv .venv-torchforce
	$(TORCHFORCE) -m pip install --quiet --no-compile torch==2.12.1 openmm==8.5.2 acellera-openmmtorch-cpu==1.10
	touch $@

test-torchforce: env .venv-torchforce/ready
	$(PY) tests/openmm/stock_torchforce.py write build/torchforce
	$(TORCHFORCE) tests/openmm/stock_torchforce.py check build/torchforce

clean:
	rm -rf .venv .venv-docs .venv-torchforce .venv-fairchem build dist uip/lib .pytest_cache .mypy_cache .ruff_cache
