#!/usr/bin/env bash
# What can be shown of requirements-tpu.txt without a TPU: tests/tpu_environment.sh FOLDER
#
# Makes an empty environment in FOLDER and installs the file as it says; shows that `tensorflow` is
# that of tensorflow-tpu and that all imports, trains two steps of MURAL and of ETCL at size tiny on
# the CPU, and shows that --strategy=tpu ends with one message. Needs PyPI and 3 GB.
set -euo pipefail
cd "$(dirname "$0")/.."
env=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"${PYTHON:-python3}" -m venv --clear "$env"
"$env/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
  -r requirements-tpu.txt
# All requirements are met but the one that must not be.
missing=$("$env/bin/python" -m pip check --disable-pip-version-check || true)
echo "pip check: $missing"
test "$missing" = "tensorflow-text 2.20.1 requires tensorflow, which is not installed."

# libtpu asks the metadata server of Google's machines what it is, for minutes where there is none.
export TPU_SKIP_MDS_QUERY=1 TF_CPP_MIN_LOG_LEVEL=3
"$env/bin/python" - 2>"$work/notes" <<'PYTHON' || { cat "$work/notes"; exit 1; }
import importlib.metadata

import keras
import keras_hub
import tensorflow as tf
import tensorflow_text

import tf_mural.experiment

assert set(importlib.metadata.packages_distributions()["tensorflow"]) == {"tensorflow_tpu"}
for module in (tf, tensorflow_text, keras, keras_hub, tf_mural):
    print(f"imported: {module.__name__} {module.__version__}")
PYTHON

train() {
  timeout 600 "$env/bin/python" tools/train.py --data_dir="$work/data" "$@"
}
small="--config.steps=2 --config.batch_size=16 --config.optimizer.warmup_steps=0"
train --stage=mural --strategy=one --workdir="$work/mural" $small
train --stage=etcl --strategy=one --workdir="$work/etcl" --init="$work/mural" $small \
  --config.report.compare_with= --config.report.control=none

code=0
train --stage=mural --strategy=tpu --workdir="$work/tpu" >"$work/tpu.out" 2>&1 || code=$?
cat "$work/tpu.out"
grep -q "^error: TPU 'local' is not available" "$work/tpu.out"
test $code = 2
echo "everything imports, the tiny steps run on the CPU, and a TPU that is not there is told"
