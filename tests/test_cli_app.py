"""Commands: exit codes, messages and flags; a command ends without waiting for its threads."""

import gc
import glob
import importlib
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from conftest import ROOT

from tf_mural import cli
from tf_mural.cli import app
from tf_mural.cli.error_lines import error_line, with_flags
from tf_mural.errors import UserError

# The thread that never ends represents a thread of tf.data, which may block the process's end.
COMMAND = """
import signal, sys, threading
sys.path.insert(0, {root!r})
from tf_mural.cli import app
from tf_mural.errors import StorageError, StorageUnavailable, UserError
from tf_mural.training.preemption import Preempted
threading.Thread(target=threading.Event().wait).start()
def main():
    print("output", end="")
    {body}
app.run(main, {resilient})
"""


def run(tmp_path, body, stdout=subprocess.PIPE, unbuffered="", resilient=False):
    path = tmp_path / "command.py"
    path.write_text(COMMAND.format(root=ROOT, body=body, resilient=resilient))
    streams = {"stdout": stdout, "stderr": subprocess.PIPE}
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    return subprocess.run([sys.executable, path], **streams, env=environment, text=True, timeout=60)


@pytest.mark.parametrize(
    "body, code, err",
    [
        ("pass", 0, ""),
        ("raise UserError('no file a.txt')", 2, "error: no file a.txt\n"),
        (
            "raise StorageError('s3://b/x: permission denied')",
            2,
            "error: s3://b/x: permission denied\n",
        ),
        ("raise StorageUnavailable('s3://b did not answer')", 75, "error: s3://b did not answer\n"),
        ("raise KeyboardInterrupt", 130, "interrupted\n"),
        ("raise Preempted(signal.SIGTERM, 'saved')", 75, "SIGTERM: saved\n"),
        ("raise Preempted(signal.SIGINT, 'saved')", 130, "SIGINT: saved\n"),
        (
            "raise PermissionError(13, 'Permission denied', 'a.txt')",
            2,
            "error: Permission denied (a.txt)\n",
        ),
        (
            "raise OSError(28, 'No space left on device', 'a.txt')",
            2,
            "error: No space left on device (a.txt): "
            "free some space, and give the same command again\n",
        ),
    ],
)
def test_command_ends_immediately_with_the_exit_code(tmp_path, body, code, err):
    done = run(tmp_path, body)
    assert (done.returncode, done.stdout, done.stderr) == (code, "output", err)


@pytest.mark.parametrize(
    "path, pattern",
    [
        ("s3://bucket/run", "'s3' not implemented .*TensorFlow supports local paths and gs://"),
        ("ram://nothing/here", "the file system reported NotFoundError"),
    ],
)
def test_error_of_a_file_system_is_one_line(path, pattern):
    with pytest.raises(tf.errors.OpError) as caught:
        tf.io.gfile.stat(path)
    line = error_line(caught.value)
    assert re.search(pattern, line) and "\n" not in line


def test_lack_of_memory_is_one_line_with_advice():
    # The error is constructed, because a real allocation would take ten seconds to fail.
    message = (
        "{{function_node __wrapped__Fill}} OOM when allocating tensor with shape[1048576,1677]"
    )
    line = error_line(tf.errors.ResourceExhaustedError(None, None, f"Graph:\n{message}\nHint"))
    assert "--config.microbatch" in line and "OOM when allocating" in line and "\n" not in line
    wrapped = tf.errors.ResourceExhaustedError(None, None, "\x1b[1mOOM when allocating\x1b[0m")
    assert "OOM when allocating" in error_line(wrapped)
    with pytest.raises(MemoryError) as caught:
        np.zeros(1 << 50)
    assert "this machine does not have enough memory: Unable to allocate 8.00 PiB" in error_line(
        caught.value
    )


@pytest.mark.parametrize(
    "message",
    [
        "Error allocating device buffer: Attempting to allocate 1.00G. That was not possible.",
        "Attempting to reserve 5.50G at the bottom of memory. That was not possible.",
    ],
)
def test_lack_of_memory_on_jax_is_recognized(message):
    error_type = type("JaxRuntimeError", (RuntimeError,), {"__module__": "jax.errors"})
    assert message in error_line(error_type(f"RESOURCE_EXHAUSTED: {message}"))
    assert error_line(error_type(f"INTERNAL: {message}")) is None


def test_full_disk_in_tensorflow_is_not_reported_as_lack_of_memory():
    error = tf.errors.ResourceExhaustedError(None, None, "/a/b; No space left on device")
    assert error_line(error) is None  # the error was not raised by a file operation
    with pytest.raises(tf.errors.OpError) as caught:
        with tf.io.gfile.GFile("/dev/full", "w") as file:
            file.write("x")
            file.flush()
    assert error_line(caught.value).endswith("free some space, and give the same command again")


def test_other_errors_have_no_line():
    error = tf.errors.InvalidArgumentError(None, None, "OOM.png: out of memory is its name")
    assert error_line(error) is None
    assert error_line(ValueError("failed to allocate")) is None
    assert error_line(OSError(5, "Input/output error", "a.txt")) is None


MORE = "print('more', flush=True)"
CONTINUES = "training continues without output"


@pytest.mark.parametrize(
    "body, resilient, code, err",
    [
        ("pass", False, 2, "error: the printed output is lost: No space left on device\n"),
        ("raise UserError('no file a.txt')", False, 2, "error: no file a.txt\n"),
        ("raise Preempted(signal.SIGTERM, 'saved')", False, 75, "SIGTERM: saved\n"),
        (MORE, True, 0, f"stdout cannot be written (No space left on device): {CONTINUES}\n"),
    ],
)
def test_full_disk_of_the_output_changes_no_other_exit_code(tmp_path, body, resilient, code, err):
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = run(tmp_path, body, full, resilient=resilient)
    assert (done.returncode, done.stderr) == (code, err)


@pytest.mark.parametrize(
    "body, unbuffered, resilient, code, err",
    [
        ("pass", "", False, 141, ""),
        ("pass", "1", False, 141, ""),
        ("print('x' * 100000)", "", False, 141, ""),
        ("raise Preempted(signal.SIGTERM, 'saved')", "", False, 75, "SIGTERM: saved\n"),
        (MORE, "", True, 0, f"stdout cannot be written (Broken pipe): {CONTINUES}\n"),
    ],
)
def test_closed_pipe_ends_the_command_without_a_message(
    tmp_path, body, unbuffered, resilient, code, err
):
    reader, writer = os.pipe()
    os.close(reader)
    done = run(tmp_path, body, writer, unbuffered, resilient)
    os.close(writer)
    assert (done.returncode, done.stderr) == (code, err)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_resilient_stdout_reports_the_loss_once(unbuffered):
    code = (
        f"import sys; sys.path.insert(0, {ROOT!r}); from tf_mural.cli import app\n"
        "sys.stdout = app.ResilientStdout(sys.stdout)\n"
        "for text in 'abc': print(text, flush=True)"
    )
    with open("/dev/full", "w", encoding="utf-8") as full:
        streams = {"stdout": full, "stderr": subprocess.PIPE}
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        done = subprocess.run([sys.executable, "-c", code], **streams, env=environment, text=True)
    assert done.returncode == 0
    assert done.stderr == f"stdout cannot be written (No space left on device): {CONTINUES}\n"


def test_unexpected_error_shows_its_traceback(tmp_path):
    done = run(tmp_path, "[].pop()")
    assert done.returncode == 1 and done.stdout == "output"
    assert done.stderr.startswith("Traceback") and "IndexError: pop from empty" in done.stderr
    assert "command.py" in done.stderr
    assert done.stderr.rstrip().endswith("(python tools/doctor.py checks this machine)")


@pytest.mark.parametrize("package, code", [("absl", 1), ("tensorflow", 2)])
def test_missing_package_is_named_with_the_command_that_installs_it(package, code):
    script = (
        f"import sys; sys.modules[{package!r}] = None; sys.path.insert(0, {ROOT!r})\n"
        "from tf_mural import cli; cli.run('tf_mural.cli.doctor')"
    )
    if package == "tensorflow":
        script = script.replace("cli.run('tf_mural.cli.doctor')", "from tf_mural.cli import app")
        script += "; app.run(app.import_tensorflow)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == code
    assert "pip install -r requirements.txt" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("given, expected", [(None, "1"), ("0", "0")])
def test_onednn_is_enabled_unless_the_user_disables_it(tmp_path, monkeypatch, given, expected):
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")
    if given:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", given)
    done = run(tmp_path, "import os; print('', os.environ['TF_ENABLE_ONEDNN_OPTS'])")
    assert done.stdout == f"output {expected}\n"


# --- flags ----------------------------------------------------------------------------------------


@pytest.fixture
def command_flags():
    flag_values = flags.FlagValues()
    flags.DEFINE_integer("count", 3, "Number of items.", flag_values=flag_values)
    flags.DEFINE_string("query", None, "Text.", flag_values=flag_values)
    return flag_values


def test_flags_return_to_their_defaults_at_each_call(command_flags):
    app.parse(command_flags, ["--count=5", "--query=a"], "usage")
    assert (command_flags.count, command_flags.query) == (5, "a")
    app.parse(command_flags, [], "usage")
    assert (command_flags.count, command_flags.query) == (3, None)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--cuont=5"], "no flag --cuont; did you mean 'count'. .--help lists the flags"),
        (["--count=many"], "count.*many.*--help lists the flags"),
        (["word"], "unexpected argument 'word'; flags are written --name=value"),
    ],
)
def test_error_of_a_wrong_flag_names_it(command_flags, arguments, message):
    with pytest.raises(UserError, match=message):
        app.parse(command_flags, arguments, "usage")


def test_one_flag_may_be_given_as_an_argument(command_flags):
    app.parse(command_flags, ["--count=5", "two words"], "usage", argument="query")
    assert (command_flags.count, command_flags.query) == (5, "two words")
    for arguments in (["a", "b"], ["a", "--query=b"]):
        with pytest.raises(UserError, match="unexpected argument 'a'"):
            app.parse(command_flags, arguments, "usage", argument="query")


def test_help_shows_usage_and_flags(command_flags, capsys):
    with pytest.raises(SystemExit) as ended:
        app.parse(command_flags, ["--help"], "Counts items.")
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert shown.startswith("Counts items.\n") and "--count: Number of items." in shown


def test_commands_are_imported_together_and_have_separate_flags():
    modules = [importlib.import_module(f"tf_mural.cli.{name}") for name in cli.COMMANDS]
    assert len({id(module.FLAGS) for module in modules}) == len(modules)
    assert not {"data_dir", "backend", "stage"} & set(flags.FLAGS)
    for module in modules:
        assert module.__doc__ and callable(module.main)


def test_backend_cannot_change_in_a_process():
    import keras

    other = "jax" if keras.backend.backend() == "tensorflow" else "tensorflow"
    with pytest.raises(UserError, match=f"--backend={other}: Keras already runs on"):
        app.set_backend(other)
    with pytest.raises(UserError, match="unknown backend 'tensorfow'.*did you mean 'tensorflow'"):
        app.set_backend("tensorfow")


def test_package_runs_commands_as_a_module(tmp_path):
    command = [sys.executable, "-m", "tf_mural.cli"]
    environment = {**os.environ, "PYTHONPATH": ROOT}
    options = dict(capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=60)
    done = subprocess.run([*command, "convert", "--list"], **options)
    assert done.returncode == 0 and done.stdout.startswith("auto: ")
    done = subprocess.run([*command, "build-vocab", "--help"], **options)
    assert done.returncode == 0 and done.stdout.startswith("Trains a cased vocabulary")
    done = subprocess.run([*command, "converts"], **options)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: unknown command 'converts'; did you mean 'convert'?\n")


def test_list_of_commands_says_what_each_does(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tf-mural", "--help"])
    cli.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "usage: tf-mural COMMAND [flags]"
    described = dict(line.split(maxsplit=1) for line in lines[3:])
    assert list(described) == [command.replace("_", "-") for command in cli.COMMANDS]
    assert described["train"] == "Trains a stage"


# --- messages and packages of an installation -----------------------------------------------------

REQUIREMENTS = ["numpy==2.4.6", 'apache-beam[dask]==2.77.0; extra == "beam"']


def test_messages_of_a_clone_name_its_files():
    text = "python tools/doctor.py; pip install -r requirements-beam.txt"
    assert app.localize(text) == text


@pytest.mark.parametrize(
    "text, expected",
    [
        ("python tools/doctor.py checks", "tf-mural doctor checks"),
        ("tools/build_vocab.py trains one", "tf-mural build-vocab trains one"),
        ("pip install -r requirements.txt", "pip install numpy==2.4.6"),
        ("pip install -r requirements-beam.txt", "pip install 'apache-beam[dask]==2.77.0'"),
        # Names of files that only a clone contains are not replaced.
        ("tools/plan_tpu.py", "tools/plan_tpu.py"),
        ("requirements-tpu.txt", "requirements-tpu.txt"),
    ],
)
def test_messages_of_an_installed_package_name_its_commands(text, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(app, "_TOOLS", str(tmp_path))
    monkeypatch.setattr(app.importlib.metadata, "requires", lambda name: REQUIREMENTS)
    assert app.localize(text) == expected


LIBTPU = """
import sys
sys.path.insert(0, {root!r})
from tf_mural.cli import app
app.set_backend("jax")
import jax
print(jax.devices()[0].platform)
"""


def test_libtpu_is_silent_on_a_machine_without_a_tpu():
    pytest.importorskip("jax", reason="pip install -r requirements-jax.txt")
    pytest.importorskip("libtpu", reason="pip install -r requirements-plan.txt")
    if glob.glob("/dev/accel*") or glob.glob("/dev/vfio/*"):
        pytest.skip("this machine has a TPU")
    # The subprocess must not inherit variables that an import of JAX in this process has set, such
    # as TPU_LIBRARY_PATH.
    prefixes = ("JAX_PLATFORMS", "TPU_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(prefixes)}
    command = [sys.executable, "-c", LIBTPU.format(root=ROOT)]
    options = dict(capture_output=True, text=True, timeout=120)
    done = subprocess.run(command, env=environment, **options)
    assert done.returncode == 0 and not done.stderr, done.stderr
    # With JAX_PLATFORMS=tpu, JAX reports why no TPU is available.
    done = subprocess.run(command, env=environment | {"JAX_PLATFORMS": "tpu"}, **options)
    assert done.returncode == 1 and "Unable to initialize backend 'tpu'" in done.stderr


@pytest.mark.parametrize(
    "message, printed",
    [
        ("choose another `workdir`, or stop", "choose another --workdir, or stop"),
        ("(`allow_config_changes=True` continues)", "(--allow_config_changes continues)"),
        (
            "set `config.model.image.virtual_batch_size=none` or `config.microbatch=64`",
            "set --config.model.image.virtual_batch_size=none or --config.microbatch=64",
        ),
        (
            "set `config.vocabulary=runs/a-1/vocab.txt`",
            "set --config.vocabulary=runs/a-1/vocab.txt",
        ),
        (
            "such as `config.keep_best='retrieval/*/x'`",
            "such as --config.keep_best='retrieval/*/x'",
        ),
        ("(`tools/convert.py --list` shows them)", "(`tools/convert.py --list` shows them)"),
    ],
)
def test_arguments_in_an_error_are_printed_as_flags(message, printed):
    assert with_flags(message) == printed


def test_hidden_packages_cannot_be_imported_until_the_context_ends(tmp_path, monkeypatch):
    (tmp_path / "some_package.py").write_text("value = 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    with app.hidden_packages(["some_package", "numpy"]):
        with pytest.raises(ImportError):
            importlib.import_module("some_package")
        assert importlib.import_module("numpy") is np  # it was imported before
    assert importlib.import_module("some_package").value == 7
    del sys.modules["some_package"]


def test_commands_do_not_import_keras_before_the_backend_is_chosen():
    code = (
        "import importlib, sys; from tf_mural import cli, search\n"
        "for name in cli.COMMANDS: importlib.import_module(f'tf_mural.cli.{name}')\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_command_in_a_process_with_tensorflow_leaves_garbage_collection_as_it_is():
    before = gc.get_freeze_count(), gc.get_threshold()
    app.import_tensorflow()
    assert (gc.get_freeze_count(), gc.get_threshold()) == before and gc.isenabled()


@pytest.mark.slow
def test_commands_import_tensorflow_without_packages_that_they_do_not_use():
    code = (
        "import sys; from tf_mural.cli import app; app.import_tensorflow()\n"
        "assert not {'sklearn', 'jax', 'matplotlib'} & set(sys.modules)\n"
        "import keras, matplotlib.figure\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
