"""Code that all commands share: flags, choice of the backend, error messages, exit codes."""

import contextlib
import faulthandler
import gc
import glob
import importlib.metadata
import importlib.util
import os
import re
import shlex
import sys
import tempfile
import traceback

from absl import flags, logging

from tf_mural.cli.error_lines import error_line, with_flags
from tf_mural.cli.stdout import ResilientStdout, flush, stdout_is_closed
from tf_mural.errors import StorageError, UserError, lookup, suggest
from tf_mural.training.preemption import Preempted
from tf_mural.truncation import size_note

flags.disclaim_key_flags()  # absl assigns --backend to the module that calls `define_backend`

_DOCTOR = "python tools/doctor.py checks this machine"
_BACKENDS = dict.fromkeys(("tensorflow", "jax"))
_TOOLS = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(__file__))), "tools")
# Packages that TensorFlow and Keras import if they are installed. Importing them takes more than a
# second, and no command uses the parts of TensorFlow and Keras that need them.
_UNUSED_PACKAGES = ("jax", "matplotlib", "sklearn")
_GC_THRESHOLD = 10_000  # new objects between two garbage collections; the default is 700
_SIGPIPE_EXIT_CODE = 141  # exit code that a shell reports for a process that SIGPIPE ended


# --- flags ----------------------------------------------------------------------------------------


def arguments(argv):
    """Returns `argv` as a list; if `argv` is None, the arguments of this process."""
    return sys.argv[1:] if argv is None else list(argv)


def parse(flag_values, argv, usage, argument=None, allow_arguments=False):
    """Parses the flags of a command, and sets environment variables for TensorFlow.

    All flags are first reset to their defaults, because an earlier call may have set them.

    Args:
        flag_values: `absl.flags.FlagValues` of the command.
        argv: command-line arguments without the name of the command, a list of strings; None: the
            arguments of this process.
        usage: text that --help prints above the list of flags.
        argument: name of a flag whose value may also be given without "--name="; None: no flag.
        allow_arguments: whether arguments that are not flags are allowed, in any number.

    Returns:
        The list of the arguments that are not flags.

    Raises:
        UserError: a flag is unknown, a value is wrong, or an argument is unexpected.
        SystemExit: --help was given, and the help has been printed.
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
    """Defines the flag --backend, whose value is the argument of `set_backend`."""
    return flags.DEFINE_string(
        "backend",
        None,
        f"Backend of Keras: {' or '.join(_BACKENDS)}. Default: the environment variable "
        "KERAS_BACKEND, or tensorflow if it is not set.",
        flag_values=flag_values,
    )


def define_dim(flag_values, effect):
    """Defines the flag --dim, the size of embeddings; `effect` begins its help."""
    text = f"{effect} Sensible sizes are those that the terms of the training name as dims."
    return flags.DEFINE_integer(
        "dim",
        None,
        f"{text} Default: the whole embeddings.",
        lower_bound=1,
        flag_values=flag_values,
    )


def define_cache_dir(flag_values):
    """Defines the flag --cache_dir, whose value is the argument of `set_cache_dir`."""
    return flags.DEFINE_string(
        "cache_dir",
        None,
        "Folder on a local disk, in which parts of remote records are kept. The environment "
        "variable TF_MURAL_CACHE_GB is its size in gigabytes. Default: no cache.",
        flag_values=flag_values,
    )


def set_cache_dir(folder):
    """Sets the folder of the cache of remote records, also for the processes of this command."""
    if folder:
        os.environ["TF_MURAL_CACHE_DIR"] = os.path.abspath(folder)


def print_size_note(dim, trained):
    """Prints a line if a size is not one of the sizes of the training, see `size_note`."""
    if note := size_note(dim, trained):
        print(f"note: {note}")


def localize(text):
    """Converts the commands in a message to the commands that work in this installation.

    Messages contain the commands of a clone, such as `python tools/train.py` and `pip install -r
    requirements.txt`. In an installed package, `tf-mural train` replaces the first of these
    commands. In the second command, the names of the packages replace the requirements file.
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
    """Sets the environment variables that TensorFlow reads when it is imported."""
    # TensorFlow's messages at start-up would hide the messages of the command.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    # TensorFlow may disable oneDNN on processors without AVX-512; matmuls then take twice as long.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    # TensorFlow would warn about retracing, because each stage traces new functions.
    logging.set_verbosity(logging.ERROR)


def require(package, requirements, feature):
    """Raises a UserError with the installation command if an optional package is missing."""
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{feature} needs {package}: pip install -r {requirements}")


def set_backend(name=None):
    """Selects the backend of Keras. Call this function before Keras is imported.

    Args:
        name: "tensorflow" or "jax"; None: the value of KERAS_BACKEND, or "tensorflow".

    Raises:
        UserError: the backend is unknown or not installed, or Keras already runs on another
            backend.
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
    """Hides libtpu from JAX on a machine without a TPU, unless JAX_PLATFORMS is set.

    If JAX found libtpu on such a machine, libtpu would search for a TPU and print a stack trace.
    Outside of Google Cloud, libtpu would also try for minutes to reach Google's metadata server.
    With libtpu hidden, JAX continues without a TPU, as if libtpu were not installed.
    """
    if glob.glob("/dev/accel*") or glob.glob("/dev/vfio/*"):
        return
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    if not os.environ.get("JAX_PLATFORMS"):
        sys.modules.setdefault("libtpu", None)


def import_tensorflow(backend=None):
    """Selects the backend of Keras, and imports TensorFlow.

    Both backends need TensorFlow, because tf.data reads the data.

    Args:
        backend: see `set_backend`.

    Raises:
        UserError: see `set_backend`; or TensorFlow cannot be imported.
    """
    set_backend(backend)
    unused = set(_UNUSED_PACKAGES) - {os.environ["KERAS_BACKEND"]}
    # Objects of a process that already uses TensorFlow, such as a notebook, may become garbage.
    is_first = not sys.modules.get("tensorflow")
    collection = rare_garbage_collection() if is_first else contextlib.nullcontext()
    try:
        with quietly(), hidden_packages(unused), collection:
            import tensorflow  # noqa: F401
            import tensorflow_text  # noqa: F401
    except ImportError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"TensorFlow cannot be imported ({reason}): pip install -r requirements.txt ({_DOCTOR})"
        ) from error


@contextlib.contextmanager
def hidden_packages(names):
    """Context manager in which packages cannot be imported, unless they are already imported."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


@contextlib.contextmanager
def rare_garbage_collection():
    """Context manager for imports, without garbage collection; collections are rare afterwards.

    The imports and the traces of a model make millions of objects that live until the process ends.
    With Python's defaults, visiting them again and again takes about two seconds of the start-up.
    All objects that exist after the imports are never visited again, and so never collected.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(_GC_THRESHOLD, *gc.get_threshold()[1:])
        if enabled:
            gc.enable()


@contextlib.contextmanager
def quietly():
    """Context manager that buffers the output on stderr, and prints it only if the body raises.

    C++ libraries print messages before their logging is initialized, and no setting prevents these
    messages.
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
    """Calls `main()`, and then ends this process with an exit code of this table.

    Args:
        main: callable without arguments.
        resilient_stdout: whether `main` continues when stdout cannot be written, see
            `ResilientStdout`.

    | exception of `main` | exit code | printed on stderr |
    |---|---|---|
    | none | 0 | nothing |
    | `UserError` | `exit_code` of the error, or 2 | one line |
    | `StorageError` | 75 if the storage may answer later, otherwise 2 | one line |
    | an exception for which `error_line` returns a line | 2 | one line |
    | `Preempted` | `exit_code` of the exception | one line |
    | KeyboardInterrupt | 130 | "interrupted" |
    | any other exception | 1 | the traceback |

    If the reader of stdout has closed the pipe (`| head`), the exit code is 141 and nothing is
    printed.
    """
    _prepare_environment()
    logging.use_absl_handler()
    # `enable` fails if stderr is closed, or if stderr has no file descriptor (in a notebook).
    with contextlib.suppress(OSError, ValueError, RuntimeError, AttributeError):
        faulthandler.enable()
    if resilient_stdout:
        sys.stdout = ResilientStdout(sys.stdout)
    try:
        main()
    except SystemExit as error:
        code = error.code or 0
        _exit(*("", code) if isinstance(code, int) else (code, 1))
    except (UserError, StorageError) as error:
        _exit(f"error: {with_flags(str(error))}", getattr(error, "exit_code", 2))
    except Preempted as error:
        _exit(str(error), error.exit_code)
    except KeyboardInterrupt:
        _exit("interrupted", 130)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and stdout_is_closed():
            _exit("", _SIGPIPE_EXIT_CODE)
        if line := error_line(error):
            _exit(f"error: {line}", 2)
        _exit(f"{traceback.format_exc().rstrip()}\n({_DOCTOR})", 1)
    _exit("", 0)


def _exit(message, code):
    """Ends the process immediately.

    The normal exit of the interpreter is avoided, because it hangs in rare cases: it waits for
    threads of tf.data that read ahead and call Python.
    """
    write_error = flush(sys.stdout)
    if isinstance(write_error, BrokenPipeError) and not code:
        code = _SIGPIPE_EXIT_CODE
    elif write_error and not code:
        message, code = f"error: the printed output is lost: {write_error.strerror}", 2
    with contextlib.suppress(OSError):
        print(localize(message), file=sys.stderr, end="\n" if message else "")
    flush(sys.stderr)
    os._exit(code)
