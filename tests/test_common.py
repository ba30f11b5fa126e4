"""How every tool ends: messages, exit codes, and at once, whatever still runs."""

import os
import re
import subprocess
import sys

import failures
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT

# A thread that never ends stands for those of tf.data, which may hold up the interpreter's end.
TOOL = """
import signal, sys, threading
sys.path.insert(0, {tools!r})
import common
from tf_mural.base import UserError
from tf_mural.stopping import Stopped
threading.Thread(target=threading.Event().wait).start()
def main():
    print("said", end="")
    {body}
common.run(main)
"""


def run(tmp_path, body, stdout=subprocess.PIPE, unbuffered=""):
    path = tmp_path / "tool.py"
    path.write_text(TOOL.format(tools=os.path.join(ROOT, "tools"), body=body))
    streams = {"stdout": stdout, "stderr": subprocess.PIPE}
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    return subprocess.run([sys.executable, path], **streams, env=environment, text=True, timeout=60)


@pytest.mark.parametrize(
    "body, code, err",
    [
        ("pass", 0, ""),
        ("raise UserError('no file a.txt')", 2, "error: no file a.txt\n"),
        ("raise KeyboardInterrupt", 130, "interrupted\n"),
        ("raise Stopped(signal.SIGTERM, 'saved')", 75, "SIGTERM: saved\n"),
        ("raise Stopped(signal.SIGINT, 'saved')", 130, "SIGINT: saved\n"),
        (
            "raise PermissionError(13, 'Permission denied', 'a.txt')",
            2,
            "error: Permission denied (a.txt)\n",
        ),
        (
            "raise OSError(28, 'No space left on device', 'a.txt')",
            2,
            "error: No space left on device (a.txt): make room, and give the same command again\n",
        ),
    ],
)
def test_a_tool_ends_at_once_with_its_code(tmp_path, body, code, err):
    done = run(tmp_path, body)
    assert (done.returncode, done.stdout, done.stderr) == (code, "said", err)


@pytest.mark.parametrize(
    "path, words",
    [
        ("s3://bucket/run", "'s3' not implemented .*TensorFlow knows local paths and gs://"),
        ("ram://nothing/here", "a file system said NotFoundError"),
    ],
)
def test_what_a_file_system_says_is_one_line(path, words):
    with pytest.raises(tf.errors.OpError) as caught:
        tf.io.gfile.stat(path)
    line = failures.line_of(caught.value)
    assert re.search(words, line) and "\n" not in line


def test_memory_that_does_not_suffice_is_one_line_with_what_to_do():
    # As tf.zeros says it; asking for so much takes its allocator ten seconds.
    said = "{{function_node __wrapped__Fill}} OOM when allocating tensor with shape[1048576,1677]"
    line = failures.line_of(tf.errors.ResourceExhaustedError(None, None, f"Graph:\n{said}\nHint"))
    assert "--config.microbatch" in line and "OOM when allocating" in line and "\n" not in line
    wrapped = tf.errors.ResourceExhaustedError(None, None, "\x1b[1mOOM when allocating\x1b[0m")
    assert "OOM when allocating" in failures.line_of(wrapped)
    with pytest.raises(MemoryError) as caught:
        np.zeros(1 << 50)
    assert "machine's memory does not suffice: Unable to allocate 8.00 PiB" in failures.line_of(
        caught.value
    )


@pytest.mark.parametrize(
    "said",
    [
        "Error allocating device buffer: Attempting to allocate 1.00G. That was not possible.",
        "Attempting to reserve 5.50G at the bottom of memory. That was not possible.",
    ],
)
def test_memory_of_jax_too(said):
    kind = type("JaxRuntimeError", (RuntimeError,), {"__module__": "jax.errors"})
    assert said in failures.line_of(kind(f"RESOURCE_EXHAUSTED: {said}"))
    assert failures.line_of(kind(f"INTERNAL: {said}")) is None


def test_no_room_through_tensorflow_is_no_lack_of_memory():
    error = tf.errors.ResourceExhaustedError(None, None, "/a/b; No space left on device")
    assert failures.line_of(error) is None  # where it came from is not known to be a file system
    with pytest.raises(tf.errors.OpError) as caught:
        with tf.io.gfile.GFile("/dev/full", "w") as file:
            file.write("x")
            file.flush()
    assert failures.line_of(caught.value).endswith("make room, and give the same command again")


def test_other_errors_stay_tracebacks():
    error = tf.errors.InvalidArgumentError(None, None, "OOM.png: out of memory is its name")
    assert failures.line_of(error) is None
    assert failures.line_of(ValueError("failed to allocate")) is None
    assert failures.line_of(OSError(5, "Input/output error", "a.txt")) is None


# A run of training replaces its stdout by one that it outlives.
LASTING = "sys.stdout = common.Lasting(sys.stdout); print('more', flush=True); "


@pytest.mark.parametrize(
    "body, code, err",
    [
        ("pass", 2, "error: what was printed is lost: No space left on device\n"),
        ("raise UserError('no file a.txt')", 2, "error: no file a.txt\n"),
        ("raise Stopped(signal.SIGTERM, 'saved')", 75, "SIGTERM: saved\n"),
        (LASTING, 0, "stdout is lost (No space left on device): going on without\n"),
    ],
)
def test_a_full_disk_under_what_it_prints_changes_no_end(tmp_path, body, code, err):
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = run(tmp_path, body, full)
    assert (done.returncode, done.stderr) == (code, err)


@pytest.mark.parametrize(
    "body, unbuffered, code, err",
    [
        ("pass", "", 141, ""),
        ("pass", "1", 141, ""),
        ("print('x' * 100000)", "", 141, ""),
        ("raise Stopped(signal.SIGTERM, 'saved')", "", 75, "SIGTERM: saved\n"),
        (LASTING, "", 0, "stdout is lost (Broken pipe): going on without\n"),
    ],
)
def test_so_it_is_when_nobody_reads_it_any_more(tmp_path, body, unbuffered, code, err):
    reader, writer = os.pipe()
    os.close(reader)
    done = run(tmp_path, body, writer, unbuffered)
    os.close(writer)
    assert (done.returncode, done.stderr) == (code, err)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_lasting_stdout_is_lost_once(unbuffered):
    code = (
        f"import sys; sys.path.insert(0, {os.path.join(ROOT, 'tools')!r}); import common\n"
        "sys.stdout = common.Lasting(sys.stdout)\n"
        "for text in 'abc': print(text, flush=True)"
    )
    with open("/dev/full", "w", encoding="utf-8") as full:
        streams = {"stdout": full, "stderr": subprocess.PIPE}
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        done = subprocess.run([sys.executable, "-c", code], **streams, env=environment, text=True)
    assert done.returncode == 0
    assert done.stderr == "stdout is lost (No space left on device): going on without\n"


def test_what_nobody_can_mend_shows_where_it_happened(tmp_path):
    done = run(tmp_path, "[].pop()")
    assert done.returncode == 1 and done.stdout == "said"
    assert done.stderr.startswith("Traceback") and "IndexError: pop from empty" in done.stderr
    assert "tool.py" in done.stderr
    assert done.stderr.rstrip().endswith("(what this machine lacks: python tools/doctor.py)")


@pytest.mark.parametrize("package", ["absl", "tensorflow"])
def test_a_package_that_is_missing_is_said_with_the_line_that_installs_it(tmp_path, package):
    path = tmp_path / "tool.py"
    path.write_text(
        TOOL.format(tools=os.path.join(ROOT, "tools"), body="common.import_tensorflow()").replace(
            "import signal, sys, threading",
            f"import signal, sys, threading\nsys.modules[{package!r}] = None",
        )
    )
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=60)
    assert done.returncode == (1 if package == "absl" else 2)
    assert "pip install -r requirements.txt" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("asked, found", [(None, "1"), ("0", "0")])
def test_onednn_is_on_unless_the_user_says_otherwise(tmp_path, monkeypatch, asked, found):
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")
    if asked:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", asked)
    done = run(tmp_path, "import os; print('', os.environ['TF_ENABLE_ONEDNN_OPTS'])")
    assert done.stdout == f"said {found}\n"
