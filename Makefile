# make demo   runs the main job for real, on embedded defaults
# make test   lint, types, import direction and the tests
# make serve  runs the daemon until it is stopped
# Each sets up .venv from the lock file first: no root, no service, no model download.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
DICOM ?=

# Where it is set, every process compiles all that it imports: `--help` took 2.2 s of CPU, not 0.9.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test serve lint lock wheel clean

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Diptych needs Python 3.11 or newer: make PYTHON=python3.11 …" >&2; exit 4; }
	@rm -rf .venv
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --seed --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" .venv && \
	  uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock && \
	  uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e . ; \
	else \
	  $(PYTHON) -m venv .venv && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . ; \
	fi
	@touch $@

demo: $(READY)
	$(BIN)/diptych demo $(if $(DICOM),--dicom '$(DICOM)')

serve: $(READY)
	$(BIN)/diptych serve

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --scripts-are-modules --disable-error-code misc --disable-error-code no-any-return \
	  --disable-error-code import-not-found $(filter-out %.txt %.py,$(wildcard scripts/*))
	$(BIN)/lint-imports --no-cache

# In the order of the folders: daemons that the files of a folder share end with the folder.
test: lint
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(PYTEST)

# Beside the tests' environment those of the images (the same versions, without what only tests use).
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --custom-compile-command "make lock"
IMAGE := $(COMPILE) --no-annotate -c requirements.lock --extra postgresql
lock:
	$(COMPILE) pyproject.toml --extra cpu --group dev -o requirements.lock
	$(IMAGE) pyproject.toml --extra cpu -o deploy/docker/cpu.lock
	echo 'onnxruntime-gpu[cuda,cudnn]' | $(IMAGE) pyproject.toml - --extra gpu \
	  -o deploy/docker/cuda.lock
	echo 'hatchling==1.31.0' | $(COMPILE) --no-annotate -c requirements.lock - \
	  -o deploy/docker/build.lock

wheel: $(READY)
	$(BIN)/python -m build --no-isolation --outdir dist .

clean:
	rm -rf .venv dist build .mypy_cache .ruff_cache
