# `make` prints what there is. Works with GNU make 3.81 (macOS) and later.
#
# Every target that needs Python asks helpers/environment/ensure.sh for one: an active environment
# that already holds requirements.txt, or .venv, which it makes first where there is none.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help env run notebooks lab status down kind-up kind-down train bench test test-faults audit image test-image lint format lock clean distclean

DATASET ?= cifar10
BACKEND ?= local
ONLY ?=
ARGS ?=
comma := ,

# Said before anything is installed or run.
ifeq ($(findstring |$(DATASET)|,|cifar10|digits|$(if $(filter train,$(MAKECMDGOALS)),credit_risk|breast_cancer|tickets|)),)
$(error DATASET=$(DATASET) is not known: use DATASET=cifar10 (the default) or DATASET=digits (bundled data, no download); make train also takes credit_risk, breast_cancer and tickets)
endif
ifeq ($(findstring |$(BACKEND)|,|local|kind|),)
$(error BACKEND=$(BACKEND) is not known: use BACKEND=local (the default, no Docker) or BACKEND=kind (a Kubernetes cluster))
endif

# alibi-detect refuses Keras 3; set before any TensorFlow is imported, in JupyterLab's kernels too.
export TF_USE_LEGACY_KERAS := 1
# The kernel named python3 is this environment's, not one of the same name in the home folder.
export JUPYTER_PREFER_ENV_PATH := 1

# For find: everything but what is not part of the repository.
OURS := \( -path ./.git -o -path ./.venv -o -path ./runs -o -path ./data \) -prune -o

# `python="$$(...)" &&` in front of a command: the environment is made first, or the recipe stops.
ENSURE := python="$$(PYTHON='$(PYTHON)' helpers/environment/ensure.sh)" &&
RUNNER := $(ENSURE) "$$python" -m helpers.runner

help:
	@awk 'BEGIN { FS = ":.*## "; print "make TARGET [VARIABLE=value ...]" } \
	/^##@ / { printf "\n%s\n", substr($$0, 5) } \
	/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 } \
	/^#\? / { printf "  %s\n", substr($$0, 4) }' Makefile

##@ Notebooks
run: ## Run every notebook; executed copies and HTML pages go to runs/<time>/
	@$(RUNNER) run --dataset '$(DATASET)' --backend '$(BACKEND)' --only '$(ONLY)' $(ARGS)

lab: ## Open JupyterLab on the notebooks
	@$(ENSURE) "$$python" -m jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks $(ARGS)

notebooks: ## Run every notebook and write its outputs back, for committing (CIFAR-10 only)
	@$(RUNNER) notebooks --dataset '$(DATASET)' --backend '$(BACKEND)' --only '$(ONLY)' $(ARGS)

##@ Local stack
status: ## Show the servers that notebooks have started
	@$(ENSURE) "$$python" -m helpers.stack status --backend '$(BACKEND)'

down: ## Stop them, and remove their events, logs and metrics
	@$(ENSURE) "$$python" -m helpers.stack down --backend '$(BACKEND)'

##@ Cluster
kind-up: ## Make a Kubernetes cluster in Docker for BACKEND=kind, or mend it (kind/README.md)
	@kind/up

kind-down: ## Remove it, its data and its images
	@kind/down

##@ Models
train: ## Train the artefacts of CIFAR-10 from scratch (hours); ONLY=resnet32 trains one, DATASET=tickets others
	@$(ENSURE) "$$python" -m helpers.train \
	$(if $(filter-out cifar10,$(DATASET)),--dataset '$(DATASET)') $(foreach name,$(subst $(comma), ,$(ONLY)),--only '$(name)') $(ARGS)

##@ Development
test: ## Run the tests; ARGS='-k name' picks some
	@$(ENSURE) $(if $(ARGS),"$$python" -m pytest $(ARGS),tests/run.sh "$$python")

test-faults: ## Kill, starve and overload servers; 10,000 requests that fit or miss their documents (20 minutes)
	@$(ENSURE) "$$python" -m pytest -m 'not kind' tests/reliability $(ARGS) && \
	FUZZ_CASES=3500 "$$python" -m pytest -rP tests/contract/test_bad_input.py tests/stack/test_control_api.py -k openapi

# Every ID in the table of known vulnerabilities: explained there, so no finding.
EXPLAINED = $(shell grep '^|' .github/SECURITY.md | grep -oE '(CVE|GHSA|PYSEC)-[0-9A-Za-z-]+')

# Not in the environment: it would bring pip and thirty packages to every reader.
audit: ## Look up every pinned package in the database of known vulnerabilities (needs a network)
	@$(ENSURE) "$$python" -m uv tool run pip-audit --strict --no-deps --disable-pip \
	--requirement requirements.txt --requirement kind/image/requirements.txt \
	$(foreach id,$(EXPLAINED),--ignore-vuln $(id)) $(ARGS)

image: ## Build walkthrough/serving of this version with Docker; ENGINE=podman with podman
	@kind/image/build.sh "$$(sed -n 's/^IMAGE_SERVING=//p' kind/versions.env)" $(ARGS)

test-image: ## Build the serving image with podman, as root, and test its containers (10 minutes)
	@$(ENSURE) tests/image/run.sh "$$python" $(ARGS)

bench: ## Measure speed, memory and start-up against the limit (10 minutes); ONLY=model runs one part
	@$(ENSURE) "$$python" -m benchmarks $(foreach part,$(subst $(comma), ,$(ONLY)),--only '$(part)') $(ARGS)

lint: ## Check style: ruff check, ruff format, shellcheck if installed
	@$(ENSURE) "$$python" -m ruff check . && "$$python" -m ruff format --check .
	@if command -v shellcheck >/dev/null 2>&1; \
	then shellcheck -x .ci/run kind/up kind/down $$(find . $(OURS) -name '*.sh' -print); \
	else echo "shellcheck is not installed: the shell scripts were not checked"; fi

format: ## Rewrite the code as `make lint` wants it
	@$(ENSURE) "$$python" -m ruff check --fix . && "$$python" -m ruff format .

env: ## Make or mend the environment, and print its Python
	@$(ENSURE) echo "$$python"

# Without hashes: pip demands them of every line once one has them, the project itself (`-e .` in
# environment.yml) included, and PyPI never replaces the files of a version.
lock: ## Compile requirements.txt and the image's from pyproject.toml; ARGS=--upgrade takes newer versions
	@$(ENSURE) "$$python" -m uv pip compile pyproject.toml --quiet --all-extras --universal \
	--python-version 3.12 --no-emit-index-url --custom-compile-command 'make lock' \
	--output-file requirements.txt $(ARGS) && \
	"$$python" -m uv pip compile kind/image/requirements.in --quiet --universal --python-version 3.12 \
	--constraint requirements.txt --override kind/image/overrides.txt --no-emit-index-url \
	--custom-compile-command 'make lock' --output-file kind/image/requirements.txt

clean: ## Remove runs and caches; keeps the environment, data and training checkpoints
	@rm -rf runs/2* .pytest_cache .ruff_cache *.egg-info build
	@find . $(OURS) \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

distclean: clean ## Also remove .venv, downloaded data and training checkpoints; stops stack and cluster
	@if [ -d runs/stack ]; then $(ENSURE) "$$python" -m helpers.stack down; fi
	@if [ -d runs/kind ]; then kind/down; fi
	@rm -rf .venv data runs

##@ Variables
#? ONLY=06             one notebook, or several (ONLY=06,07); for train one artefact
#? DATASET=digits      bundled data, trains on the spot in about a minute (default: cifar10);
#?                     for train also credit_risk, breast_cancer or tickets
#? BACKEND=kind        a Kubernetes cluster instead of this machine (default: local)
#? PARTS=core,eventing less of it, of core, eventing, monitoring, logging (kind-up)
#? ARGS='...'          more options for the command behind the target
#? PYTHON=/path/to/it  the Python 3.12 to make .venv with (default: found by itself)
