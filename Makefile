# One command surface, the same on a laptop and in CI. Needs only Python 3.11+ and make; each target sets up what it needs.
PYTHON ?= python3
UV ?= $(shell command -v uv 2>/dev/null || echo .tools/bin/uv)
RUN = $(UV) run --frozen --no-sync
JOBS ?= 12
KILLS ?= 1000
PYTEST_FLAGS ?= -n 2 --dist loadgroup

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test check format bench chaos load soak schema docs audit sbom wheel release clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "%-10s %s\n", $$1, $$2}'

.tools/bin/uv:
	$(PYTHON) installers/get_uv.py .tools

setup: $(UV) ## Install what is needed to run
	@test -d .venv || echo "installing what is needed into .venv, this once: a minute or two ..."
	@$(UV) sync --frozen --quiet --no-dev --inexact --python $(PYTHON)

setup-dev: $(UV) ## Install what is needed to develop
	@test -d .venv || echo "installing what is needed into .venv, this once: a minute or two ..."
	@$(UV) sync --frozen --quiet --python $(PYTHON)

demo: setup ## Run an example batch on simulated backends: no GPU, no key
	@$(RUN) hybrid-video demo --jobs $(JOBS) --out demo-output

test: setup-dev ## Run the tests
	@$(RUN) pytest $(PYTEST_FLAGS)

check: setup-dev ## Lint, format, types, layering
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) pytest -q tests/unit/test_layering.py

format: setup-dev ## Format and fix what can be fixed
	$(RUN) ruff format .
	$(RUN) ruff check --fix .

bench: setup-dev ## Measure; prints JSON
	@$(RUN) python benchmarks/run.py

chaos: setup-dev ## Kill batch runs KILLS times (1000) and compare ledger, clips and charges; goes on where it stopped
	@$(RUN) python benchmarks/chaos.py --kills $(KILLS) $(if $(SEED),--seed $(SEED))

load: setup-dev ## 100, 300 and 1,000 jobs at once, beside Prefect's floor and a bare client
	@$(RUN) python -m benchmarks.load

soak: setup-dev ## Thousands of batches over hours of virtual time: memory, files, connections and databases must not grow
	@$(RUN) python -m benchmarks.soak

schema: setup-dev ## Write the JSON Schema of batch files
	$(RUN) python -c "from hybrid_video.batchfile import json_schema; import json; print(json.dumps(json_schema(), indent=2))" > schemas/batch.schema.json

docs: setup-dev ## Build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --quiet --strict

audit: setup-dev ## Compare the locked dependencies with public advisories (needs pypi.org), and look for risky code
	@UV="$(UV)" $(RUN) python deploy/audit.py

sbom: $(UV) ## Write the bill of materials (CycloneDX) to sbom.json
	@$(UV) export --frozen --no-dev --all-extras --format cyclonedx1.5 --quiet -o sbom.json

wheel: setup-dev ## Build wheel and source archive into dist/
	@$(RUN) python -m hatchling build -d dist

release: setup-dev ## Check, test and build a release into dist/VERSION; needs VERSION=1.2.3
	@UV="$(UV)" $(RUN) python deploy/release.py "$(VERSION)"

clean: ## Remove what the other targets made
	rm -rf .venv .tools dist demo-output site sbom.json .pytest_cache .mypy_cache .ruff_cache
