# VGG16 on CIFAR-10, the training job. `make help` lists what there is.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
CONFIG ?= configs/quickstart.py
# A folder a config, so that two of them never meet: configs/stem32.py:8ep is
# runs/stem32-8ep, configs/ablations.py:ladder/ema is runs/ablations-ladder-ema.
config_file = $(firstword $(subst :, ,$(CONFIG)))
variant = $(patsubst $(config_file)%,%,$(CONFIG))
WORKDIR ?= runs/$(basename $(notdir $(config_file)))$(subst /,-,$(subst :,-,$(variant)))
DATA ?=
# Of predict: image files.
INPUT ?=
given = $(filter command line environment,$(origin $(1)))
# Of configs/ablations.py.
PLAN ?= ladder
PLAN_DIR = $(if $(call given,WORKDIR),$(WORKDIR),runs/$(PLAN))
ARGS ?=

# Of the image and of a cluster. A run's name is new each time: the same one
# again goes on where that run stopped.
DOCKER ?= docker
KUBECTL ?= kubectl
NAMESPACE := vgg16-cifar10
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
OVERLAY ?= local
# Not from the environment, where some systems keep the host's.
ifneq ($(origin NAME),command line)
NAME = $(OVERLAY)-$(shell date -u +%y%m%d-%H%M%S)
endif
IMAGE ?=
GPUS ?=
NODES ?=
BUCKET ?=

# The GPU set where an NVIDIA driver is, else the CPU set.
SET ?= $(if $(wildcard /proc/driver/nvidia/version),gpu,cpu)
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready-$(SET)
READY_DEV := $(VENV)/.ready-dev-$(SET)

.PHONY: help
help: ## this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' \
	  $(MAKEFILE_LIST)
	@echo '  variables: CONFIG=FILE[:VARIANT] DATA=DIR WORKDIR=DIR ARGS="--config.x=y"'
	@echo '    SET=cpu|gpu PYTHON=python3.12; INPUT= of predict, PLAN= of ablate'

.PHONY: train
train: $(READY) ## train; CONFIG=configs/quickstart.py where none is given
	$(RUN) -m job.main --config=$(CONFIG) --workdir=$(WORKDIR) \
	  $(if $(DATA),--config.data.dir=$(DATA)) $(ARGS)

.PHONY: ablate
ablate: $(READY) ## all runs of a plan, and their comparison; PLAN=ladder
	$(RUN) -m job.main --mode=ablate --config=configs/ablations.py:$(PLAN) \
	  --workdir=$(PLAN_DIR) $(if $(DATA),--config.data.dir=$(DATA)) $(ARGS)
	$(RUN) -m job.main --mode=report --workdir=$(PLAN_DIR)

.PHONY: records
records: ## stem32.py beside its peers; 16 epochs, on a GPU 30, 100 and 200
	$(MAKE) ablate PLAN=$(if $(filter gpu,$(SET)),records_gpu,records)
	$(if $(filter gpu,$(SET)),$(MAKE) ablate PLAN=records_transfer \
	  $(if $(call given,WORKDIR),WORKDIR=$(WORKDIR)-transfer))

.PHONY: report
report: $(READY) ## WORKDIR/report.html of a run; of an ablation the comparison
	$(RUN) -m job.main --mode=report --workdir=$(WORKDIR) $(ARGS)

.PHONY: predict
predict: $(READY) ## what a run says of image files; INPUT=FILE|DIR|gs://...
	$(RUN) -m job.main --mode=predict --workdir=$(WORKDIR) \
	  $(foreach input,$(or $(wildcard $(INPUT)),$(INPUT)),--input=$(input)) $(ARGS)

.PHONY: export
export: $(READY) ## WORKDIR/export: a SavedModel, a .keras file, a model card
	$(RUN) -m job.main --mode=export --workdir=$(WORKDIR) $(ARGS)

.PHONY: diagnose
diagnose: $(READY) ## why the accuracy of a config is low, or of a run, WORKDIR=
	$(RUN) -m job.main --mode=diagnose \
	  $(if $(call given,WORKDIR),--workdir=$(WORKDIR)$(if $(call given,CONFIG),, \
	  $(if $(DATA),$(error the run in WORKDIR has its own data: with DATA give CONFIG too)))) \
	  $(if $(or $(call given,CONFIG),$(if $(call given,WORKDIR),,x)), \
	  --config=$(CONFIG) $(if $(DATA),--config.data.dir=$(DATA))) $(ARGS)

.PHONY: benchmark
benchmark: $(READY) ## images/s of the step, the job and the input, here
	$(RUN) -m job.main --mode=benchmark --config=$(CONFIG) \
	  $(if $(call given,WORKDIR),--workdir=$(WORKDIR)) $(if $(DATA),--config.data.dir=$(DATA)) $(ARGS)

.PHONY: bench
bench: $(READY) ## the job beside Keras fit and, with TORCH=PYTHON, PyTorch
	$(RUN) -m benchmarks.bench $(if $(TORCH),--torch=$(TORCH)) $(ARGS)

.PHONY: test
test: $(READY_DEV) ## the tests, within 8 minutes on 2 cores
	$(RUN) -m pytest -n 2 --dist loadfile -m "not faults" $(ARGS)

.PHONY: test-faults
test-faults: $(READY_DEV) ## kills and other faults on the real job
	$(RUN) -m pytest -m faults $(ARGS)

.PHONY: lint
lint: $(READY_DEV) ## ruff: rules and format; hadolint
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/hadolint Dockerfile

.PHONY: format
format: $(READY_DEV) ## let ruff mend what it can
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

.PHONY: types
types: $(READY_DEV) ## mypy on job/, configs/ and docs/
	$(RUN) -m mypy

.PHONY: setup
setup: $(READY_DEV) ## the environment, with the tools for development

.PHONY: lock
lock: ## pin the newest allowed packages into requirements/*.txt (needs uv)
	cd requirements && for set in cpu gpu dev; do \
	  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-header --no-annotate $$set.in -o $$set.txt; done

.PHONY: image
image: ## build the image with docker; SET=cpu|gpu, IMAGE=NAME:TAG
	$(DOCKER) build --target $(SET) --build-arg VERSION=$(VERSION) \
	  --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) \
	  -t $(or $(IMAGE),vgg16-cifar10:$(VERSION)-$(SET)) .

.PHONY: test-container
test-container: $(READY_DEV) ## build the CPU image and run it, hardened (root, Debian, no docker)
	tests/e2e/container/run $(RUN) -m pytest tests/e2e/container $(ARGS)

render = GPUS=$(GPUS) NODES=$(NODES) BUCKET=$(BUCKET) KUBECTL=$(KUBECTL) \
  k8s/render $(OVERLAY) "$${name}" $(IMAGE)

.PHONY: k8s-render
k8s-render: ## print the manifests; OVERLAY=, NAME=, IMAGE=, GPUS=, NODES=, BUCKET=
	@name=$(NAME); $(render)

.PHONY: k8s-apply
k8s-apply: ## start a run on the cluster; the same variables
	@set -euo pipefail; name=$(NAME); manifests=$$($(render)); \
	$(KUBECTL) apply -k k8s/namespace; \
	$(KUBECTL) apply -f - <<< "$$manifests"; \
	echo "make k8s-logs NAME=$$name follows it, make k8s-delete NAME=$$name ends it"

.PHONY: k8s-logs
k8s-logs: need-name ## follow the pods of a run; NAME=
	$(KUBECTL) logs --namespace=$(NAMESPACE) --selector=run=$(NAME) \
	  --all-containers --prefix --follow --tail=-1 --max-log-requests=200

.PHONY: k8s-delete
k8s-delete: need-name ## end a run; NAME=. Its volume or bucket keeps what it wrote
	$(KUBECTL) delete jobs,configmaps --namespace=$(NAMESPACE) \
	  --selector=run=$(NAME)
	@if $(KUBECTL) api-resources --api-group=jobset.x-k8s.io --output=name \
	  | grep -q jobsets; then $(KUBECTL) delete jobsets \
	  --namespace=$(NAMESPACE) --selector=run=$(NAME); fi

.PHONY: need-name
need-name:
	@$(if $(filter command,$(origin NAME)),,\
	  echo "which run? NAME=...; make k8s-apply says it" >&2; exit 2)

.PHONY: clean
clean: ## remove the environment and caches; runs stay
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(READY): requirements/$(SET).txt
	$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info[:2] <= (3, 13); \
	  sys.exit(0 if ok else "Python 3.11 to 3.13 is needed: make PYTHON=python3.12")'
	@echo "making the environment in $(VENV): a minute or two, once"
	@# tensorflow-cpu and tensorflow are the same files: never one on the other.
	@if ls $(VENV)/.ready-* 2> /dev/null | grep -qv -e '-$(SET)$$'; then \
	  echo "$(VENV) is of another SET: 'make clean' first, or VENV=.venv-$(SET)" >&2; \
	  exit 2; fi
	$(RUN) -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes \
	  -r requirements/$(SET).txt
	rm -f $(VENV)/.ready-*; touch $@

$(READY_DEV): $(READY) requirements/dev.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes \
	  -r requirements/$(SET).txt -r requirements/dev.txt
	touch $@
