"""A workdir on a remote file system: training, stop, resume, initial weights and evaluation."""

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.mark.slow
def test_run_works_on_a_remote_file_system(data_dir, tmp_path):
    script = os.path.join(ROOT, "tests", "remote_script.py")
    command = [sys.executable, script, str(data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "SIGTERM: saved at step 1; the same command continues from there" in done.stdout
    assert "ram://bucket/runs/mural is in use by process" in done.stdout
    assert "resuming at step 1" in done.stdout
    assert "etcl: training in ram://bucket/runs/etcl, from ram://bucket/runs/mural" in done.stdout
    written = "written to ram://bucket/runs/etcl/best/evals/retrieval-scenes-test"
    assert written in done.stdout and "R@1" in done.stdout
    names = (
        "average_recall.png best checkpoints config.json lock.json model.json results.json "
        "tensorboard training_images.png vocab.txt weights.npz"
    )
    assert f"files: {names}\n" in done.stdout
    assert "best: model.json vocab.txt weights.npz\n" in done.stdout
    # Each of the two starts of the run has one event file.
    assert re.search(r"^events:( events\.out\.tfevents\S+){2}$", done.stdout, re.MULTILINE)
    assert re.search(r"^step: [24]$", done.stdout, re.MULTILINE)
    assert os.listdir(tmp_path) == []  # a folder with the name "ram:" would be an error
