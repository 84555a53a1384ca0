# Training job for VGG16 on CIFAR-10. `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
CONFIG ?= configs/quickstart.py
# Every config and variant has its own workdir: configs/stem32.py:10ep runs in
# runs/stem32-10ep, configs/ablations.py:ladder/ema in runs/ablations-ladder-ema.
config_file = $(firstword $(subst :, ,$(CONFIG)))
variant = $(patsubst $(config_file)%,%,$(CONFIG))
WORKDIR ?= runs/$(basename $(notdir $(config_file)))$(subst /,-,$(subst :,-,$(variant)))
DATA ?=
# A .keras file for `make diagnose`.
MODEL ?=
# Image files for `make predict`.
INPUT ?=
given = $(filter command line environment,$(origin $(1)))
# Workdirs for `make compare`.
RUNS ?=
# A plan of configs/ablations.py.
PLAN ?= ladder
PLAN_DIR = $(if $(call given,WORKDIR),$(WORKDIR),runs/$(PLAN))
ARGS ?=

# Image and cluster. Only the command line sets these variables, because the
# environment may use the same names for other purposes.
DOCKER ?= docker
KUBECTL ?= kubectl
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
typed = $(if $(filter command,$(origin $(1))),$($(1)))
# The name of the Job is train-OVERLAY-NAME. A run under an existing name resumes.
run_name := $(or $(call typed,NAME),$(shell date -u +%y%m%d-%H%M%S))
run_folder = k8s/runs/$(run_name)

# The default is gpu if an NVIDIA driver is loaded, otherwise cpu. In WSL2 the
# driver is that of Windows, and only its library is visible.
SET ?= $(if $(wildcard /proc/driver/nvidia/version /usr/lib/wsl/lib/libcuda.so*),gpu,cpu)
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready-$(SET)
READY_DEV := $(VENV)/.ready-dev-$(SET)

# A misspelled variable on the command line would be ignored.
known = CONFIG DATA WORKDIR ARGS MODEL INPUT RUNS PLAN SET PYTHON VENV RUN TORCH STAGE \
  VENV_GPU_READY GPU_READY DOCKER KUBECTL IMAGE OVERLAY NAME GPUS NODES BUCKET COMPONENTS \
  MAKEFLAGS SHELL
upper = $(shell echo $(1) | tr a-z A-Z)
lower = $(shell echo $(1) | tr A-Z a-z)
field = ARGS="--config.$(lower)=$($(1))" for a field. make help lists the variables
unknown = $(error $(1)=$($(1)): the variable is unknown. Fix: use \
  $(if $(filter $(known),$(upper)),$(upper)=$($(1)),$(field)))
$(foreach v,$(filter-out $(known),$(.VARIABLES)),$(if $(call typed,$(v)),$(call unknown,$(v))))

.PHONY: help
help: ## list the targets
	@awk -F':.*## ' '/^##@ / {printf "%s\n", substr($$0, 5)} \
	  /^[a-z0-9-]+:.*## / {printf "  make %-21s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo 'Variables'
	@echo '  CONFIG=NAME[:VARIANT] DATA=DIR WORKDIR=DIR ARGS="--config.x=y"'
	@echo '  SET=cpu|gpu PYTHON=python3.12 INPUT=FILE|DIR|gs://... PLAN=NAME RUNS=A,B'
	@echo '  OVERLAY= NAME= IMAGE= GPUS= NODES= BUCKET= COMPONENTS= (image and cluster)'

##@ Train
.PHONY: train
train: $(READY) ## train a network (CONFIG=configs/quickstart.py)
	$(RUN) -m job.main --config=$(CONFIG) --workdir=$(WORKDIR) \
	  $(if $(DATA),--config.data.dir=$(DATA)) $(ARGS)

.PHONY: fetch
fetch: $(READY) ## download CIFAR-10, or verify your copy (DATA=DIR)
	$(RUN) -m job.main --mode=fetch \
	  --config=$(if $(call given,CONFIG),$(CONFIG),configs/stem32.py) \
	  $(if $(DATA),--config.data.dir=$(DATA)) $(ARGS)

##@ Inspect a run
.PHONY: evaluate
evaluate: $(READY) ## score the newest checkpoint (WORKDIR=)
	$(RUN) -m job.main --mode=evaluate --workdir=$(WORKDIR) $(ARGS)

.PHONY: report
report: $(READY) ## write WORKDIR/report.html or an ablation's comparison
	$(RUN) -m job.main --mode=report --workdir=$(WORKDIR) $(ARGS)

.PHONY: compare
compare: $(READY) ## compare runs on one page (RUNS=A,B)
	$(RUN) -m job.main --mode=report \
	  --workdir=$(if $(call given,WORKDIR),$(WORKDIR),runs/compare) \
	  --runs=$(or $(RUNS),$(error RUNS is missing. Fix: set RUNS=runs/a,runs/b)) $(ARGS)

.PHONY: diagnose
diagnose: $(READY) ## explain a low accuracy (WORKDIR=, CONFIG= or MODEL=)
	$(if $(MODEL),$(if $(or $(call given,CONFIG),$(call given,WORKDIR)),$(error \
	  MODEL=$(MODEL): conflict with CONFIG or WORKDIR. Fix: set one of them)), \
	  $(if $(or $(call given,CONFIG),$(call given,WORKDIR),$(ARGS)),,$(error \
	  MODEL, WORKDIR or CONFIG is missing. Fix: set WORKDIR=DIR)))
	$(RUN) -m job.main --mode=diagnose \
	  $(if $(MODEL),--keras_model=$(MODEL) $(if $(DATA),--config.data.dir=$(DATA)), \
	  $(if $(call given,WORKDIR),--workdir=$(WORKDIR)$(if $(call given,CONFIG),, \
	  $(if $(DATA),$(error DATA without CONFIG: the run in WORKDIR has its own data. Fix: add CONFIG)))) \
	  $(if $(or $(call given,CONFIG),$(if $(call given,WORKDIR),,x)), \
	  --config=$(CONFIG) $(if $(DATA),--config.data.dir=$(DATA)))) $(ARGS)

.PHONY: predict
predict: $(READY) ## classify image files with a run (INPUT=FILE)
	$(RUN) -m job.main --mode=predict --workdir=$(WORKDIR) \
	  $(foreach input,$(or $(wildcard $(INPUT)),$(INPUT)),--input=$(input)) $(ARGS) \
	  $(if $(INPUT)$(findstring --input,$(ARGS)),,$(error INPUT is missing. Fix: set INPUT=FILE))

.PHONY: export
export: $(READY) ## write WORKDIR/export: SavedModel, .keras file, model card
	$(RUN) -m job.main --mode=export --workdir=$(WORKDIR) $(ARGS)

.PHONY: tensorboard
tensorboard: $(READY) ## show the curves of all runs (or WORKDIR=) in a browser
	$(RUN) -m tensorboard.main $(ARGS) \
	  --logdir=$(if $(call given,WORKDIR),$(WORKDIR),runs)

##@ Experiments
.PHONY: ablate
ablate: $(READY) ## train and compare the variants of a plan (PLAN=ladder)
	$(RUN) -m job.main --mode=ablate --config=configs/ablations.py:$(PLAN) \
	  --workdir=$(PLAN_DIR) $(if $(DATA),--config.data.dir=$(DATA)) $(ARGS)
	$(RUN) -m job.main --mode=report --workdir=$(PLAN_DIR)

.PHONY: baselines
baselines: ## compare stem32.py with published recipes
	$(MAKE) ablate PLAN=$(if $(filter gpu,$(SET)),baselines_gpu,baselines)
	$(if $(filter gpu,$(SET)),$(MAKE) ablate PLAN=baselines_transfer \
	  $(if $(call given,WORKDIR),WORKDIR=$(WORKDIR)-transfer))

.PHONY: benchmark
benchmark: $(READY) ## measure images/s of the step, the job and the input
	$(RUN) -m job.main --mode=benchmark --config=$(CONFIG) \
	  $(if $(call given,WORKDIR),--workdir=$(WORKDIR)) $(if $(DATA),--config.data.dir=$(DATA)) $(ARGS)

.PHONY: benchmark-frameworks
benchmark-frameworks: $(READY) ## compare the job with Keras fit and PyTorch (TORCH=PYTHON)
	$(RUN) -m benchmarks.frameworks $(if $(TORCH),--torch=$(TORCH)) $(ARGS)

# The target uses a given Python (RUN=) and needs no installation or network.
.PHONY: gpu-first-hour
gpu-first-hour: ## check and measure the job on a GPU (DATA=DIR STAGE=all RUN=PYTHON)
	$(RUN) -m benchmarks.first_hour $(if $(DATA),--data=$(DATA)) $(if $(STAGE),--stage=$(STAGE)) $(if $(TORCH),--torch=$(TORCH)) $(ARGS)

# Former names of two targets, kept for one release. Remove both in version
# 0.2.0.
.PHONY: bench records
bench:
	@echo "make bench is now called make benchmark-frameworks" >&2
	@$(MAKE) --no-print-directory benchmark-frameworks
records:
	@echo "make records is now called make baselines" >&2
	@$(MAKE) --no-print-directory baselines

##@ Development
.PHONY: setup
setup: $(READY_DEV) ## install the environment and the development tools

.PHONY: test
test: $(READY_DEV) ## run the tests, in about 6 minutes on 2 cores
	$(RUN) -m pytest -n 2 --dist loadfile -m "not faults" $(ARGS)

.PHONY: test-faults
test-faults: $(READY_DEV) ## run the fault tests, with kills and outages of the job
	$(RUN) -m pytest -n 2 --dist loadfile -m faults $(ARGS)

.PHONY: test-diagnose
test-diagnose: $(READY_DEV) ## train models with planted mistakes and diagnose them
	$(if $(DATA),CIFAR10_DIR=$(DATA)) PLANTED=all $(RUN) -m pytest -s \
	  tests/e2e/test_planted_models.py $(ARGS)

# The environment has TensorFlow's CUDA build and the assembler of CUDA, but no
# CUDA libraries. GPU_READY=small compiles three configs, and GPU_READY=update
# stores new limits.
VENV_GPU_READY ?= .venv-gpu-ready
GPU_READY ?= all
.PHONY: test-gpu-ready
test-gpu-ready: $(VENV_GPU_READY)/.ready ## compile the step for GPUs, without one (GPU_READY=all)
	@command -v g++ > /dev/null || { \
	  echo "g++ is not installed. Fix: run apt-get install g++" >&2; exit 2; }
	GPU_READY=$(GPU_READY) $(VENV_GPU_READY)/bin/python -m pytest \
	  --confcutdir=tests/gpu_ready -o timeout=1200 tests/gpu_ready $(ARGS)

.PHONY: lint
lint: $(READY_DEV) ## check the code, the Dockerfile and the wording
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/hadolint Dockerfile
	@! grep -rnIE -f .ci/dialect --exclude-dir=__pycache__ job configs tests k8s \
	  docs examples benchmarks README.md CONTRIBUTING.md Makefile || { echo "the words above are listed in .ci/dialect: see Language in CONTRIBUTING.md"; exit 1; }

.PHONY: format
format: $(READY_DEV) ## apply ruff's fixes and format
	$(RUN) -m ruff check --fix --exit-zero .
	$(RUN) -m ruff format .

.PHONY: types
types: $(READY_DEV) ## check the types of job/, configs/ and docs/ (mypy)
	$(RUN) -m mypy

.PHONY: lock
lock: ## pin the newest allowed packages (needs uv)
	cd requirements && for set in cpu gpu dev gpu-ready; do \
	  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-header --no-annotate $$set.in -o $$set.txt; done

.PHONY: clean
clean: ## remove the environment and the caches, but not the runs
	rm -rf $(VENV) $(VENV_GPU_READY) .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

##@ Image and cluster
.PHONY: image
image: ## build the image with docker; SET=cpu|gpu, IMAGE=NAME:TAG
	$(DOCKER) build --target $(SET) --build-arg VERSION=$(VERSION) \
	  --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) \
	  --build-arg CREATED=$$(date -u +%Y-%m-%dT%H:%M:%SZ) \
	  -t $(or $(call typed,IMAGE),vgg16-cifar10:$(VERSION)-$(SET)) .

.PHONY: test-container
test-container: $(READY_DEV) ## build and test the CPU image (root, Debian, no docker)
	tests/e2e/container/run $(RUN) -m pytest tests/e2e/container $(ARGS)

# A variable without an effect is an error.
new_run = $(foreach v,DATA WORKDIR INPUT PLAN SET,$(if $(call typed,$(v)),$(error \
  $(v) has no effect on a cluster. Fix: use ARGS="--config.x=y" or another overlay))) \
  KUBECTL="$(KUBECTL)" k8s/new-run --name="$(run_name)" \
  $(foreach v,image gpus nodes bucket config args components,--$(v)="$(call typed,$(shell \
  echo $(v) | tr a-z A-Z))") --overlay="$(or $(call typed,OVERLAY),local)"

.PHONY: k8s-run
k8s-run: ## start a run (OVERLAY=local IMAGE=NAME:TAG); k8s/setup comes first
	@folder=$$($(new_run)) && said=$$($(KUBECTL) apply -k "$$folder") && echo "$$said" && \
	case "$$said" in *job*/train-*unchanged*) \
	  echo "NAME=$(run_name): the run exists already. Fix: make k8s-delete NAME=$(run_name), then the same command resumes it" >&2; exit 2 ;; esac && \
	echo "make k8s-logs NAME=$(run_name) follows its logs, make k8s-delete NAME=$(run_name) deletes it"

.PHONY: k8s-render
k8s-render: ## write and print the manifests of a run, without a cluster
	@folder=$$($(new_run)) && $(KUBECTL) kustomize "$$folder"

.PHONY: k8s-logs
k8s-logs: need-run ## follow the logs of a run's pods (NAME=)
	@KUBECTL="$(KUBECTL)" k8s/logs $(run_folder)

.PHONY: k8s-fetch
k8s-fetch: need-run ## copy report, results and export of a run (NAME= WORKDIR=DIR)
	@KUBECTL="$(KUBECTL)" k8s/fetch $(run_folder) $(or $(call typed,WORKDIR),runs/$(run_name))

.PHONY: k8s-delete
k8s-delete: need-run ## delete a run but not its volume or bucket (NAME=)
	$(KUBECTL) delete --cascade=foreground -k $(run_folder)

.PHONY: need-run
need-run:
	@test -n "$(call typed,NAME)" && grep -qs overlays/ $(run_folder)/kustomization.yaml || { \
	  echo "NAME=$(call typed,NAME): no such run in k8s/runs. Fix: set the NAME that make k8s-run printed" >&2; exit 2; }

$(READY): requirements/$(SET).txt
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info[:2] <= (3, 13); \
	  sys.exit(0 if ok else "Python 3.11 to 3.13 is required. Fix: add PYTHON=python3.12 to the command")'
	@echo "Creating the environment in $(VENV) with the $(SET) packages (once, one to two minutes)"
	@# tensorflow-cpu and tensorflow install the same files, so an environment
	@# holds only one of them.
	@if ls $(VENV)/.ready-* 2> /dev/null | grep -qv -e '-$(SET)$$'; then \
	  echo "$(VENV) was made for another SET. Fix: run make clean, or set VENV=.venv-$(SET)" >&2; \
	  exit 2; fi
	$(RUN) -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes \
	  -r requirements/$(SET).txt
	rm -f $(VENV)/.ready-*; touch $@

$(VENV_GPU_READY)/.ready: requirements/gpu-ready.txt
	@echo "Creating the environment in $(VENV_GPU_READY) (once, one to two minutes)"
	$(PYTHON) -m venv --clear $(VENV_GPU_READY)
	$(VENV_GPU_READY)/bin/python -m pip install --quiet \
	  --disable-pip-version-check --require-hashes -r $<
	touch $@

$(READY_DEV): $(READY) requirements/dev.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes \
	  -r requirements/$(SET).txt -r requirements/dev.txt
	touch $@
