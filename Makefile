# CI calls the same targets. `make help` lists them.

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2> /dev/null \
	&& echo $$python && break; done)
BIN := .venv/bin
WORKERS ?= 2
ARGS ?=
FUZZ_SECONDS ?= 60
# The tests start thousands of commands. Without stored bytecode, each one compiles all of its modules again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast check format bench bench-peers fuzz lock protos errors clouds schemas openapi operations clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install nginx, the virtual environment and the locked packages, if they are missing
	@test -n "$(PYTHON)" || { echo "setup: error: no Python 3.11, 3.12 or 3.13 found. On Debian or Ubuntu: apt-get install python3 python3-venv" >&2; exit 4; }
	@$(PYTHON) scripts/setup.py

demo: setup ## Run the twelve steps on this machine (ARGS="--attack", "--keep", ...)
	@$(BIN)/sealserve demo $(ARGS)

test: setup ## Run every test
	@$(BIN)/python -m scripts.promtool --if-possible
	@$(BIN)/python -m scripts.softhsm --if-possible
	@$(BIN)/python -m scripts.postgresql --if-possible
	@$(BIN)/python -m scripts.node_packages --if-possible
	@$(BIN)/python -m scripts.stock_clients --if-possible
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m "not docker and not kubernetes" $(ARGS)

test-fast: setup ## Run the tests that require neither TensorFlow nor other programs
	$(BIN)/pytest -n $(WORKERS) -m "not tensorflow and not integration and not e2e and not docker and not kubernetes" $(ARGS)

check: setup ## Check format, lint, types, layers and generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/prose.py
	$(BIN)/python scripts/protos.py --check
	$(BIN)/python -m scripts.errors --check
	$(BIN)/python -m scripts.clouds --check
	$(BIN)/python -m scripts.schemas --check
	$(BIN)/python -m scripts.openapi --check
	$(BIN)/python -m scripts.operations --check
	$(BIN)/python -m scripts.reference --check
	$(BIN)/python -m scripts.deploy --check
	$(BIN)/python -m scripts.pictures --check
	$(BIN)/python -m scripts.attested_vectors --check

.PHONY: docs
docs: setup ## Build the documentation site into build/site (ARGS="--serve" shows it while you write)
	@$(BIN)/python scripts/site.py $(ARGS)

.PHONY: prose
prose: setup ## Check sentences, phrases and spelling with Vale, built from its Go module (ARGS="PATH...")
	@$(BIN)/python scripts/prose.py $(ARGS)

format: setup ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup ## Measure the cost of each part of the request path
	$(BIN)/python bench/path.py $(ARGS)

bench-peers: ## Compare the model server with KServe's and MLServer's, in separate environments
	@test -n "$(PYTHON)" || { echo "bench-peers: error: no Python 3.11, 3.12 or 3.13 found." >&2; exit 4; }
	@$(PYTHON) scripts/setup.py --benchmarks
	$(BIN)/python scripts/peers.py
	$(BIN)/python bench/serving.py --only half-plus-two $(ARGS)

.PHONY: test-kubernetes cluster-up cluster-down
test-kubernetes: setup ## Run the Kubernetes tests, on the cluster of KUBECONFIG or on a local one (requires root and Go)
	@test -n "$(KUBECONFIG)" || $(BIN)/python -m testbed.kubernetes build
	$(BIN)/pytest tests/kubernetes -p no:xdist $(ARGS)

cluster-up: setup ## Start a Kubernetes cluster on this machine, for tests and trials (requires root and Go)
	@$(BIN)/python -m testbed.kubernetes up $(ARGS)

cluster-down: setup ## Stop the local Kubernetes cluster, and remove all its files
	@$(BIN)/python -m testbed.kubernetes down

.PHONY: test-docker compose
test-docker: setup ## Run the Docker tests, on the running engine or on a temporary one (requires root)
	@$(BIN)/python -m scripts.postgresql --if-possible
	@test -x build/docker/docker-compose || ! command -v go > /dev/null || $(MAKE) compose
	$(BIN)/pytest tests/docker -p no:xdist $(ARGS)

compose: ## Build Docker Compose from its Go module, for the tests of compose.yaml (requires Go; takes some minutes)
	cd testbed/docker/tools && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o $(CURDIR)/build/docker/docker-compose \
		github.com/docker/compose/v2/cmd

.PHONY: promtool
promtool: setup ## Unpack promtool from Debian's prometheus package, for the tests of alert rules
	@$(BIN)/python -m scripts.promtool

.PHONY: softhsm
softhsm: setup ## Unpack SoftHSM from Debian's packages, for the tests of PKCS#11
	@$(BIN)/python -m scripts.softhsm

.PHONY: postgresql
postgresql: setup ## Unpack the distribution's PostgreSQL server, for the tests of the broker's database
	@$(BIN)/python -m scripts.postgresql

.PHONY: node-packages
node-packages: setup ## Install the packages of the tests' Node.js programs: a verifier of quotes, a gRPC client
	@$(BIN)/python -m scripts.node_packages

.PHONY: stock-clients
stock-clients: setup ## Install tritonclient, KServe's clients and others, for the tests of the model server's APIs
	@$(BIN)/python -m scripts.stock_clients

fuzz: setup ## Fuzz the parsers for FUZZ_SECONDS (default 60)
	$(BIN)/python scripts/fuzz.py --seconds $(FUZZ_SECONDS) $(ARGS)

lock: setup ## Update the lock files to the newest allowed versions
	$(BIN)/python scripts/lock.py

protos: setup ## Generate the Python code of every .proto file
	$(BIN)/python scripts/protos.py

errors: setup ## Generate the error reference from the error codes
	$(BIN)/python -m scripts.errors

schemas: setup ## Generate the published JSON schemas
	$(BIN)/python -m scripts.schemas

openapi: setup ## Generate the OpenAPI descriptions of the REST API and of the administration API
	$(BIN)/python -m scripts.openapi

operations: setup ## Compare the operation classes with TensorFlow, and generate their page
	$(BIN)/python -m scripts.operations

.PHONY: vectors
vectors: setup ## Write the test vectors of the attestation protocol
	$(BIN)/python -m scripts.attested_vectors

clouds: setup ## Generate the cloud reference from the presets
	$(BIN)/python -m scripts.clouds

.PHONY: docs-media
docs-media: setup ## Record the demo as a picture for the README, from a real run (minutes)
	@$(BIN)/python scripts/media.py

.PHONY: pictures
pictures: setup ## Draw the pictures of the documentation
	$(BIN)/python -m scripts.pictures

.PHONY: reference
reference: schemas ## Write the reference of commands, sealserve.toml, the client, metrics and JSON from the code
	$(BIN)/python -m scripts.reference
	$(BIN)/python -m scripts.deploy

.PHONY: dist
dist: setup ## Build the wheel and the sdist into dist/
	@$(BIN)/python scripts/dist.py

clean: ## Remove the virtual environment, caches and the demo's workspace (your own workspaces stay)
	@if [ -f sealserve.toml ] && grep -q 'Written by `sealserve demo`' sealserve.toml; then \
		$(BIN)/sealserve down --yes && rm -rf .sealserve sealserve.toml; \
	elif [ -d .sealserve ]; then echo "clean: .sealserve contains your own deployment and is not removed"; fi
	rm -rf .venv .venv-docs .venv-peers build dist .coverage htmlcov .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
