"""Runs the training examples of docs/keras.md on both backends."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT
from helpers.backends import backend_environment

SCRIPT = os.path.join(ROOT, "tests", "keras_docs_script.py")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_the_examples_on_training_run(backend, data_dir, tmp_path):
    pytest.importorskip(backend, reason="JAX is not installed: pip install -r requirements-jax.txt")
    os.symlink(data_dir, tmp_path / "data")
    done = subprocess.run(
        [sys.executable, SCRIPT],
        cwd=tmp_path,
        env=backend_environment(backend),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-5000:]
    assert done.stdout.endswith("all examples ran\n")
