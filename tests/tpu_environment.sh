#!/usr/bin/env bash
# Tests requirements-tpu.txt on a machine without a TPU: tests/tpu_environment.sh FOLDER
#
# Installs requirements-tpu.txt, as described in this file, into a new virtual environment in FOLDER.
# Checks that the module `tensorflow` comes from the package tensorflow-tpu, and that all packages can
# be imported. Trains two steps of MURAL and of ETCL at size tiny on the CPU. Checks that
# --strategy=tpu ends with one error line. The script downloads packages from PyPI, and needs 3 GB.
set -euo pipefail
cd "$(dirname "$0")/.."
env=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"${PYTHON:-python3}" -m venv --clear "$env"
"$env/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
  -r requirements-tpu.txt
# pip may report only one unmet requirement: the package `tensorflow`, which must not be installed.
missing=$("$env/bin/python" -m pip check --disable-pip-version-check || true)
echo "pip check: $missing"
test "$missing" = "tensorflow-text 2.20.1 requires tensorflow, which is not installed."

# Without this variable, libtpu tries for minutes to reach Google's metadata server.
export TPU_SKIP_MDS_QUERY=1 TF_CPP_MIN_LOG_LEVEL=3
"$env/bin/python" - 2>"$work/notes" <<'PYTHON' || { cat "$work/notes"; exit 1; }
import importlib.metadata

import keras
import keras_hub
import tensorflow as tf
import tensorflow_text

import tf_mural.experiment.run

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
echo "all packages can be imported, the steps run on the CPU, and a missing TPU is reported"
