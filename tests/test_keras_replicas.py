"""Compares `fit` on one and on two replicas of one host, on both backends."""

import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from helpers import keras_trainers
from helpers.backends import backend_environment
from helpers.comparison import largest_error

SCRIPT = os.path.join(ROOT, "tests", "keras_mirrored_script.py")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_fit_with_two_replicas_equals_one(backend, tmp_path):
    pytest.importorskip(backend, reason="JAX is not installed: pip install -r requirements-jax.txt")
    records = keras_trainers.make_records(str(tmp_path))
    results = []
    for replicas in (1, 2):
        out = tmp_path / f"{replicas}.npz"
        done = subprocess.run(
            [sys.executable, SCRIPT, str(replicas), records, str(out)],
            env=backend_environment(backend),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        with np.load(out) as file:
            results.append({name: file[name] for name in file.files})
    expected, actual = results
    assert expected["losses"].shape == (2,) and expected["losses"][0] != expected["losses"][1]
    assert largest_error(expected, actual)[0] < 1e-4
