# make etcl        trains MURAL, ETCL and the control on scenes and shows what ETCL adds
# make demo        opens a page to search the scenes in any language, by the model of make etcl
# make test        runs the tests and the linter
# make test-slow   runs the tests that train for minutes, and shows their numbers
# make faults      kills, stops and damages runs, and shows what they survived
# make docs        builds the site of docs/ into build/site
# make test-beam   tests conversion by Apache Beam, in an environment of its own
# make tpu-env     shows that requirements-tpu.txt installs, imports and trains, on a CPU
# The first six make .venv first. PYTHON names the interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
BEAM := $(VENV)-beam
TPU := $(VENV)-tpu
SEED ?= 0
# Processes that share the tests; each takes up to 4 GiB.
WORKERS ?= 2
TEST_FILES := $(addprefix requirements,.txt -test.txt -jax.txt -plan.txt -export.txt -demo.txt \
  -notebooks.txt -convert.txt)

.PHONY: etcl demo test test-slow faults docs test-beam tpu-env lint clean

etcl: $(VENV)/.base
	$(BIN)/python tools/train.py --stage=etcl --seed=$(SEED)

# The scenes are data/scenes; training them is skipped where it was done.
demo: $(VENV)/.demo
	$(BIN)/python tools/train.py --stage=etcl --seed=$(SEED)
	$(BIN)/python tools/demo.py --records=data/scenes/test --model=runs/tiny/etcl-s$(SEED)

test: $(VENV)/.test lint
	$(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow -rP

# FAULTS_JSON=faults.json writes its table there too.
faults: $(VENV)/.test
	$(BIN)/python -m pytest -m faults tests/test_faults.py -rP

# Beam wants older packages than the rest, such as protobuf.
test-beam: $(TEST_FILES) requirements-beam.txt
	@$(BEAM)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(BEAM)
	$(BEAM)/bin/python -m pip install --quiet --disable-pip-version-check \
	  -r requirements.txt -r requirements-test.txt -r requirements-beam.txt
	$(BEAM)/bin/python -m pytest tests/test_beam.py

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

tpu-env:
	PYTHON=$(PYTHON) tests/tpu_environment.sh $(TPU)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# A stamp is written last, so that an interrupted install is made again; a .venv whose pip does not
# run is cleared.
$(VENV)/.base: requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) \
	  else "Python 3.11 to 3.13 is needed, this is %d.%d: make PYTHON=python3.12" % v)'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.test: $(VENV)/.base $(TEST_FILES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-test.txt
	@touch $@

$(VENV)/.demo: $(VENV)/.base requirements-demo.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-demo.txt
	@touch $@

$(VENV)/.docs: $(VENV)/.base requirements-docs.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	@touch $@

clean:
	rm -rf $(VENV) $(BEAM) $(TPU) build
