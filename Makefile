# make demo    set up, then the main job on the embedded defaults; report in demo-output/
# make test    set up, then all tests; PALLAS_SKIP_E2E=1 leaves out those that need Label Studio and a browser
# make serve   set up, then run front, queue and worker until Ctrl-C
# make lint    set up, then ruff and mypy
# make pictures   set up, then the docs' pictures of Label Studio, by the end-to-end test of README's five steps
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
LABEL_STUDIO := .venv-label-studio
RUNNER := .label-studio-ml

.PHONY: demo test serve lint format pictures clean

demo: $(VENV)/.ready
	$(RUN) -m demo

ifneq ($(PALLAS_SKIP_E2E),1)
test: $(LABEL_STUDIO)/.ready
endif
# three processes also on two cores: many tests wait for programs that they start; what one of those has compiled is kept
# for the next, whatever the environment says
test: export PYTHONDONTWRITEBYTECODE =
test: $(VENV)/.ready-dev $(RUNNER)/.ready
	$(RUN) -m pytest -n 3 --dist loadscope --no-loadscope-reorder --durations=20

serve: $(VENV)/.ready
	$(RUN) -m backend serve

lint: $(VENV)/.ready-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/.ready-dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

pictures: $(VENV)/.ready-dev $(LABEL_STUDIO)/.ready
	$(RUN) -m pytest tests/e2e/test_first_hour.py
	cp -r test-artifacts/e2e/docs/. docs/

clean:
	rm -rf $(VENV) $(LABEL_STUDIO) $(RUNNER) demo-output .pallas test-artifacts

# torch first: sam2 is built from source against it, and would else fetch a second torch to build with
$(VENV)/.ready: requirements.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Pallas needs Python 3.11 or newer; this is `$(PYTHON) --version`. Try: make PYTHON=python3.12 ..."; exit 1; }
	@echo "Setting up $(VENV): about 5 GB with torch, some minutes the first time."
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --disable-pip-version-check -c constraints.txt \
		$$(grep -E '^(setuptools|wheel|torch|torchvision|numpy)==' requirements.txt)
	SAM2_BUILD_CUDA=0 $(RUN) -m pip install --disable-pip-version-check --no-build-isolation -r requirements.txt
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready requirements-dev.txt requirements-training.txt
	$(RUN) -m pip install --disable-pip-version-check --no-build-isolation -r requirements-dev.txt
	@touch $@

$(LABEL_STUDIO)/.ready: tests/e2e/setup.sh tests/e2e/requirements.txt tests/e2e/constraints.txt
	sh tests/e2e/setup.sh $(PYTHON) $(LABEL_STUDIO)
	@touch $@

# without its pins of 2021, for tests/runner alone
$(RUNNER)/.ready: $(VENV)/.ready requirements-runner.txt
	rm -rf $(RUNNER)
	$(RUN) -m pip install --disable-pip-version-check -q --no-deps --target $(RUNNER) -r requirements-runner.txt
	@touch $@
