"""Training with records and workdir in S3: faults of the network, SIGKILL and resume."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from helpers.storage_servers import environment_of

from tf_mural import file_io, remote_requests

TRAIN = os.path.join(ROOT, "tools", "train.py")
CONFIG = os.path.join(ROOT, "tests", "small_config.py")


def start(data_dir, workdir, log, **environment):
    command = [sys.executable, TRAIN, "--stage=mural", f"--config={CONFIG}"]
    command += [f"--data_dir={data_dir}", f"--workdir={workdir}", "--config.steps=6"]
    with open(log, "w", encoding="utf-8") as file:
        return subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **environment}
        )


def finish(process, log, code=0):
    assert process.wait(timeout=280) == code, log.read_text()
    return log.read_text()


def kill_after(process, log, step):
    """Sends SIGKILL when the log has the line of a step."""
    while not re.search(rf"^step +{step}/", log.read_text(), re.MULTILINE):
        assert process.poll() is None, log.read_text()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()


def copy_tree(source, target):
    for folder, _, names in os.walk(source):
        for name in names:
            path = os.path.join(folder, name)
            file_io.copy(path, f"{target}/{os.path.relpath(path, source)}")


@pytest.mark.faults
def test_a_run_moves_to_s3_and_resumes_with_the_same_weights(data_dir, proxied, tmp_path):
    """The first process reads local records; the next processes read copies of them in S3."""
    proxy, workdir = proxied("s3"), f"s3://bucket/{tmp_path.name}/run"
    environment = environment_of("s3", proxy.url)
    log = tmp_path / "log"
    expected = start(data_dir, tmp_path / "run", tmp_path / "expected")
    # The checkpoint of step 4 is written after that of step 2 is complete.
    kill_after(start(data_dir, workdir, log, **environment), log, 5)
    remote_data = f"s3://bucket/{tmp_path.name}/data"
    copy_tree(data_dir, remote_data)
    proxy.reset(rate=0.1, hidden_seconds=2)
    text = finish(start(remote_data, workdir, log, **environment), log)
    assert re.search("^resuming at step [24]$", text, re.MULTILINE), text
    assert sum(proxy.injected.values()) > 10
    finish(expected, tmp_path / "expected")
    proxy.reset()
    with (
        np.load(tmp_path / "run" / "weights.npz") as local,
        file_io.open_file(f"{workdir}/weights.npz", "rb") as file,
        np.load(file) as remote,
    ):
        assert local.files == remote.files
        assert all(np.array_equal(local[name], remote[name]) for name in local.files)
    events = [n for n in file_io.listdir(f"{workdir}/tensorboard") if ".tfevents." in n]
    assert events and file_io.size(f"{workdir}/tensorboard/{events[-1]}") > 0
    # The finished run is evaluated again only if its results can be read.
    proxy.down = "503"
    environment[remote_requests.DEADLINE_VARIABLE] = "1"
    text = finish(start(remote_data, workdir, log, **environment), log, code=75)
    (line,) = text.splitlines()
    assert line.startswith(f"error: {workdir}") and "did not answer" in line
