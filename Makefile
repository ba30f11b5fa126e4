# make etcl        trains MURAL, the control and ETCL on scenes, and prints a comparison
# make demo        opens a page that searches scenes in any language with the model of make etcl
# make photos      trains on photographs in photos_raw with trained encoders, and prints a comparison
# make emoji       trains on emoji in emoji_raw with trained encoders, and prints a comparison
# make test        runs the linter and the fast tests
# make test-slow   runs the tests that take minutes, including the tests of Apache Beam
# make faults      kills, stops and damages runs, and prints how many resumed correctly
# make docs        builds the documentation into build/site
# make wheel       builds build/wheel/tf_mural-*.whl, which pip installs on other machines
# make notebooks   writes the repository of pyproject.toml into the first cells of the notebooks
# make test-beam   runs only the tests of Apache Beam
# make versions    runs a part of the fast tests on each installed Python from 3.11 to 3.13
# make tpu-env     checks on a CPU that requirements-tpu.txt installs, imports and trains
# All these targets except notebooks, versions and tpu-env create .venv first. PYTHON selects the interpreter:
# make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TPU := $(VENV)-tpu
SEED ?= 0
# Number of test processes; each needs up to 4 GiB of memory.
WORKERS ?= 2
# The tests of a file run in one process, because they share fixtures.
PARALLEL := --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder
TEST_FILES := $(addprefix requirements,.txt -test.txt -jax.txt -plan.txt -export.txt -demo.txt \
  -notebooks.txt -convert.txt -remote.txt)
# Tests of the parts that depend on the versions of Python, TensorFlow, JAX and libtpu.
VERSION_TESTS := $(patsubst %,tests/test_%.py,losses objective optimizers jax backend_parity \
  keras_patches keras_trainer ghost_batch_norm remat tokenizers input_pipeline sampling \
  language_sampling grain export tpu_planner nonfinite precision squeeze_excite presets resume \
  adaptation tower_matrix)

.PHONY: etcl demo photos emoji test test-slow faults docs wheel notebooks test-beam versions tpu-env \
  lint clean

etcl: $(VENV)/.base
	$(BIN)/python tools/train.py --stage=etcl --seed=$(SEED)

# tools/train.py trains nothing if the run is already finished.
demo: $(VENV)/.demo
	$(BIN)/python tools/train.py --stage=etcl --seed=$(SEED)
	$(BIN)/python tools/demo.py --records=data/scenes/test --model=runs/tiny/etcl-s$(SEED)

# Each command does nothing if its output is there. docs/data.md describes the folder photos_raw.
PHOTOS := $(BIN)/python tools/convert.py --dataset=table --raw_dir=photos_raw \
  --out_dir=data/photos_records --augmentations=crop --table.image_column=id \
  --table.image_dir=flickr30k-images --table.image_suffix=.jpg
EXTRACT := $(BIN)/python tools/extract.py --features --model=keras_hub:data/presets

photos: $(VENV)/.base
	test -d data/presets/e5 || $(BIN)/python -m benchmarks.trained_weights data/presets
	$(PHOTOS) --split=train --table.file=captions.train.jsonl --table.languages=en,de,fr \
	  --table.texts_keys=parallel,independent
	$(PHOTOS) --split=val --table.file=captions.val.jsonl --table.texts_keys=parallel,independent
	$(PHOTOS) --split=bitext --table.file=captions.train.jsonl --table.split_column= \
	  --table.texts_keys=parallel
	$(EXTRACT)/lite0 --name=lite0 --of=images --out_dir=data/photos_images \
	  --records=data/photos_records/train,data/photos_records/val
	$(EXTRACT)/e5 --name=e5 --of=texts --out_dir=data/photos_trained \
	  --records=data/photos_images/val,data/photos_records/bitext,data/photos_images/train
	$(BIN)/python tools/sweep.py configs/sweeps/photos_trained.py --seeds=$(SEED)

# Like photos. docs/data.md describes the folder emoji_raw.
emoji: $(VENV)/.base
	test -d data/presets/e5 || $(BIN)/python -m benchmarks.trained_weights data/presets
	$(BIN)/python tools/convert.py --dataset=table --raw_dir=emoji_raw \
	  --out_dir=data/emoji_records --augmentations=crop --table.image_column=image_id \
	  --table.image_dir=images --table.image_suffix=.png --table.split_column=split \
	  --table.quoting=none
	$(EXTRACT)/lite0 --name=lite0 --of=images --out_dir=data/emoji_images \
	  --records=data/emoji_records/train,data/emoji_records/val
	$(EXTRACT)/e5 --name=e5 --of=texts --out_dir=data/emoji_trained \
	  --records=data/emoji_images/train,data/emoji_images/val
	$(BIN)/python tools/sweep.py configs/sweeps/emoji_trained.py --seeds=$(SEED)

test: $(VENV)/.test lint
	$(BIN)/python -m pytest $(PARALLEL)

test-slow: $(VENV)/.slow
	$(BIN)/python -m pytest -m slow -rP $(PARALLEL)

# Set FAULTS_JSON=faults.json to write the table to a file as well.
faults: $(VENV)/.test
	$(BIN)/python -m pytest -m faults tests/test_faults.py tests/test_remote_training.py -rP

test-beam: $(VENV)/.slow
	$(BIN)/python -m pytest -m slow tests/test_beam.py

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Files of an earlier build would become part of the wheel.
wheel:
	$(create_venv)
	rm -rf build/lib build/bdist.* build/wheel
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir build/wheel .
	@echo "written: $$(ls build/wheel/*.whl)"

notebooks:
	$(PYTHON) notebooks/first_cells.py

# Each version has an environment of its own; versions that are not installed are left out. pyenv
# runs only selected versions: PYENV_VERSION=3.11.7:3.12.1:3.13.0 make versions
versions:
	@for v in 3.11 3.12 3.13; do \
	  python$$v -c "" 2>/dev/null || { echo "python$$v does not run: left out"; continue; }; \
	  $(MAKE) PYTHON=python$$v VENV=$(VENV)-$$v $(VENV)-$$v/.test || exit 1; \
	  $(VENV)-$$v/bin/python -m pytest $(PARALLEL) $(VERSION_TESTS) || exit 1; \
	done

tpu-env:
	PYTHON=$(PYTHON) tests/tpu_environment.sh $(TPU)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# A .venv whose pip does not run is created again.
define create_venv
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) \
	  else "Python 3.11 to 3.13 is needed, this is %d.%d: make PYTHON=python3.12" % v)'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
endef

# Each stamp file (.base, .test, ...) is written after its installation, so that make repeats an
# interrupted installation.
$(VENV)/.base: requirements.txt
	$(create_venv)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.test: $(VENV)/.base $(TEST_FILES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-test.txt
	@touch $@

# Apache Beam requires an older protobuf (6.x), which TensorFlow accepts as well.
$(VENV)/.slow: $(VENV)/.test requirements-beam.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-beam.txt
	@touch $@

$(VENV)/.demo: $(VENV)/.base requirements-demo.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-demo.txt
	@touch $@

$(VENV)/.docs: $(VENV)/.base requirements-docs.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-3.* $(TPU) build
