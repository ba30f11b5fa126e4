"""What every tool does before and after its work: a quiet start, errors in one line."""

import contextlib
import functools
import glob
import importlib.util
import os
import select
import sys
import tempfile
import traceback

import failures

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:  # So that a clone works without being installed.
    sys.path.insert(0, ROOT)

_DOCTOR = "what this machine lacks: python tools/doctor.py"
try:
    from absl import app, flags, logging

    from tf_mural.errors import UserError, lookup, suggest
    from tf_mural.training.preemption import Stopped
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is not installed: pip install -r requirements.txt")

flags.disclaim_key_flags()  # What is defined here belongs to the tool that asks for it.

_BACKENDS = {name: name for name in ("tensorflow", "jax")}
UNKNOWN = "no part of {!r} is in the vocabulary: what is shown has nothing to do with it"
_NO_READER = 141  # what a shell says of SIGPIPE


def run(main, argument=None):
    """Parses the flags, calls `main()` and exits.

    `argument` names a flag whose value may be given without --name=.

    What the user can mend ends as one line, "error: ...", on stderr with exit code 2, or that which
    the error says, and so does what `failures` knows; an interruption with exit code 130, one that
    a run of training was saved at with that of `Stopped`, anything else as a traceback, under which
    stands what to try. Who no longer reads what is printed (`| head`) ends it without a word, 141.
    """

    def guarded(_):
        try:
            main()
        except UserError as error:
            _end(f"error: {error}", getattr(error, "exit_code", 2))
        except Stopped as stopped:
            _end(str(stopped), stopped.exit_code)
        except KeyboardInterrupt:
            _end("interrupted", 130)
        except Exception as error:
            if isinstance(error, BrokenPipeError) and _nobody_reads():
                _end("", _NO_READER)
            if line := failures.line_of(error):
                _end(f"error: {line}", 2)
            _end(_unforeseen(), 1)
        _end("", 0)

    _prepare()
    app.run(guarded, flags_parser=functools.partial(_parse, argument))


def _unforeseen():
    """The traceback of the exception that is handled, and what to try first."""
    return f"{traceback.format_exc().rstrip()}\n({_DOCTOR})"


def _prepare():
    """What TensorFlow is to find in the environment; it must not be imported yet."""
    # Its notes at its start would bury what a tool says.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    # It may leave oneDNN off on processors without AVX-512, where products take twice as long so.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    # ERROR: each stage of a run traces functions of its own, which TensorFlow would warn of.
    logging.set_verbosity(logging.ERROR)


def require(package, requirements, what):
    """Raises UserError, with the line that installs it, where an optional package is missing."""
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{what} needs {package}: pip install -r {requirements}")


def define_backend():
    """The flag --backend, which `set_backend` obeys."""
    return flags.DEFINE_string(
        "backend",
        "",
        f"What Keras runs on: {' or '.join(_BACKENDS)}. Default: KERAS_BACKEND, else tensorflow.",
    )


def set_backend(name):
    """Makes Keras run on a backend; Keras must not be imported yet.

    Args:
        name: "tensorflow", "jax", or "" for what KERAS_BACKEND says, else TensorFlow.

    Raises:
        UserError: there is no such backend, or its packages are missing.
    """
    name = lookup(_BACKENDS, name or os.environ.get("KERAS_BACKEND") or "tensorflow", "backend")
    os.environ["KERAS_BACKEND"] = name
    if name == "jax":
        if importlib.util.find_spec("jax") is None:
            raise UserError(
                f"--backend=jax needs JAX: pip install -r requirements-jax.txt ({_DOCTOR})"
            )
        # Off Google's machines libtpu would ask their metadata server for minutes.
        if not glob.glob("/dev/accel*") and not glob.glob("/dev/vfio/*"):
            os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")


def import_tensorflow(backend=""):
    """Sets Keras' backend, see `set_backend`, and imports TensorFlow, which reads data on both.

    Raises:
        UserError: it cannot be imported.
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
    """Inside, what is written to stderr waits, and is shown only if there is an error.

    No setting silences the lines that libraries in C++ write before their logging is set up.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as notes:
        os.dup2(notes.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            if failed:
                notes.seek(0)
                sys.stderr.write(notes.read().decode(errors="replace"))


def _parse(argument, argv):
    if {"-h", "-help", "--help"} & set(argv[1:]):
        with contextlib.suppress(BrokenPipeError):
            print(f"{sys.modules['__main__'].__doc__}\n{flags.FLAGS.main_module_help()}")
        _end("", 0)
    try:
        rest = flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        # absl guesses among its own flags too.
        known = [flag.name for flag in flags.FLAGS.get_key_flags_for_module(argv[0])]
        hint = suggest(error.flagname, known)
        _end(f"error: no flag --{error.flagname}{hint} (--help lists the flags)", 2)
    except flags.Error as error:
        _end(f"error: {error} (--help lists the flags)", 2)
    if argument and len(rest) == 2 and not flags.FLAGS[argument].present:
        flags.FLAGS[argument].value = rest.pop()
    if len(rest) > 1:
        _end(f"error: unexpected argument {rest[1]!r}; flags are written --name=value", 2)
    return rest


def _end(message, code):
    """Ends the process at once.

    Threads of tf.data that are still reading ahead call Python; the interpreter's own end stops
    them there, waits for them, and once in a while hangs.
    """
    lost = _unwritten(sys.stdout)
    if isinstance(lost, BrokenPipeError) and not code:
        code = _NO_READER
    elif lost and not code:
        message, code = f"error: what was printed is lost: {lost.strerror}", 2
    with contextlib.suppress(OSError):
        print(message, file=sys.stderr, end="\n" if message else "")
    _unwritten(sys.stderr)
    os._exit(code)


def _unwritten(stream):
    """The OSError for which what was printed cannot be written, or None."""
    try:
        stream.flush()
    except OSError as error:
        return error
    return None


def _nobody_reads():
    """Whether stdout is a pipe whose other end was closed, with or without a buffer to flush."""
    ends = select.poll()
    ends.register(1, 0)
    return any(event & select.POLLERR for _, event in ends.poll(0))


class Lasting:
    """A stdout of which the work does not depend: what it cannot take any more is dropped.

    A run outlives the terminal or the pipe that it was started in, and a disk that it fills.

    Args:
        stream: the text stream itself.
    """

    def __init__(self, stream):
        self._stream = stream

    def write(self, text):
        """Writes, or does nothing; returns the number of characters."""
        try:
            self._stream.write(text)
        except OSError as lost:
            self._go_on_without(lost)
        return len(text)

    def flush(self):
        """Flushes, or from now on drops what is written, and says so on stderr."""
        if lost := _unwritten(self._stream):
            self._go_on_without(lost)

    def _go_on_without(self, lost):
        self._stream = open(os.devnull, "w", encoding="utf-8")
        with contextlib.suppress(OSError):
            print(f"stdout is lost ({lost.strerror}): going on without", file=sys.stderr)

    def __getattr__(self, name):
        return getattr(self._stream, name)
