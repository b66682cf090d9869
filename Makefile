# `make demo` runs the whole journey, `make test` runs every check; each does all its own set-up.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo cloud-demo test aws-test lint lock setup browser torch clean

setup: $(READY)

$(READY): requirements.lock pyproject.toml infra/setup/ensure-venv
	infra/setup/ensure-venv $(PYTHON) $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" infra/setup/demo

# The whole loop on this machine: photos arrive, a model is trained and published, a simulated Pi picks it up.
cloud-demo: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" infra/setup/cloud-demo

test: $(READY) lint browser torch
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

# Applies infra/terraform to an emulated AWS; needs Terraform and its AWS provider, takes 5 minutes.
aws-test: $(READY)
	$(BIN)/python -m pytest tests/cloud/aws/on_aws.py --timeout 1200

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# The report is opened in a real browser by its tests.
browser:
	infra/setup/ensure-browser

# Too large to be locked among what everybody needs.
torch: $(READY)
	infra/setup/ensure-torch $(VENV)

# Pins every version and its digest again; commit the result.
lock: $(READY)
	$(BIN)/python -m uv pip compile pyproject.toml --extra dev --universal --generate-hashes --python-version 3.11 \
		--no-emit-index-url --no-annotate --upgrade --quiet --custom-compile-command "make lock" -o requirements.lock
	infra/setup/lock-container $(BIN)/python

clean:
	rm -rf $(VENV) demo-output build dist
