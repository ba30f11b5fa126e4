"""Shared code of the commands: parsing of flags, backends, error messages and exit codes."""

import contextlib
import faulthandler
import glob
import importlib.metadata
import importlib.util
import os
import re
import select
import shlex
import sys
import tempfile
import traceback

from absl import flags, logging

from tf_mural.cli.error_lines import error_line
from tf_mural.errors import UserError, lookup, suggest
from tf_mural.training.preemption import Preempted

flags.disclaim_key_flags()  # `define_backend` defines a flag of the module that calls it.

_DOCTOR = "python tools/doctor.py checks this machine"
_BACKENDS = dict.fromkeys(("tensorflow", "jax"))
_TOOLS = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(__file__))), "tools")
_SIGPIPE_EXIT_CODE = 141  # as a shell reports it


# --- flags ----------------------------------------------------------------------------------------


def arguments(argv):
    """Returns `argv` as a list, or the arguments of this process if it is None."""
    return sys.argv[1:] if argv is None else list(argv)


def parse(flag_values, argv, usage, argument=None, allow_arguments=False):
    """Parses the command line of a command, and prepares the environment for TensorFlow.

    Flags that an earlier call has set return to their defaults first.

    Args:
        flag_values: `absl.flags.FlagValues` of the command.
        argv: strings after the command's name; None: those of this process.
        usage: text that --help prints above the flags.
        argument: name of a flag whose value may be given without --name=.
        allow_arguments: whether any number of arguments that are not flags is allowed.

    Returns:
        The list of the arguments that are not flags.

    Raises:
        UserError: an unknown flag, a wrong value, or an unexpected argument.
        SystemExit: after --help.
    """
    _prepare_environment()
    argv = arguments(argv)
    if {"-h", "-help", "--help"} & set(argv):
        with contextlib.suppress(BrokenPipeError):
            print(localize(f"{usage}\n{flag_values.get_help(include_special_flags=False)}"))
        raise SystemExit(0)
    for name in flag_values:
        flag_values[name].unparse()
    try:
        positional = flag_values([sys.argv[0], *argv])[1:]
    except flags.UnrecognizedFlagError as error:
        hint = suggest(error.flagname, list(flag_values))
        raise UserError(f"no flag --{error.flagname}{hint} (--help lists the flags)") from None
    except flags.Error as error:
        raise UserError(f"{error} (--help lists the flags)") from None
    if argument and len(positional) == 1 and not flag_values[argument].present:
        flag_values[argument].value = positional.pop()
    if positional and not allow_arguments:
        raise UserError(f"unexpected argument {positional[0]!r}; flags are written --name=value")
    return positional


def define_backend(flag_values):
    """Defines the flag --backend, the argument of `set_backend`."""
    return flags.DEFINE_string(
        "backend",
        None,
        f"Backend of Keras: {' or '.join(_BACKENDS)}. Default: KERAS_BACKEND, or tensorflow.",
        flag_values=flag_values,
    )


def localize(text):
    """Returns a message with the commands of this installation.

    Messages are written for a clone: `python tools/train.py`, `pip install -r requirements.txt`. An
    installed package has the command `tf-mural`, and its metadata name the packages.
    """
    if os.path.isfile(os.path.join(_TOOLS, "train.py")):
        return text
    text = re.sub(r"(?:python )?\btools/(\w+)\.py\b", _command_name, text)
    return re.sub(r"(?:-r )?requirements(?:-(\w+))?\.txt", _package_names, text)


def _command_name(match):
    from tf_mural.cli import COMMANDS

    return f"tf-mural {match[1].replace('_', '-')}" if match[1] in COMMANDS else match[0]


def _package_names(match):
    try:
        requirements = importlib.metadata.requires("tf_mural") or ()
    except importlib.metadata.PackageNotFoundError:
        return match[0]
    marker = f'extra == "{match[1]}"' if match[1] else ""
    parts = [[part.strip() for part in line.partition(";")] for line in requirements]
    return " ".join(shlex.quote(name) for name, _, when in parts if when == marker) or match[0]


# --- packages and backends ------------------------------------------------------------------------


def _prepare_environment():
    """Sets the environment variables that TensorFlow reads at its import."""
    # TensorFlow's messages at start-up would hide those of the command.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    # TensorFlow may disable oneDNN on processors without AVX-512; matmuls then take twice as long.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    # TensorFlow would warn about retracing, since each stage traces functions of its own.
    logging.set_verbosity(logging.ERROR)


def require(package, requirements, feature):
    """Raises UserError, with the command that installs it, if an optional package is missing."""
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{feature} needs {package}: pip install -r {requirements}")


def set_backend(name=None):
    """Selects the backend of Keras. Call it before Keras is imported.

    Args:
        name: "tensorflow" or "jax"; None: the value of KERAS_BACKEND, or "tensorflow".

    Raises:
        UserError: the backend is unknown or not installed, or Keras already runs on another one.
    """
    name = name or os.environ.get("KERAS_BACKEND") or "tensorflow"
    lookup(_BACKENDS, name, "backend")
    if "keras" in sys.modules:
        import keras

        if keras.backend.backend() != name:
            raise UserError(
                f"--backend={name}: Keras already runs on {keras.backend.backend()} in this "
                "process; start another process"
            )
    os.environ["KERAS_BACKEND"] = name
    if name == "jax":
        if importlib.util.find_spec("jax") is None:
            raise UserError(
                f"--backend=jax needs JAX: pip install -r requirements-jax.txt ({_DOCTOR})"
            )
        _hide_libtpu()


def _hide_libtpu():
    """Hides libtpu from JAX on a machine without a TPU, unless JAX_PLATFORMS names platforms.

    libtpu would look for a TPU, print a stack trace, and outside of Google Cloud query its metadata
    server for minutes. JAX goes on without a TPU, as it does where libtpu is not installed.
    """
    if glob.glob("/dev/accel*") or glob.glob("/dev/vfio/*"):
        return
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    if not os.environ.get("JAX_PLATFORMS"):
        sys.modules.setdefault("libtpu", None)


def import_tensorflow(backend=None):
    """Selects the backend of Keras and imports TensorFlow, which reads the data for both backends.

    Args:
        backend: see `set_backend`.

    Raises:
        UserError: see `set_backend`; or TensorFlow cannot be imported.
    """
    set_backend(backend)
    try:
        with quietly():
            import tensorflow  # noqa: F401
            import tensorflow_text  # noqa: F401
    except ImportError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"TensorFlow cannot be imported ({reason}): pip install -r requirements.txt ({_DOCTOR})"
        ) from error


@contextlib.contextmanager
def quietly():
    """Context manager that buffers the output on stderr, and shows it only after an error.

    No setting silences the messages of C++ libraries before their logging is initialized.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as buffer:
        os.dup2(buffer.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            if failed:
                buffer.seek(0)
                sys.stderr.write(buffer.read().decode(errors="replace"))


# --- the end of a process -------------------------------------------------------------------------


def run(main, resilient_stdout=False):
    """Calls `main()` as the work of this process, and ends the process.

    Args:
        main: callable without arguments.
        resilient_stdout: whether the work goes on when stdout cannot be written, see
            `ResilientStdout`.

    | raised | exit code | printed on stderr |
    |---|---|---|
    | nothing | 0 | nothing |
    | `UserError`, or an error with an `error_line` | 2, or its `exit_code` | a line |
    | `Preempted` | its `exit_code` | a line |
    | KeyboardInterrupt | 130 | "interrupted" |
    | any other exception | 1 | the traceback |

    If the reader of stdout has closed the pipe (`| head`), the exit code is 141 and nothing is
    printed.
    """
    _prepare_environment()
    logging.use_absl_handler()
    with contextlib.suppress(Exception):  # stderr may have no file descriptor
        faulthandler.enable()
    if resilient_stdout:
        sys.stdout = ResilientStdout(sys.stdout)
    try:
        main()
    except SystemExit as error:
        code = error.code or 0
        _exit(*("", code) if isinstance(code, int) else (code, 1))
    except UserError as error:
        _exit(f"error: {error}", getattr(error, "exit_code", 2))
    except Preempted as error:
        _exit(str(error), error.exit_code)
    except KeyboardInterrupt:
        _exit("interrupted", 130)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _stdout_is_closed():
            _exit("", _SIGPIPE_EXIT_CODE)
        if line := error_line(error):
            _exit(f"error: {line}", 2)
        _exit(f"{traceback.format_exc().rstrip()}\n({_DOCTOR})", 1)
    _exit("", 0)


def _exit(message, code):
    """Ends the process immediately.

    Threads of tf.data that still read ahead call Python. The normal end of the interpreter stops
    them there, waits for them, and rarely hangs.
    """
    lost = _flush(sys.stdout)
    if isinstance(lost, BrokenPipeError) and not code:
        code = _SIGPIPE_EXIT_CODE
    elif lost and not code:
        message, code = f"error: the printed output is lost: {lost.strerror}", 2
    with contextlib.suppress(OSError):
        print(localize(message), file=sys.stderr, end="\n" if message else "")
    _flush(sys.stderr)
    os._exit(code)


def _flush(stream):
    """Flushes a stream; returns the OSError if its content cannot be written, or None."""
    try:
        stream.flush()
    except OSError as error:
        return error
    return None


def _stdout_is_closed():
    """Returns whether stdout is a pipe whose reader has closed it."""
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


class ResilientStdout:
    """A text stream that drops its output instead of raising when it cannot be written.

    Training goes on when the terminal or the pipe of its output is closed, or the disk is full.

    Args:
        stream: the text stream to write to.
    """

    def __init__(self, stream):
        self._stream = stream

    def write(self, text):
        """Writes the text or drops it; returns the number of characters."""
        try:
            self._stream.write(text)
        except OSError as error:
            self._drop(error)
        return len(text)

    def flush(self):
        """Flushes the stream. If this fails, prints a line on stderr and drops all output."""
        if error := _flush(self._stream):
            self._drop(error)

    def _drop(self, error):
        self._stream = open(os.devnull, "w", encoding="utf-8")
        with contextlib.suppress(OSError):
            print(
                f"stdout cannot be written ({error.strerror}): training continues without it",
                file=sys.stderr,
            )

    def __getattr__(self, name):
        return getattr(self._stream, name)
