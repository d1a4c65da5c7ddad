# make train   set up, train on the bundled sample, print the test errors
# make test    set up, run the whole test suite
# make setup   what both need; make lint; make clean
# make docs    the documentation site, in build/site
# make bench   speed and memory against SchNetPack and PyG; make bench-gpu: on CUDA; ARGS="--quick --works 2,6" to try
#
# PYTHON=python3.12      interpreter of the environment in .venv (3.11 to 3.13)
# TORCH="torch==2.9.1"   another torch; add --index-url for a CPU or another CUDA build
# EDGES=vesin            without torch-cluster: the same edges, no compiler, nothing to build

SHELL  := /bin/bash
PYTHON ?= python3
TORCH  ?= torch==2.13.0
EDGES  ?= torch_cluster
RUN    ?= runs/ethanol-$(shell date +%Y%m%d-%H%M%S)
VENV   := .venv
BENCH  := .bench
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip install --disable-pip-version-check --quiet
CORES  := $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
# wheels of extensions fit one Python and one torch only, which pip's own cache does not know
WHEELS  = $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/pygschnet/wheels/$(shell $(PY) -c 'import sys, torch; print(f"{sys.implementation.cache_tag}-torch{torch.__version__}")')

.PHONY: train test setup bench bench-gpu lint docs clean
.DELETE_ON_ERROR:

train: $(VENV)/edges-$(EDGES)
	$(VENV)/bin/pygschnet fit -c experiments/sample.yaml --data.edges $(EDGES) --run_dir $(RUN)

test: $(VENV)/edges-torch_cluster $(VENV)/scatter $(VENV)/tools
	$(PY) -m pytest

setup: $(VENV)/edges-$(EDGES)

bench: $(BENCH)/peers
	PYTHONPATH=. $(BENCH)/bin/python experiments/benchmarks/peers.py $(ARGS)

bench-gpu: $(BENCH)/peers
	PYTHONPATH=. $(BENCH)/bin/python experiments/benchmarks/peers.py --device cuda --compile $(ARGS)

lint: $(VENV)/tools
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(VENV)/site
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet --strict -f .ci/mkdocs.yml

clean:
	rm -rf $(VENV) $(BENCH)

$(VENV)/package: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else f"Python 3.11 to 3.13 is needed, $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.12")'
	@echo "== installing torch and the package into $(VENV): 1 to 3 minutes, most of it downloads"
	@start=$$SECONDS; $(PYTHON) -m venv $(VENV) && $(PIP) setuptools wheel && $(PIP) $(TORCH) && $(PIP) -e . && \
	echo "== installed in $$((SECONDS - start)) s" && touch $@

$(VENV)/tools: $(VENV)/package
	@$(PIP) -e '.[test,lint]'
	@$(PY) -c 'import triton' 2>/dev/null || $(PIP) --no-deps triton==3.6.0 || \
	  echo "== no Triton for this machine: its kernels are not tested"
	@touch $@

$(VENV)/site: $(VENV)/package
	@$(PIP) -e '.[docs]' && touch $@

$(VENV)/edges-vesin: $(VENV)/package
	@touch $@

$(VENV)/edges-torch_cluster: $(VENV)/package
	@$(call build,torch-cluster,1.6.3) && touch $@

$(VENV)/scatter: $(VENV)/edges-torch_cluster
	@$(call build,torch-scatter,2.1.2) && touch $@

# SchNetPack beside what is in .venv, the same torch with it, and apart from it
$(BENCH)/peers: $(VENV)/edges-$(EDGES)
	@$(PY) -m venv $(BENCH) && echo '*' > $(BENCH)/.gitignore && \
	$(BENCH)/bin/python -c 'import pathlib, sysconfig; site = pathlib.Path(sysconfig.get_path("purelib")); \
	  theirs = pathlib.Path("$(VENV)").resolve() / site.relative_to(pathlib.Path("$(BENCH)").resolve()); \
	  (site / "shared.pth").write_text(f"import site; site.addsitedir({str(theirs)!r})\n")' && \
	$(BENCH)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --ignore-requires-python \
	  schnetpack==2.1.1 && touch $@

# $(call build,NAME,VERSION): a wheel built against the torch in .venv, its extensions side by side, then kept
define build
set -e; start=$$SECONDS; mkdir -p $(WHEELS); \
if ! ls $(WHEELS)/$(subst -,_,$(1))-$(2)-*.whl >/dev/null 2>&1; then \
  command -v $${CXX:-c++} >/dev/null || { echo "== $(1) needs a C++ compiler; without one: make train EDGES=vesin"; exit 1; }; \
  echo "== building $(1) $(2) from source on $(CORES) cores: about 5 minutes on 2; once for this Python and torch"; \
  config=$$(mktemp); printf '[build_ext]\nparallel = $(CORES)\n' > $$config; \
  DIST_EXTRA_CONFIG=$$config CFLAGS="-g0 -O1" CXXFLAGS="-g0 -O1" $(PY) -m pip wheel --disable-pip-version-check \
    --quiet --no-deps --no-build-isolation --no-cache-dir -w $(WHEELS) $(1)==$(2); \
  rm $$config; echo "== built in $$((SECONDS - start)) s"; \
fi; \
$(PIP) --no-deps $(WHEELS)/$(subst -,_,$(1))-$(2)-*.whl
endef
